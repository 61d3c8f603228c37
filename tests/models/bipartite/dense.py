"""A small bipartite graph, and what networks compute over it, in matrices of a row a composition."""

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
"""Compositions as sets of node ids; the first of them three times."""
NODES = 9
"""Ids 0 and 1 are padding and unknown; 7 is in no composition."""
SERVICES = 6
"""Ids 2 .. 7; 8 is a table."""
STILL = {"dropout": 0.0, "width": 8, "l2": 0.0}


def interactions(sets: Sequence[tuple[int, ...]] = SETS, *, merged: bool = True) -> Interactions:
    """With equal sets merged, as they are stored, or a row each."""
    counts = list(Counter(sets).items()) if merged else [(own, 1) for own in sets]
    return Interactions(
        Ragged.of([len(own) for own, _ in counts]),
        np.array([item for own, _ in counts for item in own], dtype=np.int64),
        np.array([count for _, count in counts], dtype=np.float64),
        NODES,
    )


def network(
    class_: type[N], config: BipartiteOptions, rows: Interactions | None = None, *, seed: int = 0
) -> N:
    """A network in double precision with first weights that do not depend on the graph."""
    torch.manual_seed(seed)
    return class_(config, interactions() if rows is None else rows, SERVICES).double().eval()


def inputs(*sets: Sequence[int]) -> SetInputs:
    """Contexts that are these sets; the last of each is the frontier."""
    return SetInputs(
        torch.tensor([node for own in sets for node in own]),
        torch.tensor([row for row, own in enumerate(sets) for _ in own]),
        torch.tensor([len(own) for own in sets]),
        torch.tensor([own[-1] for own in sets]),
    )


def adjacency(sets: Sequence[tuple[int, ...]] = SETS, *, loops: bool = False) -> Floats:
    """[V + U, V + U], D^-1/2 (A + I) D^-1/2, or without I; isolated rows are 0 then."""
    found = np.zeros((NODES + len(sets), NODES + len(sets)))
    for user, own in enumerate(sets):
        for item in own:
            found[item, NODES + user] = found[NODES + user, item] = 1
    found += np.eye(len(found)) * loops
    degrees = np.maximum(found.sum(axis=1), 1)
    return np.asarray(found / np.sqrt(degrees[:, None] * degrees))


def ego(items: Floats, sets: Sequence[tuple[int, ...]] = SETS) -> Floats:
    """[V + U, D], vectors of the items, then the means of these."""
    return np.concatenate([items, [items[list(own)].mean(axis=0) for own in sets]])


def numbers(tensor: Tensor) -> Floats:
    return np.asarray(tensor.detach().numpy())


def matrix(found: BipartiteNetwork) -> Floats:
    """[V + U, V + U], what the network hears with."""
    links, size = found.links(), found.graph.nodes + len(found.graph.weights)
    return numbers(links.hear(torch.eye(size, dtype=torch.float64)))
