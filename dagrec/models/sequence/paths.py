"""Paths laid out for networks that read them in order: no context's state sees what comes after it.

In training a unit is a whole path: one pass over it answers every prefix of it that is a context. Of
10,559 distinct contexts of n8n 2,333 are no prefix of another; these are the units.

- :class:`PathForest` for recurrent networks. Paths that begin alike are computed once as far as they
  do: the nodes of a batch form a forest, where the parent of a node is the one before it on the path.
- :class:`PathRows` for networks that look at a whole path at once (attention, convolution): one padded
  row a path.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dagrec.data.vocabulary import PADDING, Contexts
from dagrec.types import Ids, Ragged


class ForestInputs(NamedTuple):
    """N nodes, the roots first, then their children, and so on.

    nodes: [N] node ids; parents: [N] place of the node before, within the level above (0 for roots);
    levels: nodes of each level; answered: [R] places of the nodes at which the contexts end.
    """

    nodes: Tensor
    parents: Tensor
    levels: tuple[int, ...]
    answered: Tensor


class RowInputs(NamedTuple):
    """nodes: [B, L] right-padded; lengths: [B]; rows, places: [R], where each context ends."""

    nodes: Tensor
    lengths: Tensor
    rows: Tensor
    places: Tensor


@dataclass(frozen=True)
class Leaves:
    """Which contexts are computed, and which of these answers each context.

    rows: [n] contexts that are no prefix of another, one for each unit; owner: [U] unit that answers
    each context.
    """

    contexts: Contexts
    rows: Ids
    owner: Ids

    @classmethod
    def of(cls, contexts: Contexts, *, shared: bool) -> Leaves:
        """``shared``: prefixes of other contexts have no unit of their own."""
        everyone = np.arange(len(contexts))
        if not shared:
            return cls(contexts, everyone, everyone)
        # In lexicographic order (padding is the least id) a prefix stands before what it begins.
        order = np.lexsort(contexts.nodes.T[::-1])
        nodes, lengths = contexts.nodes[order], contexts.lengths[order]
        inside = np.arange(nodes.shape[1]) < lengths[:-1, None]
        prefix = ((nodes[:-1] == nodes[1:]) | ~inside).all(axis=1)
        leaf = np.append(~prefix, True)
        owner = np.empty(len(contexts), dtype=np.int64)
        # A prefix belongs to the next leaf: what stands between them begins with it too.
        owner[order] = np.cumsum(leaf) - leaf
        return cls(contexts, order[leaf], owner)

    @cached_property
    def _answered(self) -> tuple[Ids, Ragged]:
        """The contexts by unit, and which stretch of them is each unit's."""
        by_unit = np.argsort(self.owner, kind="stable")
        return by_unit, Ragged.of(np.bincount(self.owner, minlength=len(self.rows)))

    def answered(self, units: Ids) -> tuple[Ids, Ids]:
        """The contexts that these units answer, and which of ``units`` answers each. [R], [R]"""
        by_unit, rows = self._answered
        places, which = rows.take(units)
        return by_unit[places], which


@dataclass(frozen=True)
class PathRows:
    """One padded row a unit."""

    leaves: Leaves

    @classmethod
    def of(cls, contexts: Contexts, *, shared: bool) -> PathRows:
        return cls(Leaves.of(contexts, shared=shared))

    @property
    def sizes(self) -> Ids:
        return self.leaves.contexts.lengths[self.leaves.rows]

    def take(self, units: Ids) -> tuple[RowInputs, Ids]:
        contexts = self.leaves.contexts
        rows = self.leaves.rows[units]
        lengths = contexts.lengths[rows]
        answered, which = self.leaves.answered(units)
        inputs = RowInputs(
            torch.from_numpy(contexts.nodes[rows, : int(lengths.max(initial=1))]),
            torch.from_numpy(lengths),
            torch.from_numpy(which),
            torch.from_numpy(contexts.lengths[answered] - 1),
        )
        return inputs, answered


@dataclass(frozen=True)
class PathForest:
    """The nodes of all units, numbered level by level.

    places: [n, L] number of each node of each unit's path, -1 behind its end; nodes: [T] node ids;
    parents: [T] number of the node before, -1 for roots; levels: [T] how many nodes stand before it.
    """

    leaves: Leaves
    places: Ids
    nodes: Ids
    parents: Ids
    levels: Ids

    @classmethod
    def of(cls, contexts: Contexts, *, shared: bool) -> PathForest:
        """``shared``: equal beginnings of different paths are one node each."""
        leaves = Leaves.of(contexts, shared=shared)
        paths, lengths = contexts.nodes[leaves.rows], contexts.lengths[leaves.rows]
        places = np.full(paths.shape, -1, dtype=np.int64)
        nodes, parents, sizes = [], [], []
        total = 0
        before = np.arange(len(paths))
        for level in range(int(lengths.max(initial=0))):
            rows = np.flatnonzero(lengths > level)
            # Nodes with the same parent and the same id are the same node where these are shared.
            codes = before[rows] * (paths.max(initial=PADDING) + 1) + paths[rows, level]
            if level == 0 and shared:
                codes = paths[rows, 0]
            _, first, own = np.unique(codes, return_index=True, return_inverse=True)
            nodes.append(paths[rows[first], level])
            parents.append(places[rows[first], level - 1] if level else np.full(len(first), -1))
            places[rows, level] = total + own
            before[rows] = own
            total += len(first)
            sizes.append(len(first))
        return cls(
            leaves,
            places,
            np.concatenate([*nodes, np.zeros(0, dtype=np.int64)]),
            np.concatenate([*parents, np.zeros(0, dtype=np.int64)]),
            np.repeat(np.arange(len(sizes)), sizes),
        )

    @property
    def sizes(self) -> Ids:
        return self.leaves.contexts.lengths[self.leaves.rows]

    def take(self, units: Ids) -> tuple[ForestInputs, Ids]:
        places = self.places[units]
        kept = np.unique(places[places >= 0])
        levels = np.bincount(self.levels[kept])
        starts = np.cumsum(levels) - levels
        above = np.maximum(self.levels[kept] - 1, 0)
        parents = np.searchsorted(kept, self.parents[kept]) - starts[above]
        answered, which = self.leaves.answered(units)
        ends = places[which, self.leaves.contexts.lengths[answered] - 1]
        inputs = ForestInputs(
            torch.from_numpy(self.nodes[kept]),
            torch.from_numpy(parents),
            tuple(levels.tolist()),
            torch.from_numpy(np.searchsorted(kept, ends)),
        )
        return inputs, answered
