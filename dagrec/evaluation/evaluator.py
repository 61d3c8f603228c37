"""Recommenders on splits: fit on the training part, mask, answer the test part."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal

import numpy as np

from dagrec.data.examples import Example
from dagrec.data.history import Histories
from dagrec.data.splits import Split
from dagrec.data.vocabulary import Vocabulary
from dagrec.evaluation.metrics import Outcome
from dagrec.evaluation.projection import mean_cosine
from dagrec.graph.mask import MaskPolicy, apply_mask, rivals
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, Trainer
from dagrec.models.calibration import fit_temperature
from dagrec.models.training_data import TrainingData
from dagrec.types import Floats, Ids, Scores

Weight = Literal["pairs", "compositions"]
ROWS_AT_ONCE = 1024
CALIBRATION_FOLDS = 5
Scorer = Callable[[TrainingData, Sequence[Example]], Scores]
"""Scores of some test examples, [n, C], given what was learned from."""


@dataclass(frozen=True)
class HeldOut:
    """The test examples of a split as arrays, in the vocabulary of its training part.

    targets: [n] columns, those unknown to training numbered from C on, each key its own number.
    """

    data: TrainingData
    examples: tuple[Example, ...]
    targets: Ids
    mask: MaskPolicy

    @classmethod
    def of(cls, data: TrainingData, examples: Sequence[Example], mask: MaskPolicy) -> HeldOut:
        return cls(data, tuple(examples), target_columns(examples, data.vocabulary), mask)

    def outcome(self, score: Scorer) -> Outcome:
        """What a scorer answers, every pair weighing the same."""
        own = partial(score, self.data)
        return masked_outcome(self.examples, self.targets, own, self.data.graph, self.mask)

    def temperature(self, score: Scorer) -> float:
        """By what to divide a scorer's scores, so that the targets of this part are likeliest under the
        mask; the soft one leaves scores to compete among what followed a node, or did not."""
        scores, allowed = [], []
        known = self.targets < len(self.data.vocabulary.services)
        rows = np.flatnonzero(known)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            examples = [self.examples[i] for i in part]
            last = self.data.vocabulary.encode([e.context for e in examples]).last
            scores.append(score(self.data, examples))
            allowed.append(rivals(last, self.targets[part], self.data.graph, self.mask))
        if not scores:
            return 1.0
        return fit_temperature(np.concatenate(scores), self.targets[rows], np.concatenate(allowed))

    @cached_property
    def support_of_last(self) -> Floats:
        """[n] how many training examples continue from each context's last node."""
        last = self.data.vocabulary.encode([e.context for e in self.examples]).last
        return self.data.graph.continued[last]

    @cached_property
    def new_links(self) -> Floats:
        """[n] 1 where the link (last node, target) never occurs in training, else 0."""
        seen = {(e.context.path[-1], e.target) for e in self.data.examples}
        return np.array([float((e.context.path[-1], e.target) not in seen) for e in self.examples])


@dataclass(frozen=True)
class Exam:
    """What a model is measured on in one repeat: one split, or the blocks of a prequential run.

    A part is made ready when it is reached. That of a single split is kept for the next model; blocks
    are not, since each holds training data of its own.
    """

    splits: tuple[Split, ...]
    mask: MaskPolicy
    catalogue: tuple[tuple[str, str], ...] | None = None

    def __iter__(self) -> Iterator[HeldOut]:
        if len(self.splits) == 1:
            yield self._only
        else:
            for split in self.splits:
                yield prepare(split, self.mask, self.catalogue)

    @cached_property
    def _only(self) -> HeldOut:
        return prepare(self.splits[0], self.mask, self.catalogue)

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        """All test examples, in order."""
        return tuple(example for split in self.splits for example in split.test)

    @cached_property
    def fingerprint(self) -> str:
        return Split(self.splits[0].train, self.examples).fingerprint


