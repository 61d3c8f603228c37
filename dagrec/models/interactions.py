"""Contexts as sets of nodes, for recommenders that learn from an interaction matrix.

A context takes the role of the user, and its nodes are the items. A set has no order. The only order
information that these recommenders use is which node is the last (the frontier), with ``last = true``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.vocabulary import FIRST_SERVICE, UNKNOWN, Contexts, Vocabulary
from dagrec.graph.upstream import Upstream
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options, Ragged

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Read = Literal["path", "upstream"]
ROWS_PER_PASS = 1024
"""Number of rows that are dense at a time; it bounds memory."""


class SetOptions(Options):
    """Which nodes of a context are used, and whether the last one is marked."""

    read: Read = Field(
        "upstream",
        description="which nodes are used; upstream: the frontier and all its ancestors; path: only "
        "the path to the frontier",
    )
    last: bool = Field(
        True, description="distinguish the last node from the others; false: the order is not used"
    )


def context_keys(context: Context, read: Read) -> tuple[str, ...]:
    """Return the keys of the nodes that are used; the last one is the frontier's."""
    return Upstream.of(context).keys if read == "upstream" else context.path[-MAX_CONTEXT_LENGTH:]


def set_key(context: Context, read: Read) -> Hashable:
    """Return a value that is equal for contexts with the same set and the same last node."""
    keys = context_keys(context, read)
    return frozenset(keys), keys[-1]


@dataclass(frozen=True)
class Sets:
    """B sets of known nodes, without duplicates.

    rows: slices of ``nodes``, one per set; nodes: node ids, ascending in each set; last: [B] node id of
    the frontier, 1 if it is unknown.
    """

    rows: Ragged
    nodes: Ids
    last: Ids

    @classmethod
    def of(cls, contexts: Contexts, vocabulary: Vocabulary, read: Read) -> Sets:
        """Return the sets of B contexts."""
        ids = vocabulary.ids
        sets = [
            sorted({ids[key] for key in context_keys(context, read) if key in ids})
            for context in contexts.origins
        ]
        nodes = np.array([node for set_ in sets for node in set_], dtype=np.int64)
        return cls(Ragged.of([len(set_) for set_ in sets]), nodes, contexts.last)

    def __len__(self) -> int:
        return len(self.last)

    def multi_hot(self, vocabulary: Vocabulary, *, last: bool) -> Floats:
        """Return the indicators of the sets: [B, V] with 1 for each node of the set.

        With ``last`` the shape is [B, 2 V], and column V + i is 1 if node i is the last. V includes
        padding and the unknown node, whose columns are 0.
        """
        nodes = len(vocabulary)
        indicators = np.zeros((len(self), nodes * (1 + last)))
        indicators[np.repeat(np.arange(len(self)), self.rows.lengths), self.nodes] = 1
        if last:
            known = np.flatnonzero(self.last > UNKNOWN)
            indicators[known, nodes + self.last[known]] = 1
        return indicators


@dataclass(frozen=True)
class Interactions:
    """U distinct sets with the number of their occurrences: the rows of an interaction matrix.

    rows: slices of ``items``, one per row; items: column numbers, ascending in each row; weights: [U];
    size: number of columns. A column is a node id or, if the last node is marked, V + the id of the
    last node.
    """

    rows: Ragged
    items: Ids
    weights: Floats
    size: int

    @classmethod
    def of_examples(cls, data: TrainingData, options: SetOptions) -> Interactions:
        """Return one row per example: its context, with ``last`` the mark of its last node, its target.

        Equal rows are merged.
        """
        ids, nodes = data.vocabulary.ids, len(data.vocabulary)
        counts: dict[tuple[int, ...], float] = defaultdict(float)
        for example, column in zip(data.examples, data.targets.tolist(), strict=True):
            keys = context_keys(example.context, options.read)
            items = {ids[key] for key in keys if key in ids} | {column + FIRST_SERVICE}
            if options.last:
                items.add(nodes + ids[keys[-1]])
            counts[tuple(sorted(items))] += 1
        return cls._of(counts, nodes * (1 + options.last))

    @classmethod
    def of_compositions(cls, data: TrainingData) -> Interactions:
        """Return one row per training composition: the nodes in its examples, including targets.

        Equal rows are merged.
        """
        ids, columns = data.vocabulary.ids, data.vocabulary.columns
        nodes: dict[int, set[int]] = defaultdict(set)
        for composition, context, target in (
            (e.composition, e.context, e.target) for e in data.examples
        ):
            nodes[composition].update(ids[key] for key in context.path)
            nodes[composition].add(columns[target] + FIRST_SERVICE)
        counts: dict[tuple[int, ...], float] = defaultdict(float)
        for items in nodes.values():
            counts[tuple(sorted(items))] += 1
        return cls._of(counts, len(data.vocabulary))

    @classmethod
    def _of(cls, counts: dict[tuple[int, ...], float], size: int) -> Interactions:
        items = np.array([item for row in counts for item in row], dtype=np.int64)
        weights = np.array(list(counts.values()), dtype=np.float64)
        return cls(Ragged.of([len(row) for row in counts]), items, weights, size)

    def __len__(self) -> int:
        return len(self.weights)

    def is_valid(self) -> bool:
        """Return whether the shapes fit, columns are below ``size`` and weights are positive."""
        return (
            self.items.shape == (int(self.rows.starts[-1]),)
            and len(self.rows.lengths) == len(self)
            and bool((self.rows.lengths > 0).all())
            and bool(((self.items >= FIRST_SERVICE) & (self.items < self.size)).all())
            and bool((np.isfinite(self.weights) & (self.weights > 0)).all())
        )

    @property
    def users(self) -> Ids:
        """Row number of each entry of ``items``."""
        return np.repeat(np.arange(len(self)), self.rows.lengths)

    def matrix(self) -> csr_array:
        """Return the sparse binary matrix X [U, size], without weights."""
        from scipy.sparse import csr_array

        shape = (len(self), self.size)
        return csr_array((np.ones(len(self.items)), self.items, self.rows.starts), shape)

    def totals(self) -> Floats:
        """Return the total weight [size] of the rows with each item: X^T weights."""
        totals: Floats = self.weights @ self.matrix()
        return totals

    def gram(self) -> Floats:
        """Return the total weight [size, size] of the rows with both items: X^T diag(weights) X."""
        x = self.matrix()
        gram: Floats = (x.T @ (x * self.weights[:, None])).toarray()
        return gram
