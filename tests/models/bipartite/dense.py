"""A small bipartite graph, and dense reference computations with one row per composition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dagrec.models.bipartite.graph import BipartiteNetwork, BipartiteOptions
from dagrec.models.factorisation.base import SetInputs
from dagrec.models.interactions import Interactions
from dagrec.types import Floats, Ragged

N = TypeVar("N", bound=BipartiteNetwork)
SETS = ((2, 3), (2, 3), (2, 3, 4), (4, 5), (2, 3), (2, 5, 6, 8))
"""Compositions as sets of node ids; the first set occurs three times."""
NODES = 9
"""Ids 0 and 1 are padding and unknown; 7 is in no composition."""
SERVICES = 6
"""Ids 2 .. 7; 8 is a table."""
DETERMINISTIC = {"dropout": 0.0, "width": 8, "l2": 0.0}
"""Options of a small network without dropout and regularisation."""


def interactions(sets: Sequence[tuple[int, ...]] = SETS, *, merged: bool = True) -> Interactions:
    """Return the interactions of these sets, with or without merging equal sets into one row."""
    counts = list(Counter(sets).items()) if merged else [(items, 1) for items in sets]
    return Interactions(
        Ragged.of([len(items) for items, _ in counts]),
        np.array([item for items, _ in counts for item in items], dtype=np.int64),
        np.array([count for _, count in counts], dtype=np.float64),
        NODES,
    )


def network(
    class_: type[N], config: BipartiteOptions, rows: Interactions | None = None, *, seed: int = 0
) -> N:
    """Return a network in double precision; its initial weights do not depend on the graph."""
    torch.manual_seed(seed)
    return class_(config, interactions() if rows is None else rows, SERVICES).double().eval()


def inputs(*sets: Sequence[int]) -> SetInputs:
    """Return these sets as network inputs; the last node of each is the frontier."""
    return SetInputs(
        torch.tensor([node for items in sets for node in items]),
        torch.tensor([row for row, items in enumerate(sets) for _ in items]),
        torch.tensor([len(items) for items in sets]),
        torch.tensor([items[-1] for items in sets]),
    )


def adjacency(sets: Sequence[tuple[int, ...]] = SETS, *, self_loops: bool = False) -> Floats:
    """Return D^-1/2 (A + I) D^-1/2, or without I [V + U, V + U]; rows of isolated nodes are 0."""
    a = np.zeros((NODES + len(sets), NODES + len(sets)))
    for user, items in enumerate(sets):
        for item in items:
            a[item, NODES + user] = a[NODES + user, item] = 1
    a += np.eye(len(a)) * self_loops
    degrees = np.maximum(a.sum(axis=1), 1)
    return np.asarray(a / np.sqrt(degrees[:, None] * degrees))


def ego_layer(items: Floats, sets: Sequence[tuple[int, ...]] = SETS) -> Floats:
    """Return the vectors of items and, for each set, the mean of its items [V + U, D]."""
    return np.concatenate([items, [items[list(set_)].mean(axis=0) for set_ in sets]])


def to_numpy(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().numpy())


def adjacency_of(net: BipartiteNetwork) -> Floats:
    """Return the adjacency matrix of a network [V + U, V + U]."""
    size = net.graph.nodes + len(net.graph.weights)
    return to_numpy(net.adjacency().aggregate(torch.eye(size, dtype=torch.float64)))
