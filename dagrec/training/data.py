"""What a recommender may learn from: one training part, and everything derived from it alone."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from dagrec.data.examples import Context, Example
from dagrec.data.history import Histories
from dagrec.data.splits import hold_out
from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.errors import DataError
from dagrec.graph.service_graph import ServiceGraph
from dagrec.types import Floats, Ids, Ragged


@dataclass(frozen=True)
class Grouped:
    """Distinct contexts, and how often each service followed each, in compressed rows.

    contexts: U of them; starts: [U + 1]; columns, counts: [pairs], by context and column.
    """

    contexts: Contexts
    starts: Ids
    columns: Ids
    counts: Floats

    def pairs_of(self, rows: Ids) -> tuple[Ids, Ids]:
        """The pairs of the contexts ``rows``: which of these each is of, and its number. [P], [P]"""
        places, owner = Ragged(self.starts).take(rows)
        return owner, places


@dataclass(frozen=True)
class TrainingData:
    """Training examples with the vocabulary and the graph that are built from them.

    Equal paths are stored once: ``contexts`` holds U distinct ones, and example i is the pair
    (``contexts`` row ``rows[i]``, service column ``targets[i]``). Sums over examples then become
    sums over the distinct ``pairs`` with their counts, which is the same mathematics.
    """

    examples: tuple[Example, ...]
    vocabulary: Vocabulary
    graph: ServiceGraph
    contexts: Contexts
    rows: Ids
    targets: Ids
    services: Mapping[str, str] = field(default_factory=dict)
    """Services that are known to exist though no example may show them, and their texts."""

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        *,
        catalogue: Iterable[tuple[str, str]] | None = None,
        services: Mapping[str, str] | None = None,
    ) -> TrainingData:
        """Training data of these examples, each of which is told what its owner did before it.

        ``catalogue``: declared links; ``services``: key -> text of services that are candidates
        whether or not an example shows them. Raises :class:`DataError` when there are no examples.
        """
        if not examples:
            raise DataError("training needs at least one example, found none", rule="no-examples")
        services = services or {}
        examples = Histories.of(examples).with_history(examples)
        vocabulary = Vocabulary.of(examples, services)
        graph = ServiceGraph.of(examples, vocabulary, catalogue)
        return cls._with(examples, vocabulary, graph, services)

    def folds(self, count: int, seed: int) -> Iterator[tuple[TrainingData, TrainingData]]:
        """The data without each of ``count`` random parts of their compositions, and that part.

        All keep the vocabulary of the whole; the graph is that of what is left.
        """
        compositions = sorted({example.composition for example in self.examples})
        random.Random(f"folds:{seed}").shuffle(compositions)
        fold_of = {composition: i % count for i, composition in enumerate(compositions)}
        for fold in range(count):
            rest = [e for e in self.examples if fold_of[e.composition] != fold]
            part = [e for e in self.examples if fold_of[e.composition] == fold]
            graph = replace(ServiceGraph.of(rest, self.vocabulary), declared=self.graph.declared)
            yield (
                self._with(rest, self.vocabulary, graph, self.services),
                self._with(part, self.vocabulary, graph, self.services),
            )

    @classmethod
    def _with(
        cls,
        examples: Sequence[Example],
        vocabulary: Vocabulary,
        graph: ServiceGraph,
        services: Mapping[str, str],
    ) -> TrainingData:
        distinct, rows = _distinct(examples, lambda context: context.path)
        return cls(
            tuple(examples),
            vocabulary,
            graph,
            vocabulary.encode(distinct),
            rows,
            np.array([vocabulary.columns[e.target] for e in examples], dtype=np.int64),
            services,
        )

    @cached_property
    def pairs(self) -> tuple[Ids, Ids, Floats]:
        """The distinct (context row, service column) pairs, by row and column, and their counts."""
        services = len(self.vocabulary.services)
        codes, counts = np.unique(self.rows * services + self.targets, return_counts=True)
        return codes // services, codes % services, counts.astype(np.float64)

    def grouped(self, key: Callable[[Context], Hashable]) -> Grouped:
        """The examples by what of their contexts a recommender can tell apart."""
        distinct, rows = _distinct(self.examples, key)
        services = len(self.vocabulary.services)
        codes, counts = np.unique(rows * services + self.targets, return_counts=True)
        starts = np.searchsorted(codes // services, np.arange(len(distinct) + 1))
        contexts = self.vocabulary.encode(distinct)
        return Grouped(contexts, starts, codes % services, counts.astype(np.float64))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of everything that a recommender can learn from."""
        total = hashlib.sha256(self.vocabulary.fingerprint.encode() + self.graph.fingerprint.encode())
        total.update(json.dumps(sorted(self.services.items())).encode())
        seen: set[int] = set()
        for example in self.examples:
            context = example.context
            told: list[object] = [
                context.path, context.at, context.owner, context.time, context.children,
                example.target, example.node, example.composition,
            ]  # fmt: skip
            if context.composition is not None and example.composition not in seen:
                seen.add(example.composition)
                source = context.composition
                told += [source.id, source.owner, source.time, source.links]
                told += [(n.id, n.key, n.kind, n.text, n.time) for n in source.nodes]
            total.update(json.dumps(told).encode())
        return total.hexdigest()

    def hold_out(self, share: float, seed: int) -> tuple[TrainingData, TrainingData]:
        """These data without a random share of their compositions, and that share.

        Both parts keep the vocabulary and the graph of the whole: neither holds anything that is
        not training data.
        """
        split = hold_out(self.examples, share, random.Random(f"hold-out:{seed}"))
        return (
            self._with(split.train, self.vocabulary, self.graph, self.services),
            self._with(split.test, self.vocabulary, self.graph, self.services),
        )


def _distinct(
    examples: Sequence[Example], key: Callable[[Context], Hashable]
) -> tuple[list[Context], Ids]:
    """The first context of each key, and which of these each example has."""
    row_of: dict[Hashable, int] = {}
    distinct: list[Context] = []
    rows = np.empty(len(examples), dtype=np.int64)
    for i, example in enumerate(examples):
        own = key(example.context)
        if own not in row_of:
            row_of[own] = len(distinct)
            distinct.append(example.context)
        rows[i] = row_of[own]
    return distinct, rows


@dataclass(frozen=True)
class Candidates:
    """What may be answered and what may follow, beyond what the examples show.

    catalogue: declared (source, service) links; services: key -> text of services that are candidates
    whether or not an example shows them.
    """

    catalogue: Sequence[tuple[str, str]] | None = None
    services: Mapping[str, str] | None = None

    def training(self, examples: Sequence[Example]) -> TrainingData:
        """The training data of examples, with these candidates."""
        return TrainingData.of(examples, catalogue=self.catalogue, services=self.services)
