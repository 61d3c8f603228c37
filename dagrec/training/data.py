"""Training data: the examples of a training part, and everything that is derived from them."""

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
class GroupedExamples:
    """Distinct contexts and the number of times that each service followed them, in compressed rows.

    contexts: U distinct contexts; starts: [U + 1] row starts; columns, counts: [pairs] service column
    and number of examples of each pair, sorted by context and column.
    """

    contexts: Contexts
    starts: Ids
    columns: Ids
    counts: Floats

    def pairs_of(self, rows: Ids) -> tuple[Ids, Ids]:
        """The pairs of the contexts ``rows``: [P] position in ``rows`` and [P] index of each pair."""
        indices, positions = Ragged(self.starts).take(rows)
        return positions, indices


@dataclass(frozen=True)
class TrainingData:
    """Training examples with the vocabulary and the graph that are built from them.

    ``contexts`` has the U distinct paths. Example i is the pair (row ``rows[i]`` of ``contexts``,
    service column ``targets[i]``), so that a sum over examples is a sum over the distinct ``pairs``,
    weighted by their counts.
    """

    examples: tuple[Example, ...]
    vocabulary: Vocabulary
    graph: ServiceGraph
    contexts: Contexts
    rows: Ids
    targets: Ids
    services: Mapping[str, str] = field(default_factory=dict)
    """Services that exist even if no example has them, and their texts."""

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        *,
        catalogue: Iterable[tuple[str, str]] | None = None,
        services: Mapping[str, str] | None = None,
    ) -> TrainingData:
        """Training data of these examples, with the histories of their owners.

        ``catalogue``: declared links; ``services``: key -> text of services that can be predicted even
        if no example has them. Raises :class:`DataError` if there are no examples.
        """
        if not examples:
            raise DataError("training needs at least one example, found none", rule="no-examples")
        services = services or {}
        examples = Histories.of(examples).with_history(examples)
        vocabulary = Vocabulary.of(examples, services)
        graph = ServiceGraph.of(examples, vocabulary, catalogue)
        return cls._with(examples, vocabulary, graph, services)

    def folds(self, count: int, seed: int) -> Iterator[tuple[TrainingData, TrainingData]]:
        """Divide the compositions into random folds, and yield the rest and the fold for each.

        Both have the vocabulary of the whole data and the graph of the rest.
        """
        compositions = sorted({example.composition for example in self.examples})
        random.Random(f"folds:{seed}").shuffle(compositions)
        fold_of = {composition: i % count for i, composition in enumerate(compositions)}
        for fold in range(count):
            rest = [e for e in self.examples if fold_of[e.composition] != fold]
            held_out = [e for e in self.examples if fold_of[e.composition] == fold]
            graph = replace(ServiceGraph.of(rest, self.vocabulary), declared=self.graph.declared)
            yield (
                self._with(rest, self.vocabulary, graph, self.services),
                self._with(held_out, self.vocabulary, graph, self.services),
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
        """The distinct (context row, service column) pairs, sorted, and their counts."""
        services = len(self.vocabulary.services)
        codes, counts = np.unique(self.rows * services + self.targets, return_counts=True)
        return codes // services, codes % services, counts.astype(np.float64)

    def grouped(self, key: Callable[[Context], Hashable]) -> GroupedExamples:
        """The examples grouped by contexts with equal ``key``."""
        distinct, rows = _distinct(self.examples, key)
        services = len(self.vocabulary.services)
        codes, counts = np.unique(rows * services + self.targets, return_counts=True)
        starts = np.searchsorted(codes // services, np.arange(len(distinct) + 1))
        contexts = self.vocabulary.encode(distinct)
        return GroupedExamples(contexts, starts, codes % services, counts.astype(np.float64))

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 over everything that a recommender can learn from."""
        digest = hashlib.sha256(self.vocabulary.fingerprint.encode() + self.graph.fingerprint.encode())
        digest.update(json.dumps(sorted(self.services.items())).encode())
        included: set[int] = set()
        for example in self.examples:
            context = example.context
            fields: list[object] = [
                context.path, context.at, context.owner, context.time, context.children,
                example.target, example.node, example.composition,
            ]  # fmt: skip
            if context.composition is not None and example.composition not in included:
                included.add(example.composition)
                composition = context.composition
                fields += [composition.id, composition.owner, composition.time, composition.links]
                fields += [(n.id, n.key, n.kind, n.text, n.time) for n in composition.nodes]
            digest.update(json.dumps(fields).encode())
        return digest.hexdigest()

    def hold_out(self, share: float, seed: int) -> tuple[TrainingData, TrainingData]:
        """Hold out a random share of the compositions. Returns the rest and the held-out part.

        Both have the vocabulary and the graph of the whole data, which is all training data.
        """
        split = hold_out(self.examples, share, random.Random(f"hold-out:{seed}"))
        return (
            self._with(split.train, self.vocabulary, self.graph, self.services),
            self._with(split.test, self.vocabulary, self.graph, self.services),
        )


def _distinct(
    examples: Sequence[Example], key: Callable[[Context], Hashable]
) -> tuple[list[Context], Ids]:
    """Return the first context with each key, and [n] the index of each example's context in them."""
    row_of: dict[Hashable, int] = {}
    distinct: list[Context] = []
    rows = np.empty(len(examples), dtype=np.int64)
    for i, example in enumerate(examples):
        context_key = key(example.context)
        if context_key not in row_of:
            row_of[context_key] = len(distinct)
            distinct.append(example.context)
        rows[i] = row_of[context_key]
    return distinct, rows


@dataclass(frozen=True)
class Candidates:
    """Declared links and additional services.

    catalogue: declared (source, service) links; services: key -> text of services that can be predicted
    even if no example has them.
    """

    catalogue: Sequence[tuple[str, str]] | None = None
    services: Mapping[str, str] | None = None

    def training(self, examples: Sequence[Example]) -> TrainingData:
        """The training data of examples, with these links and services."""
        return TrainingData.of(examples, catalogue=self.catalogue, services=self.services)