@dataclass(frozen=True)
class Cell:
    """One recommender in one repeat.

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


def target_columns(examples: Sequence[Example], vocabulary: Vocabulary) -> Ids:
    """[n] columns of the targets; those that are not known are numbered from C on, each key its own."""
    columns = dict(vocabulary.columns)
    found = [columns.setdefault(example.target, len(columns)) for example in examples]
    return np.array(found, dtype=np.int64)


def masked_outcome(
    examples: Sequence[Example],
    targets: Ids,
    score: Callable[[Sequence[Example]], Scores],
    graph: ServiceGraph,
    mask: MaskPolicy,
) -> Outcome:
    """What scores become after the mask, every pair weighing the same."""
    parts = []
    for start in range(0, len(examples), ROWS_AT_ONCE):
        part = examples[start : start + ROWS_AT_ONCE]
        last = graph.vocabulary.encode([e.context for e in part]).last
        parts.append(apply_mask(score(part), last, graph, mask).log_probabilities)
    return Outcome(np.concatenate(parts), targets, row_weights(examples, "pairs"))


def prepare(
    split: Split, mask: MaskPolicy, catalogue: Sequence[tuple[str, str]] | None = None
) -> HeldOut:
    """A split made ready: everything fitted comes from its training part alone.

    A test example is told what its owner did before it: in the training part, and in what of the test
    part is over by then where this follows in the order of time.
    """
    data = TrainingData.of(split.train, catalogue=catalogue, services=split.services)
    over = (*split.train, *split.test) if split.ordered else split.train
    return HeldOut.of(data, Histories.of(over).told(split.test), mask)


def run_cell(
    make: Callable[[], Recommender],
    parts: Iterable[HeldOut],
    trainer: Trainer | None,
    *,
    calibrate: bool = False,
) -> Cell:
    """Fit a new recommender on each training part and answer the test part that belongs to it.

    With ``calibrate`` its scores are divided by a temperature, which another one has that is fitted
    without a fifth of the training compositions, on these.
    """
    examples: list[Example] = []
    answers: list[Answers] = []
    supports = []
    fit_seconds = score_seconds = 0.0
    parameters, cosine = 0, None
    for part in parts:
        recommender = make()
        start = time.perf_counter()
        temperature = 1.0
        if calibrate:
            rest, fold = next(part.data.folds(CALIBRATION_FOLDS, seed=0))
            held_out = HeldOut.of(rest, fold.examples, part.mask)
            temperature = held_out.temperature(scorer(make().fit(rest, trainer)))
        recommender.fit(part.data, trainer)
        fitted = time.perf_counter()
        outcome = part.outcome(scorer(recommender, temperature))
        answers.append((part.data.vocabulary.services, outcome))
        fit_seconds += fitted - start
        score_seconds += time.perf_counter() - fitted
        examples += part.examples
        supports.append(part.support_of_last)
        parameters = recommender.parameters()
        vectors = recommender.embeddings().get("services")
        cosine = None if vectors is None else mean_cosine(vectors)
    outcome = join(examples, answers)
    support = np.concatenate(supports)
    fits = len(answers)
    return Cell(tuple(examples), outcome, support, fit_seconds, score_seconds, fits, parameters, cosine)


def scorer(recommender: Recommender, temperature: float = 1.0) -> Scorer:
    """A fitted recommender as a scorer of examples, its scores divided by a temperature."""

    def score(data: TrainingData, part: Sequence[Example]) -> Scores:
        scores = recommender.score(data.vocabulary.encode([e.context for e in part]))
        return scores / np.float32(temperature)

    return score


def random_scorer(data: TrainingData, part: Sequence[Example]) -> Scores:
    """Equal scores for all services: the random line."""
    return np.zeros((len(part), len(data.vocabulary.services)), dtype=np.float32)


def popularity_scorer(data: TrainingData, part: Sequence[Example]) -> Scores:
    """Each service's frequency: the popularity line."""
    return np.tile(np.log(data.graph.popularity + 1).astype(np.float32), (len(part), 1))


Answers = tuple[tuple[str, ...], Outcome]
"""The services that a part could be answered with, and the answers."""


def join(examples: Sequence[Example], answers: Sequence[Answers]) -> Outcome:
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
