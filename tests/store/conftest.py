"""A bundle of every recommender, trained on a small data set, and stores that contain it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagrec.data.examples import extract
from dagrec.data.formats import read_composition
from dagrec.data.synthetic import World, WorldOptions
from dagrec.graph.evidence import Evidence
from dagrec.jobs.config import load_config
from dagrec.models.fitted import Fitted
from dagrec.models.registry import MODELS
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from dagrec.training.data import TrainingData
from tests.contract.recommenders import quick_options


@pytest.fixture(scope="session")
def training() -> TrainingData:
    """Sixty synthetic compositions and one declared link."""
    world = World(WorldOptions(compositions=60))
    examples, _ = extract([read_composition(document) for document in world.draw()])
    return TrainingData.of(examples, catalogue=[(examples[0].context.path[-1], examples[0].target)])


@pytest.fixture(scope="session")
def trained(training: TrainingData) -> Bundle:
    """A bundle of every recommender, trained for one epoch."""
    config = load_config(changes={"models": {name: quick_options(name, 1) for name in MODELS}})
    graph = training.graph
    return Bundle.of(
        {name: Fitted(config.recommender(name).fit(training), graph) for name in MODELS},
        Evidence.of(training.examples, training.vocabulary),
        champion="markov",
        data={"path": "synthetic", "examples": len(training.examples)},
        config=config.model_dump(mode="json"),
    )


@pytest.fixture
def store(tmp_path: Path, trained: Bundle) -> Store:
    """A store with one published bundle."""
    store = Store(tmp_path / "store")
    store.publish(trained)
    return store


@pytest.fixture
def folder(store: Store) -> Path:
    """The folder of the published bundle."""
    return store.bundles / store.current()
