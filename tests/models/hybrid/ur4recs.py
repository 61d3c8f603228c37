"""A small UR4Rec, and a world in which the keys describe the services."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dagrec.models.hybrid.ur4rec import UR4Rec, UR4RecNetwork
from dagrec.models.registry import create
from dagrec.models.sequence.paths import RowInputs
from dagrec.training.data import TrainingData
from tests.worlds import World, composition, everything

SMALL = {"width": 16, "batch_size": 16, "learning_rate": 0.01, "schedule": "constant", "layers": 1}
WORLD = everything()


def new(seed: int = 0, **options: Any) -> UR4Rec:
    model = create("ur4rec", {**SMALL, **options}, seed=seed)
    assert isinstance(model, UR4Rec)
    return model


def untrained(data: TrainingData, seed: int = 0, **options: Any) -> UR4RecNetwork:
    """Return the network with its initial weights."""
    model = new(seed, **options)
    model._graph = data.graph
    torch.manual_seed(seed)
    return model.build(data.vocabulary, data)


def pair_inputs(
    network: UR4RecNetwork, data: TrainingData
) -> tuple[RowInputs, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the inputs, the states, and the rows and columns of the pairs of the data."""
    inputs, context_rows = (
        new().units(data.contexts, training=False).take(np.arange(len(data.contexts)))
    )
    assert context_rows.tolist() == list(range(len(context_rows)))
    rows, columns, _ = data.pairs
    return inputs, network.states(inputs), torch.from_numpy(rows), torch.from_numpy(columns)


DRAWN, READ = ("draw_lines", "draw_bars", "draw_points"), ("read_csv", "read_json", "read_excel")
COLD = {"draw_heatmap": "", "read_parquet": ""}


def draw_and_read() -> World:
    """Return a world in which drawing services follow one table and reading services the other."""
    paths = [("table_a", key) for key in DRAWN] + [("table_b", key) for key in READ]
    follows: dict[tuple[str, ...], dict[str, int]] = {
        (table,): dict.fromkeys(keys, 3) for table, keys in [("table_a", DRAWN), ("table_b", READ)]
    }
    return World(
        tuple(composition(f"{path[1]}-{i}", path) for i in range(3) for path in paths), follows
    )
