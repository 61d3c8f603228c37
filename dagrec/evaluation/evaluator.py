"""Evaluation of recommenders on splits."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from dagrec.data.examples import Example
from dagrec.data.history import Histories
from dagrec.data.splits import Split
from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.evaluation.projection import mean_cosine
from dagrec.graph.mask import Masked, MaskPolicy, apply_mask, competitors
from dagrec.metrics.ranking import Outcome
from dagrec.metrics.temperature import fit_temperature
from dagrec.models.base import Recommender
from dagrec.models.fitted import Fitted
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Scores

Weight = Literal["pairs", "compositions"]
ROWS_PER_PASS = 1024
CALIBRATION_FOLDS = 5
Probabilities = Callable[[Contexts], Masked]
"""A function that predicts test examples: ``Fitted.probabilities``, or a reference line."""


@dataclass(frozen=True)
class TestPart:
    """The test examples of a split, encoded with the vocabulary of its training part.

    targets: [n] columns; services that are not in the training part are numbered from C on.
    """

    data: TrainingData
    examples: tuple[Example, ...]
    targets: Ids
    mask: MaskPolicy

    __test__ = False  # not a test class for pytest

    @classmethod
    def of(cls, data: TrainingData, examples: Sequence[Example], mask: MaskPolicy) -> TestPart:
        return cls(data, tuple(examples), target_columns(examples, data.vocabulary), mask)

    @classmethod
    def of_split(
        cls, split: Split, mask: MaskPolicy, catalogue: Sequence[tuple[str, str]] | None = None
    ) -> TestPart:
        """The test part of a split. Recommenders are fitted on its training part.

        The history of a test example has the earlier calls of its owner in the training part and, if
        the split is ordered in time, in the test part.
        """
        data = TrainingData.of(split.train, catalogue=catalogue, services=split.services)
        past = (*split.train, *split.test) if split.ordered else split.train
        return cls.of(data, Histories.of(past).with_history(split.test), mask)

    def fitted(self, recommender: Recommender, temperature: float = 1.0) -> Fitted:
        """Combine a recommender that is fitted on the training part with the mask of this part."""
        return Fitted(recommender, self.data.graph, self.mask, temperature)

    def outcome(self, probabilities: Probabilities) -> Outcome:
        """The predictions for the test examples, with equal weights."""
        return masked_outcome(self.examples, self.targets, probabilities, self.data.vocabulary)

    def reference_lines(self) -> dict[str, Probabilities]:
        """Predictors to compare with, under the same mask: equal scores, and popularity."""
        services = len(self.data.vocabulary.services)
        popularity = np.log(self.data.graph.popularity + 1)
        lines = {"random": np.zeros(services), "popularity": popularity}
        return {name: self._constant(scores.astype(np.float32)) for name, scores in lines.items()}

    def _constant(self, scores: Scores) -> Probabilities:
        """A predictor with the same scores [C] for all contexts."""

        def probabilities(contexts: Contexts) -> Masked:
            rows = np.tile(scores, (len(contexts), 1))
            return apply_mask(rows, contexts.last, self.data.graph, self.mask)

        return probabilities

    def temperature(self, recommender: Recommender) -> float:
        """The temperature that maximises the likelihood of the targets of this part.

        The softmax is taken over the allowed services. Under the soft mask it is taken over the group
        of the target, see :func:`dagrec.graph.mask.competitors`.
        """
        vocabulary = self.data.vocabulary
        scores, allowed = [], []
        rows = np.flatnonzero(self.targets < len(vocabulary.services))
        for start in range(0, len(rows), ROWS_PER_PASS):
            part = rows[start : start + ROWS_PER_PASS]
            contexts = vocabulary.encode([self.examples[i].context for i in part])
            scores.append(recommender.score(contexts))
            allowed.append(competitors(contexts.last, self.targets[part], self.data.graph, self.mask))
        if not scores:
            return 1.0
        return fit_temperature(np.concatenate(scores), self.targets[rows], np.concatenate(allowed))

    @cached_property
    def support_of_last(self) -> Floats:
        """[n] number of training examples with the last node of each context as the frontier."""
        last = self.data.vocabulary.encode([e.context for e in self.examples]).last
        return self.data.graph.frontier_counts[last]

    @cached_property
    def new_links(self) -> Floats:
        """[n] 1 if the link (last node, target) does not occur in training, else 0."""
        observed = {(e.context.path[-1], e.target) for e in self.data.examples}
        return np.array([float((e.context.path[-1], e.target) not in observed) for e in self.examples])


@dataclass(frozen=True)
class EvaluationSplit:
    """The splits of one repeat: a single one, or the blocks of the prequential protocol.

    Test parts are created on iteration. That of a single split is cached for the next model. Those of
    blocks are not, because each has its own training data.
    """

    splits: tuple[Split, ...]
    mask: MaskPolicy
    catalogue: tuple[tuple[str, str], ...] | None = None

    def __iter__(self) -> Iterator[TestPart]:
        if len(self.splits) == 1:
            yield self._single
        else:
            for split in self.splits:
                yield TestPart.of_split(split, self.mask, self.catalogue)

    @cached_property
    def _single(self) -> TestPart:
        return TestPart.of_split(self.splits[0], self.mask, self.catalogue)

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """The test examples of all splits, in order."""
        return tuple(example for split in self.splits for example in split.test)

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 that identifies the split or the blocks."""
        return Split(self.splits[0].train, self.examples).fingerprint


