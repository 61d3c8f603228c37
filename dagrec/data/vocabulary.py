"""Keys to numbers and back: 0 is padding, 1 is unknown, then the services, then the other nodes."""

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
"""Node id of service column 0: the node id of service column c is c + FIRST_SERVICE."""


@dataclass(frozen=True)
class Contexts:
    """Encoded contexts, the only input of a recommender's ``score``.

    nodes: [B, L] node ids, right-padded with 0; lengths: [B]; origins: the contexts they stand for,
    for recommenders that want the upstream DAG, the owner or the time.
    """

    nodes: Ids
    lengths: Ids
    origins: tuple[Context, ...]

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def last(self) -> Ids:
        """[B] node id of each context's frontier; 0 for an empty context."""
        if not len(self):
            return np.zeros(0, dtype=np.int64)
        rows = np.arange(len(self))
        return np.where(self.lengths > 0, self.nodes[rows, np.maximum(self.lengths - 1, 0)], PADDING)

    def take(self, rows: Ids) -> Contexts:
        """The contexts of these rows, with no more padding than they need."""
        lengths = self.lengths[rows]
        longest = max(int(lengths.max(initial=0)), 1)
        origins = tuple(self.origins[int(row)] for row in rows)
        return Contexts(self.nodes[rows, :longest], lengths, origins)


@dataclass(frozen=True)
class Vocabulary:
    """The node keys of the training examples; the services are the candidates of every answer."""

    services: tuple[str, ...]
    others: tuple[str, ...]

    @classmethod
    def of(cls, examples: Iterable[Example], services: Iterable[str] = ()) -> Vocabulary:
        """The vocabulary of these examples: keys of their contexts and targets, sorted.

        ``services`` are known to exist though no example may show them.
        """
        services = set(services)
        keys: set[str] = set()
        for example in examples:
            source = example.context.composition
            services.add(example.target)
            keys.update(example.context.path)
            if source is not None:
                services.update(k for k in example.context.path if k in source.service_keys)
        return cls(tuple(sorted(services)), tuple(sorted(keys - services)))

    def __len__(self) -> int:
        """Number of node ids, padding and unknown included."""
        return FIRST_SERVICE + len(self.services) + len(self.others)

    @cached_property
    def ids(self) -> dict[str, int]:
        return {key: i for i, key in enumerate((*self.services, *self.others), start=FIRST_SERVICE)}

    @cached_property
    def columns(self) -> dict[str, int]:
        """Service key -> column of the scores."""
        return {key: column for column, key in enumerate(self.services)}

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self.services, self.others]).encode()).hexdigest()

    def encode(self, contexts: Sequence[Context]) -> Contexts:
        """Node ids of the contexts; keys that are not known become 1 and keep their place."""
        rows = [
            [self.ids.get(key, UNKNOWN) for key in context.path[-MAX_CONTEXT_LENGTH:]]
            for context in contexts
        ]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        nodes = np.zeros((len(rows), max(int(lengths.max(initial=0)), 1)), dtype=np.int64)
        for i, row in enumerate(rows):
            nodes[i, : len(row)] = row
        return Contexts(nodes, lengths, tuple(contexts))
