"""Evaluates recommenders on splits: fit on the training part, mask, answer the test part."""

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
"""What answers test examples: ``Fitted.probabilities``, or a reference line."""


@dataclass(frozen=True)
class TestPart:
    """The test examples of a split as arrays, in the vocabulary of its training part.

    targets: [n] columns, those unknown to training numbered from C on, each key its own number.
    """

    data: TrainingData
    examples: tuple[Example, ...]
    targets: Ids
    mask: MaskPolicy

    __test__ = False  # its name looks like a test to pytest

    @classmethod
    def of(cls, data: TrainingData, examples: Sequence[Example], mask: MaskPolicy) -> TestPart:
        return cls(data, tuple(examples), target_columns(examples, data.vocabulary), mask)

    @classmethod
    def of_split(
        cls, split: Split, mask: MaskPolicy, catalogue: Sequence[tuple[str, str]] | None = None
    ) -> TestPart:
        """The test part of a split; everything that is learned comes from its training part alone.

        The history of a test example is what its owner did before it: in the training part, and, where
        the test part follows in the order of time, in what of it is over by then.
        """
        data = TrainingData.of(split.train, catalogue=catalogue, services=split.services)
        over = (*split.train, *split.test) if split.ordered else split.train
        return cls.of(data, Histories.of(over).with_history(split.test), mask)

    def fitted(self, recommender: Recommender, temperature: float = 1.0) -> Fitted:
        """A recommender that was fitted to the training part, under the mask of this evaluation."""
        return Fitted(recommender, self.data.graph, self.mask, temperature)

    def outcome(self, probabilities: Probabilities) -> Outcome:
        """The answers to the test examples, every pair weighing the same."""
        return masked_outcome(self.examples, self.targets, probabilities, self.data.vocabulary)

    def reference_lines(self) -> dict[str, Probabilities]:
        """Equal scores, and the frequency of each service, under the same mask."""
        services = len(self.data.vocabulary.services)
        popularity = np.log(self.data.graph.popularity + 1)
        lines = {"random": np.zeros(services), "popularity": popularity}
        return {name: self._constant(scores.astype(np.float32)) for name, scores in lines.items()}

    def _constant(self, scores: Scores) -> Probabilities:
        """Scores [C] that are the same for every context."""

        def probabilities(contexts: Contexts) -> Masked:
            rows = np.tile(scores, (len(contexts), 1))
            return apply_mask(rows, contexts.last, self.data.graph, self.mask)

        return probabilities

    def temperature(self, recommender: Recommender) -> float:
        """The temperature under which the targets of this part are likeliest.

        Scores compete under the mask; under the soft one, among the services that followed a node, or
        among those that did not.
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
        """[n] how many training examples continue from each context's last node."""
        last = self.data.vocabulary.encode([e.context for e in self.examples]).last
        return self.data.graph.frontier_counts[last]

    @cached_property
    def new_links(self) -> Floats:
        """[n] 1 where the link (last node, target) never occurs in training, else 0."""
        seen = {(e.context.path[-1], e.target) for e in self.data.examples}
        return np.array([float((e.context.path[-1], e.target) not in seen) for e in self.examples])