@dataclass(frozen=True)
class RunResult:
    """The result of one recommender in one repeat.

    examples: the n test examples; outcome: the predictions for them; support: [n] number of training
    examples with the last node of each as the frontier.
    """

    examples: tuple[Example, ...]
    outcome: Outcome
    support: Floats
    fit_seconds: float
    score_seconds: float
    fits: int
    parameters: int
    service_cosine: float | None
    """The mean cosine of the service embeddings, if the recommender has them.

    It is 1 if all have the same direction, as after oversmoothing.
    """


def evaluate_run(
    make: Callable[[], Recommender], parts: Iterable[TestPart], *, calibrate: bool = False
) -> RunResult:
    """Fit a new recommender on each training part, and predict its test part.

    With ``calibrate``, the temperature is fitted on a fifth of the training compositions, with another
    recommender that is fitted on the rest.
    """
    examples: list[Example] = []
    outcomes: list[PartOutcome] = []
    supports = []
    fit_seconds = score_seconds = 0.0
    parameters, cosine = 0, None
    for part in parts:
        recommender = make()
        start = time.perf_counter()
        temperature = 1.0
        if calibrate:
            rest, fold = next(part.data.folds(CALIBRATION_FOLDS, seed=0))
            held_out = TestPart.of(rest, fold.examples, part.mask)
            temperature = held_out.temperature(make().fit(rest))
        recommender.fit(part.data)
        fit_end = time.perf_counter()
        outcome = part.outcome(part.fitted(recommender, temperature).probabilities)
        outcomes.append((part.data.vocabulary.services, outcome))
        fit_seconds += fit_end - start
        score_seconds += time.perf_counter() - fit_end
        examples += part.examples
        supports.append(part.support_of_last)
        parameters = recommender.parameters()
        vectors = recommender.embeddings().get("services")
        cosine = None if vectors is None else mean_cosine(vectors)
    return RunResult(
        tuple(examples),
        join_outcomes(examples, outcomes),
        np.concatenate(supports),
        fit_seconds,
        score_seconds,
        len(outcomes),
        parameters,
        cosine,
    )


def reference_outcomes(parts: Iterable[TestPart]) -> tuple[dict[str, list[PartOutcome]], Floats]:
    """Return the outcomes of each reference line on all parts, and [n] :attr:`TestPart.new_links`."""
    outcomes: dict[str, list[PartOutcome]] = defaultdict(list)
    new_links = []
    for part in parts:
        new_links.append(part.new_links)
        for name, line in part.reference_lines().items():
            outcomes[name].append((part.data.vocabulary.services, part.outcome(line)))
    return outcomes, np.concatenate(new_links)


def target_columns(examples: Sequence[Example], vocabulary: Vocabulary) -> Ids:
    """Return [n] columns of the targets. Services that are not known are numbered from C on."""
    columns = dict(vocabulary.columns)
    targets = [columns.setdefault(example.target, len(columns)) for example in examples]
    return np.array(targets, dtype=np.int64)


def masked_outcome(
    examples: Sequence[Example],
    targets: Ids,
    probabilities: Probabilities,
    vocabulary: Vocabulary,
) -> Outcome:
    """Return the predictions for examples, with equal weights."""
    parts = []
    for start in range(0, len(examples), ROWS_PER_PASS):
        part = examples[start : start + ROWS_PER_PASS]
        contexts = vocabulary.encode([e.context for e in part])
        parts.append(probabilities(contexts).log_probabilities)
    return Outcome(np.concatenate(parts), targets, row_weights(examples, "pairs"))


PartOutcome = tuple[tuple[str, ...], Outcome]
"""The services of a part's vocabulary, and the outcome of the part."""


def join_outcomes(examples: Sequence[Example], parts: Sequence[PartOutcome]) -> Outcome:
    """Concatenate the outcomes of all parts, over the services of all their vocabularies.

    The probability of a service is 0 in parts whose vocabulary does not have it.
    """
    if len(parts) == 1:
        return parts[0][1]
    columns: dict[str, int] = {}
    for services, _ in parts:
        for service in services:
            columns.setdefault(service, len(columns))
    joined = np.full((len(examples), len(columns)), -np.inf)
    start = 0
    for services, outcome in parts:
        end = start + len(outcome.targets)
        joined[start:end, [columns[service] for service in services]] = outcome.log_probabilities
        start = end
    for example in examples:
        columns.setdefault(example.target, len(columns))
    targets = np.array([columns[example.target] for example in examples], dtype=np.int64)
    return Outcome(joined, targets, row_weights(examples, "pairs"))


def row_weights(examples: Sequence[Example], weight: Weight) -> Floats:
    """Return [n] weights with sum 1, equal for all pairs or equal for all compositions."""
    if weight == "pairs":
        return np.full(len(examples), 1 / len(examples))
    sizes = Counter(example.composition for example in examples)
    raw = np.array([1 / sizes[example.composition] for example in examples])
    return np.asarray(raw / raw.sum())


def oracle_accuracy(
    examples: Sequence[Example], *, path_only: bool = False, with_owner: bool = False
) -> float:
    """Return the best possible accuracy of a function of the context (and the owner).

    The context is the path, the upstream DAG and the existing children, or the path alone. The function
    predicts the most frequent target of each distinct context in the examples themselves.
    """
    targets: dict[object, Counter[str]] = defaultdict(Counter)
    for example in examples:
        context = example.context
        visible = context.path if path_only else context.visible()
        targets[visible, context.owner if with_owner else None][example.target] += 1
    return sum(max(counts.values()) for counts in targets.values()) / len(examples)
