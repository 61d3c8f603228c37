"""Recommenders on splits: fit on the training part, mask, measure on the test part."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dagrec.data.examples import Example
from dagrec.data.splits import Split
from dagrec.evaluation.metrics import Outcome
from dagrec.graph.mask import MaskPolicy, apply_mask
from dagrec.models.base import Recommender, Trainer
from dagrec.models.training_data import TrainingData
from dagrec.types import Floats, Ids, Scores

Weighting = Literal["pairs", "compositions"]
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Cell:
    """One recommender on one split."""

    outcome: Outcome
    fit_seconds: float
    score_seconds: float
    parameters: int


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
        columns = dict(data.vocabulary.columns)
        for example in examples:
            columns.setdefault(example.target, len(columns))
        targets = np.array([columns[example.target] for example in examples], dtype=np.int64)
        return cls(data, tuple(examples), targets, mask)

    def weights(self, weighting: Weighting) -> Floats:
        """[n], adding up to 1: every pair equal, or every composition equal."""
        if weighting == "pairs":
            return np.full(len(self.examples), 1 / len(self.examples))
        sizes = Counter(example.composition for example in self.examples)
        raw = np.array([1 / sizes[example.composition] for example in self.examples])
        return np.asarray(raw / raw.sum())

    def outcome(self, score: Callable[[TrainingData, Sequence[Example]], Scores]) -> Outcome:
        """What a scorer answers, every pair weighted equally."""
        parts = []
        for start in range(0, len(self.examples), ROWS_AT_ONCE):
            examples = self.examples[start : start + ROWS_AT_ONCE]
            last = self.data.vocabulary.encode([e.context for e in examples]).last
            masked = apply_mask(score(self.data, examples), last, self.data.graph, self.mask)
            parts.append(masked.log_probabilities)
        return Outcome(np.concatenate(parts), self.targets, self.weights("pairs"))

    def unseen_links(self) -> float:
        """Share of the test pairs whose link (last node, target) never occurs in training."""
        seen = {(e.context.path[-1], e.target) for e in self.data.examples}
        new = sum((e.context.path[-1], e.target) not in seen for e in self.examples)
        return new / len(self.examples)


def run_cell(recommender: Recommender, test: HeldOut, trainer: Trainer | None) -> Cell:
    """Fit on the training part and answer the test part, with the time that both took."""
    start = time.perf_counter()
    recommender.fit(test.data, trainer)
    fitted = time.perf_counter()
    outcome = test.outcome(
        lambda data, part: recommender.score(data.vocabulary.encode([e.context for e in part]))
    )
    done = time.perf_counter()
    return Cell(outcome, fitted - start, done - fitted, recommender.parameters())


def random_outcome(test: HeldOut) -> Outcome:
    """What equal scores for all services give under the same mask."""
    services = len(test.data.vocabulary.services)
    return test.outcome(lambda _, part: np.zeros((len(part), services), dtype=np.float32))


def popularity_outcome(test: HeldOut) -> Outcome:
    """What each service's frequency gives under the same mask."""
    scores = np.log(test.data.graph.popularity + 1).astype(np.float32)
    return test.outcome(lambda _, part: np.tile(scores, (len(part), 1)))


def oracle_accuracy(examples: Sequence[Example], *, with_owner: bool = False) -> float:
    """The accuracy that no function of the context (and the owner) can exceed on these examples.

    It answers each distinct context with its most frequent target in the test part itself.
    """
    targets: dict[object, Counter[str]] = defaultdict(Counter)
    for example in examples:
        owner = example.context.owner if with_owner else None
        targets[example.context.path, owner][example.target] += 1
    return sum(max(counts.values()) for counts in targets.values()) / len(examples)


def prepare(split: Split, mask: MaskPolicy, catalogue: Sequence[tuple[str, str]] | None) -> HeldOut:
    """A split made ready: everything fitted comes from its training part alone."""
    return HeldOut.of(TrainingData.of(split.train, catalogue=catalogue), split.test, mask)
