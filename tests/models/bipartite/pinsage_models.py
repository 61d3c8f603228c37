"""PinSage recommenders that are quick to train, and their tables."""

from __future__ import annotations

from typing import Any

from dagrec.models.bipartite.pinsage import PinSage, PinSageConfig
from dagrec.models.bipartite.tables import Tables
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from tests.worlds import everything

WORLD = everything()
DATA = WORLD.data
IDS, COLUMNS = DATA.vocabulary.ids, DATA.vocabulary.columns
NODES, SERVICES = len(DATA.vocabulary), len(DATA.vocabulary.services)
SMALL: dict[str, Any] = {
    "width": 8,
    "neighbours": 4,
    "epochs": 3,
    "min_steps": 0,
    "learning_rate": 0.02,
}
PATHS = [("table_a",), ("table_a", "extract"), ("table_d", "split", "left"), ("hub_source", "hub")]


def make_pinsage(*, seed: int = 0, **options: Any) -> PinSage:
    model = create("pinsage", {**SMALL, **options}, seed=seed)
    assert isinstance(model, PinSage)
    return model


def make_tables(data: TrainingData = DATA, **options: Any) -> Tables:
    return Tables.of(data, PinSageConfig(**{**SMALL, **options}), 0)
