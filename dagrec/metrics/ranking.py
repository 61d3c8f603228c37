"""Metrics of masked predictions; one table from name to function.

Each function takes :class:`Outcome` and returns one number. Full catalogue, no sampled candidates;
ties in expectation (see ``ranks``); unknown and removed targets are misses; every row has a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dagrec.metrics.ranks import Ranks
from dagrec.types import Floats, Ids

COVERAGE_DEPTH = 10
ECE_BINS = 10


@dataclass(frozen=True)
class Outcome:
    """What a recommender answered to n test examples.

    log_probabilities: [n, C], -inf where the mask removed a service; targets: [n] columns, those of
    services that training does not know numbered from C on; weights: [n], adding up to 1.
    """

    log_probabilities: Floats
    targets: Ids
    weights: Floats

    @property
    def candidates(self) -> int:
        return int(self.log_probabilities.shape[1])

    @cached_property
    def ranks(self) -> Ranks:
        known = np.where(self.targets < self.candidates, self.targets, -1)
        return Ranks.of(self.log_probabilities, known)

    @cached_property
    def first(self) -> Floats:
        """[n, C] probability that each service is the answer when ties for the top are drawn."""
        top = self.log_probabilities == self.log_probabilities.max(axis=1, keepdims=True)
        share: Floats = top / top.sum(axis=1, keepdims=True)
        return share

    @cached_property
    def hits(self) -> Floats:
        """[n] probability that the first answer is the target."""
        return self.ranks.expect(np.eye(1, self.candidates)[0])

    @cached_property
    def confidence(self) -> Floats:
        """[n] probability that the model gives its first answer."""
        best: Floats = np.exp(self.log_probabilities.max(axis=1))
        return best

    def reweighted(self, weights: Floats) -> Outcome:
        """The same answers under other weights; what does not depend on them is kept."""
        other = Outcome(self.log_probabilities, self.targets, weights)
        for name in ("ranks", "first", "hits", "confidence"):
            other.__dict__[name] = getattr(self, name)
        return other

    def mean(self, values: Floats) -> float:
        return float(values @ self.weights)

    def gain(self, worth: Floats) -> float:
        """Mean worth of the target's rank; ``worth``: [C] or shorter, 0 beyond."""
        padded = np.zeros(self.candidates)
        padded[: len(worth)] = worth[: self.candidates]
        return self.mean(self.ranks.expect(padded))


def hit_rate(k: int) -> Callable[[Outcome], float]:
    """Share of examples whose target is among the first k."""
    return lambda outcome: outcome.gain(np.ones(k))


def ndcg(k: int | None) -> Callable[[Outcome], float]:
    """1 / log2(1 + rank) up to rank k, or over all ranks: one relevant target, so IDCG = 1."""
    return lambda o: o.gain(1 / np.log2(1 + np.arange(1, (k or o.candidates) + 1)))


def mrr(outcome: Outcome) -> float:
    """Mean of 1 / rank."""
    return outcome.gain(1 / np.arange(1, outcome.candidates + 1))


def mean_rank(outcome: Outcome) -> float:
    """Mean rank of the target; a miss counts as C + 1, behind every candidate."""
    ranks = outcome.ranks
    return outcome.mean(np.where(ranks.reachable, ranks.middle(), outcome.candidates + 1.0))


@dataclass(frozen=True)
class Confusion:
    """Per label: weight of correct answers, of answers, and of targets.

    Labels are all that occur as a target or as an answer of the test part, as in scikit-learn's
    macro average; a ratio without anything below the line is 0.
    """

    correct: Floats
    answered: Floats
    wanted: Floats

    @classmethod
    def of(cls, outcome: Outcome) -> Confusion:
        first, targets, weights = outcome.first, outcome.targets, outcome.weights
        size = max(outcome.candidates, int(targets.max(initial=0)) + 1)
        answered = np.zeros(size)
        answered[: outcome.candidates] = weights @ first
        known = targets < outcome.candidates
        hits = np.where(known, first[np.arange(len(targets)), np.where(known, targets, 0)], 0.0)
        correct = np.bincount(targets, weights * hits, size).astype(np.float64)
        wanted = np.bincount(targets, weights, size).astype(np.float64)
        labels = (answered > 0) | (wanted > 0)
        return cls(correct[labels], answered[labels], wanted[labels])

    @staticmethod
    def ratio(above: Floats, below: Floats) -> Floats:
        return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def macro_precision(outcome: Outcome) -> float:
    c = Confusion.of(outcome)
    return float(c.ratio(c.correct, c.answered).mean())