@dataclass(frozen=True)
class EvaluationSplit:
    """What one repeat evaluates on: a single split, or the blocks of a prequential protocol.

    A part is prepared when it is reached. That of a single split is kept for the next model; blocks are
    not, since each holds training data of its own.
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
        """All test examples, in order."""
        return tuple(example for split in self.splits for example in split.test)

    @cached_property
    def fingerprint(self) -> str:
        return Split(self.splits[0].train, self.examples).fingerprint


@dataclass(frozen=True)
class RunResult:
    """What one recommender answered in one repeat.

    examples: the n test examples; outcome: the answers to them; support: [n] how many training
    examples continue from the last node of each.
    """

    examples: tuple[Example, ...]
    outcome: Outcome
    support: Floats
    fit_seconds: float
    score_seconds: float
    fits: int
    parameters: int
    service_cosine: float | None
    """Mean cosine of the vectors that two services are scored with, where the recommender has such:
    1 where all point the same way, as after too much smoothing."""


def evaluate_run(
    make: Callable[[], Recommender], parts: Iterable[TestPart], *, calibrate: bool = False
) -> RunResult:
    """Fit a new recommender on each training part and answer the test part that belongs to it.

    With ``calibrate`` its temperature is that of another one, which is fitted without a fifth of the
    training compositions, on that fifth.
    """
    examples: list[Example] = []
    answers: list[PartOutcome] = []
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
        answers.append((part.data.vocabulary.services, outcome))
        fit_seconds += fit_end - start
        score_seconds += time.perf_counter() - fit_end
        examples += part.examples
        supports.append(part.support_of_last)
        parameters = recommender.parameters()
        vectors = recommender.embeddings().get("services")
        cosine = None if vectors is None else mean_cosine(vectors)
    return RunResult(
        tuple(examples),
        join(examples, answers),
        np.concatenate(supports),
        fit_seconds,
        score_seconds,
        len(answers),
        parameters,
        cosine,
    )


def reference_outcomes(parts: Iterable[TestPart]) -> tuple[dict[str, list[PartOutcome]], Floats]:
    """The outcome of each reference line on each part, and [n] :attr:`TestPart.new_links`."""
    outcomes: dict[str, list[PartOutcome]] = defaultdict(list)
    new_links = []
    for part in parts:
        new_links.append(part.new_links)
        for name, line in part.reference_lines().items():
            outcomes[name].append((part.data.vocabulary.services, part.outcome(line)))
    return outcomes, np.concatenate(new_links)


def target_columns(examples: Sequence[Example], vocabulary: Vocabulary) -> Ids:
    """[n] columns of the targets; those that are not known are numbered from C on, each key its own."""
    columns = dict(vocabulary.columns)
    found = [columns.setdefault(example.target, len(columns)) for example in examples]
    return np.array(found, dtype=np.int64)


def masked_outcome(
    examples: Sequence[Example],
    targets: Ids,
    probabilities: Probabilities,
    vocabulary: Vocabulary,
) -> Outcome:
    """The answers to examples, every pair weighing the same."""
    parts = []
    for start in range(0, len(examples), ROWS_PER_PASS):
        part = examples[start : start + ROWS_PER_PASS]
        contexts = vocabulary.encode([e.context for e in part])
        parts.append(probabilities(contexts).log_probabilities)
    return Outcome(np.concatenate(parts), targets, row_weights(examples, "pairs"))


PartOutcome = tuple[tuple[str, ...], Outcome]
"""The services that a part could be answered with, and the answers."""


def join(examples: Sequence[Example], answers: Sequence[PartOutcome]) -> Outcome:
    """The answers to all parts as one outcome over the services that any of them knew.

    A service that a part did not know yet could not be answered there: its probability is 0.
    """
    if len(answers) == 1:
        return answers[0][1]
    columns: dict[str, int] = {}
    for services, _ in answers:
        for service in services:
            columns.setdefault(service, len(columns))
    wide = np.full((len(examples), len(columns)), -np.inf)
    start = 0
    for services, outcome in answers:
        end = start + len(outcome.targets)
        wide[start:end, [columns[service] for service in services]] = outcome.log_probabilities
        start = end
    for example in examples:
        columns.setdefault(example.target, len(columns))
    targets = np.array([columns[example.target] for example in examples], dtype=np.int64)
    return Outcome(wide, targets, row_weights(examples, "pairs"))


def row_weights(examples: Sequence[Example], weight: Weight) -> Floats:
    """[n], adding up to 1: every pair equal, or every composition equal."""
    if weight == "pairs":
        return np.full(len(examples), 1 / len(examples))
    sizes = Counter(example.composition for example in examples)
    raw = np.array([1 / sizes[example.composition] for example in examples])
    return np.asarray(raw / raw.sum())


def oracle_accuracy(examples: Sequence[Example], *, with_owner: bool = False) -> float:
    """The accuracy that no function of the context (and the owner) can exceed on these examples.

    It answers each distinct context with its most frequent target in the test part itself.
    """
    targets: dict[object, Counter[str]] = defaultdict(Counter)
    for example in examples:
        owner = example.context.owner if with_owner else None
        targets[example.context.path, owner][example.target] += 1
    return sum(max(counts.values()) for counts in targets.values()) / len(examples)
