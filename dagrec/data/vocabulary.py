"""The vocabulary of node keys: id 0 is padding, 1 is unknown, then come services and other nodes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context, Example
from dagrec.types import Ids

PADDING = 0
UNKNOWN = 1
FIRST_SERVICE = 2
"""The node id of service column 0: service column c has the node id c + FIRST_SERVICE."""


@dataclass(frozen=True)
class Contexts:
    """Encoded contexts, the only input of a recommender's ``score``.

    nodes: [B, L] node ids, right-padded with 0; lengths: [B]; origins: the contexts themselves, for
    recommenders that use the upstream DAG, the owner or the time.
    """

    nodes: Ids
    lengths: Ids
    origins: tuple[Context, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def last(self) -> Ids:
        """[B] node ids of the frontiers; 0 for an empty context."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        rows = np.arange(len(self))
        return np.where(self.lengths > 0, self.nodes[rows, np.maximum(self.lengths - 1, 0)], PADDING)

    def take(self, rows: Ids) -> Contexts:
        """The contexts of these rows, with the least possible padding."""
        lengths = self.lengths[rows]
        longest = max(int(lengths.max(initial=0)), 1)
        origins = tuple(self.origins[int(row)] for row in rows)
        return Contexts(self.nodes[rows, :longest], lengths, origins)


@dataclass(frozen=True)
class Vocabulary:
    """The node keys of the training examples. Recommenders predict its services."""

    services: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, examples: Iterable[Example], services: Iterable[str] = ()) -> Vocabulary:
        """The sorted keys of the contexts and targets of these examples.

        ``services`` are included even if no example has them.
        """
        services = set(services)
        keys: set[str] = set()
        for example in examples:
            composition = example.context.composition
            services.add(example.target)
            keys.update(example.context.path)
            if composition is not None:
                services.update(k for k in example.context.path if k in composition.service_keys)
        return cls(tuple(sorted(services)), tuple(sorted(keys - services)))

    def __len__(self) -> int:
        """The number of node ids, including padding and unknown."""
        return FIRST_SERVICE + len(self.services) + len(self.others)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Node key -> node id."""
        return {key: i for i, key in enumerate((*self.services, *self.others), start=FIRST_SERVICE)}

    @cached_property
    def columns(self) -> dict[str, int]:
        """Service key -> column of the scores."""
        return {key: column for column, key in enumerate(self.services)}

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 over all keys."""
        return hashlib.sha256(json.dumps([self.services, self.others]).encode()).hexdigest()

    def encode(self, contexts: Sequence[Context]) -> Contexts:
        """Encode contexts as node ids. Unknown keys become 1."""
        rows = [
            [self.ids.get(key, UNKNOWN) for key in context.path[-MAX_CONTEXT_LENGTH:]]
            for context in contexts
        ]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        nodes = np.zeros((len(rows), max(int(lengths.max(initial=0)), 1)), dtype=np.int64)
        for i, row in enumerate(rows):
            nodes[i, : len(row)] = row
        return Contexts(nodes, lengths, tuple(contexts))
