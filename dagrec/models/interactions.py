"""Contexts as sets of nodes: what recommenders of interactions read, in which a context plays the user.

A set knows no order. The one thing of the order that these recommenders get, where their form has room
for it, is which node is the last (the frontier): ``last = true``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.vocabulary import FIRST, UNKNOWN, Contexts, Vocabulary
from dagrec.graph.upstream import Upstream
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options, Ragged

Read = Literal["path", "upstream"]
ROWS_PER_PASS = 1024
"""Rows that are dense at a time; a bound on memory."""


class SetOptions(Options):
    """Which set of nodes a context is, and whether its last node is told apart."""

    read: Read = Field(
        "upstream", description="upstream: the frontier and all its ancestors; path: the path to it"
    )
    last: bool = Field(
        True, description="tell the last node apart from the others; false: the order is not seen"
    )


def keys_of(context: Context, read: Read) -> tuple[str, ...]:
    """The keys that a context is the set of, the frontier's last."""
    return Upstream.of(context).keys if read == "upstream" else context.path[-MAX_CONTEXT_LENGTH:]


def set_key(context: Context, read: Read) -> Hashable:
    """Equal for contexts with the same set and the same last node."""
    keys = keys_of(context, read)
    return frozenset(keys), keys[-1]


@dataclass(frozen=True)
class Sets:
    """B sets of known nodes, each node once.

    rows: the stretch of ``nodes`` that is each set's; nodes: ids, ascending in a set; last: [B] id of
    the frontier, 1 where it is unknown.
    """

    rows: Ragged
    nodes: Ids
    last: Ids

    @classmethod
    def of(cls, contexts: Contexts, vocabulary: Vocabulary, read: Read) -> Sets:
        ids = vocabulary.ids
        found = [
            sorted({ids[key] for key in keys_of(context, read) if key in ids})
            for context in contexts.origins
        ]
        nodes = np.array([node for own in found for node in own], dtype=np.int64)
        return cls(Ragged.of([len(own) for own in found]), nodes, contexts.last)

    def __len__(self) -> int:
        return len(self.last)

    def multi_hot(self, vocabulary: Vocabulary, *, last: bool) -> Floats:
        """[B, V] with 1 at each node of the set; with ``last`` [B, 2 V], with 1 at V + the last node.

        V node ids, padding and unknown included; these stay 0.
        """
        nodes = len(vocabulary)
        found = np.zeros((len(self), nodes * (1 + last)))
        found[np.repeat(np.arange(len(self)), self.rows.lengths), self.nodes] = 1
        if last:
            known = np.flatnonzero(self.last > UNKNOWN)
            found[known, nodes + self.last[known]] = 1
        return found


@dataclass(frozen=True)
class Interactions:
    """Distinct sets with how often each occurs: the rows of an interaction matrix.

    rows: the stretch of ``items`` that is each row's; items: columns, ascending in a row, of ``size``
    in all: node ids, and behind them, where the last node is told apart, V + its id; weights: [U].
    """

    rows: Ragged
    items: Ids
    weights: Floats
    size: int

    @classmethod
    def of_examples(cls, data: TrainingData, options: SetOptions) -> Interactions:
        """A row an example: its context, its last node if ``options.last``, and its target."""
        ids, nodes = data.vocabulary.ids, len(data.vocabulary)
        counts: dict[tuple[int, ...], float] = defaultdict(float)
        for example, column in zip(data.examples, data.targets.tolist(), strict=True):
            keys = keys_of(example.context, options.read)
            own = {ids[key] for key in keys if key in ids} | {column + FIRST}
            if options.last:
                own.add(nodes + ids[keys[-1]])
            counts[tuple(sorted(own))] += 1
        return cls._of(counts, nodes * (1 + options.last))

    @classmethod
    def of_compositions(cls, data: TrainingData) -> Interactions:
        """A row a training composition: the nodes that its examples show, targets included.

        Sets that several compositions share are one row with their number as its weight.
        """
        ids, columns = data.vocabulary.ids, data.vocabulary.columns
        nodes: dict[int, set[int]] = defaultdict(set)
        for composition, context, target in (
            (e.composition, e.context, e.target) for e in data.examples
        ):
            nodes[composition].update(ids[key] for key in context.path)
            nodes[composition].add(columns[target] + FIRST)
        counts: dict[tuple[int, ...], float] = defaultdict(float)
        for own in nodes.values():
            counts[tuple(sorted(own))] += 1
        return cls._of(counts, len(data.vocabulary))

    @classmethod
    def _of(cls, counts: dict[tuple[int, ...], float], size: int) -> Interactions:
        items = np.array([item for row in counts for item in row], dtype=np.int64)
        weights = np.array(list(counts.values()), dtype=np.float64)
        return cls(Ragged.of([len(row) for row in counts]), items, weights, size)

    def __len__(self) -> int:
        return len(self.weights)

    def fits(self) -> bool:
        """Whether its arrays belong together: rows, columns within ``size``, and weights above 0."""
        return (
            self.items.shape == (int(self.rows.starts[-1]),)
            and len(self.rows.lengths) == len(self)
            and bool((self.rows.lengths > 0).all())
            and bool(((self.items >= FIRST) & (self.items < self.size)).all())
            and bool((np.isfinite(self.weights) & (self.weights > 0)).all())
        )

    @property
    def users(self) -> Ids:
        """[m] row of each entry of ``items``."""
        return np.repeat(np.arange(len(self)), self.rows.lengths)

    def dense(self) -> Floats:
        """[U, size] of 0 and 1."""
        found = np.zeros((len(self), self.size))
        found[self.users, self.items] = 1
        return found

    def gram(self) -> Floats:
        """[size, size], the weight of the rows that hold both columns: X^T diag(weights) X."""
        found = np.zeros((self.size, self.size))
        for start in range(0, len(self), ROWS_PER_PASS):
            rows = np.arange(start, min(start + ROWS_PER_PASS, len(self)))
            places, owners = self.rows.take(rows)
            x = np.zeros((len(rows), self.size))
            x[owners, self.items[places]] = 1
            found += x.T @ (x * self.weights[rows, None])
        return found
