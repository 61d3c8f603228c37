"""A bundle of every recommender, trained on a small data set, a part of it, and stores of both."""

from __future__ import annotations

from dataclasses import replace
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

SMALL = ("markov", "gru4rec", "auto")
"""One recommender that counts, one network, and one that contains others."""


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


def part_of(bundle: Bundle, *labels: str) -> Bundle:
    """Return a bundle of some models of another one; the first is the champion."""
    entries = {label: bundle.manifest.models[label] for label in labels}
    manifest = bundle.manifest.model_copy(update={"models": entries, "champion": labels[0]})
    return replace(bundle, manifest=manifest, models={label: bundle.models[label] for label in labels})


@pytest.fixture(scope="session")
def small(trained: Bundle) -> Bundle:
    """A bundle of the recommenders ``SMALL``, which saves time: all are stored in the same way."""
    return part_of(trained, *SMALL)


@pytest.fixture
def store(tmp_path: Path, small: Bundle) -> Store:
    """A store in which ``small`` is published."""
    store = Store(tmp_path / "store")
    store.publish(small)
    return store


@pytest.fixture
def folder(store: Store) -> Path:
    """The folder of the published bundle."""
    return store.bundles / store.current()


@pytest.fixture(scope="session")
def full_store(tmp_path_factory: pytest.TempPathFactory, trained: Bundle) -> Store:
    """A store in which ``trained`` is published; tests must not change it."""
    store = Store(tmp_path_factory.mktemp("full") / "store")
    store.publish(trained)
    return store
