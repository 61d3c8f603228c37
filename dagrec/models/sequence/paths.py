"""Inputs for networks that read paths from left to right; no state depends on later nodes.

In training, a unit is a whole path: one pass over it computes the states of all its prefixes that are
contexts. For example, 2,333 of the 10,559 distinct contexts of the n8n data are not a prefix of another
context; these are the units.

- :class:`PathForest` is for recurrent networks. A common prefix of several paths is computed once: the
  nodes of a batch form a forest in which the parent of a node is its predecessor on the path.
- :class:`PathRows` is for networks that process a whole path at once (attention, convolution): one
  padded row per path.
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
    """A forest of N nodes in level order: the roots, then their children, and so on.

    nodes: [N] node ids; parents: [N] index of the parent within the previous level (0 for roots);
    levels: number of nodes of each level; ends: [R] index of the last node of each context.
    """

    nodes: Tensor
    parents: Tensor
    levels: tuple[int, ...]
    ends: Tensor


class RowInputs(NamedTuple):
    """Padded rows. nodes: [B, L]; lengths: [B]; rows, positions: [R] of each context's last node."""

    nodes: Tensor
    lengths: Tensor
    rows: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Leaves:
    """The contexts that become units, and the unit that computes each context.

    rows: [n] context of each unit; unit_of: [U] unit of each context.
    """

    contexts: Contexts
    rows: Ids
    unit_of: Ids

    @classmethod
    def of(cls, contexts: Contexts, *, shared: bool) -> Leaves:
        """Return one unit per context; with ``shared``, none for prefixes of other contexts."""
        all_rows = np.arange(len(contexts))
        if not shared:
            return cls(contexts, all_rows, all_rows)
        # In lexicographic order (padding is the smallest id) a path follows its prefixes.
        order = np.lexsort(contexts.nodes.T[::-1])
        nodes, lengths = contexts.nodes[order], contexts.lengths[order]
        inside = np.arange(nodes.shape[1]) < lengths[:-1, None]
        prefix = ((nodes[:-1] == nodes[1:]) | ~inside).all(axis=1)
        leaf = np.append(~prefix, True)
        unit_of = np.empty(len(contexts), dtype=np.int64)
        # A prefix belongs to the next leaf: all contexts between them have the same prefix.
        unit_of[order] = np.cumsum(leaf) - leaf
        return cls(contexts, order[leaf], unit_of)

    @cached_property
    def _by_unit(self) -> tuple[Ids, Ragged]:
        """The contexts sorted by unit, and the range of each unit among them."""
        by_unit = np.argsort(self.unit_of, kind="stable")
        return by_unit, Ragged.of(np.bincount(self.unit_of, minlength=len(self.rows)))

    def contexts_of(self, units: Ids) -> tuple[Ids, Ids]:
        """Return the contexts [R] of these units, and the index in ``units`` of each one's unit [R]."""
        by_unit, ranges = self._by_unit
        indices, unit_indices = ranges.take(units)
        return by_unit[indices], unit_indices


@dataclass(frozen=True)
class PathRows:
    """Units as padded rows."""

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
        context_rows, unit_indices = self.leaves.contexts_of(units)
        inputs = RowInputs(
            torch.from_numpy(contexts.nodes[rows, : int(lengths.max(initial=1))]),
            torch.from_numpy(lengths),
            torch.from_numpy(unit_indices),
            torch.from_numpy(contexts.lengths[context_rows] - 1),
        )
        return inputs, context_rows


@dataclass(frozen=True)
class PathForest:
    """Units as a forest of T nodes, numbered level by level.

    path_nodes: [n, L] numbers of the nodes of each unit's path, -1 after its end; nodes: [T] node ids;
    parents: [T] number of the parent, -1 for roots; levels: [T] depth of each node, 0 for roots.
    """

    leaves: Leaves
    path_nodes: Ids
    nodes: Ids
    parents: Ids
    levels: Ids

    @classmethod
    def of(cls, contexts: Contexts, *, shared: bool) -> PathForest:
        """Return the forest of the contexts; with ``shared``, equal prefixes share their nodes."""
        leaves = Leaves.of(contexts, shared=shared)
        paths, lengths = contexts.nodes[leaves.rows], contexts.lengths[leaves.rows]
        path_nodes = np.full(paths.shape, -1, dtype=np.int64)
        nodes, parents, sizes = [], [], []
        total = 0
        parent = np.arange(len(paths))  # of the next node of each path, within the previous level
        for level in range(int(lengths.max(initial=0))):
            rows = np.flatnonzero(lengths > level)
            # Nodes with the same parent and id are one node. Unshared paths have separate roots.
            codes = parent[rows] * (paths.max(initial=PADDING) + 1) + paths[rows, level]
            if level == 0 and shared:
                codes = paths[rows, 0]
            _, first, index = np.unique(codes, return_index=True, return_inverse=True)
            nodes.append(paths[rows[first], level])
            parents.append(path_nodes[rows[first], level - 1] if level else np.full(len(first), -1))
            path_nodes[rows, level] = total + index
            parent[rows] = index
            total += len(first)
            sizes.append(len(first))
        return cls(
            leaves,
            path_nodes,
            np.concatenate([*nodes, np.zeros(0, dtype=np.int64)]),
            np.concatenate([*parents, np.zeros(0, dtype=np.int64)]),
            np.repeat(np.arange(len(sizes)), sizes),
        )

    @property
    def sizes(self) -> Ids:
        return self.leaves.contexts.lengths[self.leaves.rows]

    def take(self, units: Ids) -> tuple[ForestInputs, Ids]:
        path_nodes = self.path_nodes[units]
        numbers = np.unique(path_nodes[path_nodes >= 0])
        level_sizes = np.bincount(self.levels[numbers])
        starts = np.cumsum(level_sizes) - level_sizes
        previous_level = np.maximum(self.levels[numbers] - 1, 0)
        parents = np.searchsorted(numbers, self.parents[numbers]) - starts[previous_level]
        context_rows, unit_indices = self.leaves.contexts_of(units)
        ends = path_nodes[unit_indices, self.leaves.contexts.lengths[context_rows] - 1]
        inputs = ForestInputs(
            torch.from_numpy(self.nodes[numbers]),
            torch.from_numpy(parents),
            tuple(level_sizes.tolist()),
            torch.from_numpy(np.searchsorted(numbers, ends)),
        )
        return inputs, context_rows