def macro_recall(outcome: Outcome) -> float:
    c = Confusion.of(outcome)
    return float(c.ratio(c.correct, c.wanted).mean())


def macro_f1(outcome: Outcome) -> float:
    c = Confusion.of(outcome)
    return float(c.ratio(2 * c.correct, c.answered + c.wanted).mean())


def coverage(outcome: Outcome) -> float:
    """Share of the catalogue that is among the first ten of some answer, masked services never.

    Ties are broken by vocabulary order, as in an answer.
    """
    order = np.argsort(-outcome.log_probabilities, axis=1, kind="stable")[:, :COVERAGE_DEPTH]
    shown = np.isfinite(np.take_along_axis(outcome.log_probabilities, order, axis=1))
    return len(np.unique(order[shown])) / outcome.candidates


def nll(outcome: Outcome) -> float:
    """Mean negative log-likelihood, in nats, over the targets that can be answered.

    Others have probability 0 and would make it infinite: read it beside ``ceiling``. It is 0 where
    no target can be answered.
    """
    rows = np.flatnonzero(outcome.ranks.reachable & (outcome.weights > 0))
    if not len(rows):
        return 0.0
    losses = -outcome.log_probabilities[rows, outcome.targets[rows]]
    return float(losses @ outcome.weights[rows] / outcome.weights[rows].sum())


def ece(outcome: Outcome) -> float:
    """Expected calibration error of the first answer, in ten bins of equal width.

    Biased upward on few examples: read it beside :func:`ece_band`.
    """
    bins = np.minimum((outcome.confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, outcome.weights * (outcome.hits - outcome.confidence), ECE_BINS)
    return float(np.abs(gaps).sum())


def ece_band(outcome: Outcome) -> float:
    """The ECE under which 95 of 100 perfectly calibrated models would stay on these examples.

    Such a model's first answers are right with the probabilities that this one gives; the sum of each
    bin is then nearly normal around 0, and the ECE is the sum of the bins' distances from it.
    """
    bins = np.minimum((outcome.confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    spread = outcome.confidence * (1 - outcome.confidence)
    variances = np.bincount(bins, outcome.weights**2 * np.clip(spread, 0, None), ECE_BINS)
    mean = np.sqrt(2 / np.pi * variances).sum()
    return float(mean + 1.645 * np.sqrt((1 - 2 / np.pi) * variances.sum()))


def brier(outcome: Outcome) -> float:
    """Mean of sum_y (p(y) - [y is the target])^2, from 0 to 2.

    A target that cannot be answered counts as one of probability 0.
    """
    p = np.exp(outcome.log_probabilities)
    known = np.flatnonzero(outcome.targets < outcome.candidates)
    losses = (p**2).sum(axis=1) + 1
    losses[known] -= 2 * p[known, outcome.targets[known]]
    return outcome.mean(losses)


def ceiling(outcome: Outcome) -> float:
    """Share of the targets that are known to training and let through by the mask."""
    return outcome.mean(outcome.ranks.reachable.astype(np.float64))


METRICS: dict[str, Callable[[Outcome], float]] = {
    "accuracy": hit_rate(1),
    "hr@3": hit_rate(3),
    "hr@5": hit_rate(5),
    "hr@10": hit_rate(10),
    "mrr": mrr,
    "ndcg@5": ndcg(5),
    "ndcg@10": ndcg(10),
    "ndcg": ndcg(None),
    "macro_precision": macro_precision,
    "macro_recall": macro_recall,
    "macro_f1": macro_f1,
    "mean_rank": mean_rank,
    "coverage": coverage,
    "nll": nll,
    "brier": brier,
    "ece": ece,
    "ceiling": ceiling,
}
"""``ndcg`` is over all ranks; the number behind ``@`` is a cut-off."""
