"""Metrics of masked predictions.

Each metric is a function of an :class:`Outcome` that returns one number. Targets are ranked among all
services, not among sampled ones. Ties are broken at random, and metrics are expectations over that (see
``ranks``). A target that is unknown or masked counts as a miss. Every row has a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dagrec.metrics.ranks import Ranks
from dagrec.types import Floats, Ids

if TYPE_CHECKING:
    from scipy.sparse import csr_array

COVERAGE_DEPTH = 10
ECE_BINS = 10


SHARED = ("ranks", "top1", "top1_hits", "hits", "confidence", "squared_errors", "coverage")
"""Properties of an outcome that do not depend on its weights."""


@dataclass(frozen=True)
class Outcome:
    """The predictions of a recommender for n test examples.

    log_probabilities: [n, C], -inf for masked services; targets: [n] columns, where services that are
    not in the training data are numbered from C on; weights: [n], with sum 1.
    """

    log_probabilities: Floats
    targets: Ids
    weights: Floats

    @property
    def num_services(self) -> int:
        return int(self.log_probabilities.shape[1])

    @cached_property
    def ranks(self) -> Ranks:
        known = np.where(self.targets < self.num_services, self.targets, -1)
        return Ranks.of(self.log_probabilities, known)

    @cached_property
    def top1(self) -> csr_array:
        """[n, C] probability that each service is the top prediction, with ties broken at random."""
        is_top = self.log_probabilities == self.log_probabilities.max(axis=1, keepdims=True)
        from scipy.sparse import csr_array

        return csr_array(is_top / is_top.sum(axis=1, keepdims=True))

    @cached_property
    def top1_hits(self) -> Floats:
        """[n] the entry of :attr:`top1` for the target; 0 for a service that is not in training."""
        known = self.targets < self.num_services
        hits = self.top1[np.arange(len(self.targets)), np.where(known, self.targets, 0)]
        return np.where(known, np.asarray(hits, dtype=np.float64), 0.0)

    @cached_property
    def squared_errors(self) -> Floats:
        """[n] sum_y (p(y) - [y is the target])^2; a target that is not reachable has probability 0."""
        p = np.exp(self.log_probabilities)
        known = np.flatnonzero(self.targets < self.num_services)
        errors: Floats = (p**2).sum(axis=1) + 1
        errors[known] -= 2 * p[known, self.targets[known]]
        return errors

    @cached_property
    def coverage(self) -> float:
        """The share of all services in the top ten of any example; see :func:`coverage`."""
        order = np.argsort(-self.log_probabilities, axis=1, kind="stable")[:, :COVERAGE_DEPTH]
        shown = np.isfinite(np.take_along_axis(self.log_probabilities, order, axis=1))
        return len(np.unique(order[shown])) / self.num_services

    @cached_property
    def hits(self) -> Floats:
        """[n] probability that the top prediction is the target, with ties broken at random."""
        return self.ranks.expect(np.eye(1, self.num_services)[0])

    @cached_property
    def confidence(self) -> Floats:
        """[n] predicted probability of the top prediction."""
        confidence: Floats = np.exp(self.log_probabilities.max(axis=1))
        return confidence

    def reweighted(self, weights: Floats) -> Outcome:
        """The same predictions with other weights, reusing the values that do not depend on them."""
        other = Outcome(self.log_probabilities, self.targets, weights)
        for name in SHARED:
            other.__dict__[name] = getattr(self, name)
        return other

    def mean(self, values: Floats) -> float:
        """The weighted mean of values [n]."""
        return float(values @ self.weights)

    def mean_gain(self, gains: Floats) -> float:
        """The mean gain of the target's rank. Ranks beyond the length of ``gains`` have gain 0."""
        padded = np.zeros(self.num_services)
        padded[: len(gains)] = gains[: self.num_services]
        return self.mean(self.ranks.expect(padded))


def hit_rate(k: int) -> Callable[[Outcome], float]:
    """The share of examples whose target is among the top k predictions."""
    return lambda outcome: outcome.mean_gain(np.ones(k))


def ndcg(k: int | None) -> Callable[[Outcome], float]:
    """The mean of 1 / log2(1 + rank) up to rank k, or over all ranks. IDCG = 1 with a single target."""
    return lambda o: o.mean_gain(1 / np.log2(1 + np.arange(1, (k or o.num_services) + 1)))


def mrr(outcome: Outcome) -> float:
    """The mean of 1 / rank."""
    return outcome.mean_gain(1 / np.arange(1, outcome.num_services + 1))


def mean_rank(outcome: Outcome) -> float:
    """The mean rank of the target. A miss has rank C + 1, after all services."""
    ranks = outcome.ranks
    return outcome.mean(np.where(ranks.reachable, ranks.middle(), outcome.num_services + 1.0))


@dataclass(frozen=True)
class Confusion:
    """The total weight of the correct predictions, of all predictions and of the targets of each label.

    The labels are the services that occur as a target or as a top prediction, as in scikit-learn's
    macro average. A ratio with denominator 0 is 0.
    """

    correct: Floats
    predicted: Floats
    actual: Floats

    @classmethod
    def of(cls, outcome: Outcome) -> Confusion:
        top1, targets, weights = outcome.top1, outcome.targets, outcome.weights
        size = max(outcome.num_services, int(targets.max(initial=0)) + 1)
        predicted = np.zeros(size)
        predicted[: outcome.num_services] = weights @ top1
        correct = np.bincount(targets, weights * outcome.top1_hits, size).astype(np.float64)
        actual = np.bincount(targets, weights, size).astype(np.float64)
        labels = (predicted > 0) | (actual > 0)
        return cls(correct[labels], predicted[labels], actual[labels])

    @staticmethod
    def ratio(numerator: Floats, denominator: Floats) -> Floats:
        return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def macro_precision(outcome: Outcome) -> float:
    """The mean precision of the labels."""
    c = Confusion.of(outcome)
    return float(c.ratio(c.correct, c.predicted).mean())


def macro_recall(outcome: Outcome) -> float:
    """The mean recall of the labels."""
    c = Confusion.of(outcome)
    return float(c.ratio(c.correct, c.actual).mean())


def macro_f1(outcome: Outcome) -> float:
    """The mean F1 score of the labels."""
    c = Confusion.of(outcome)
    return float(c.ratio(2 * c.correct, c.predicted + c.actual).mean())


def coverage(outcome: Outcome) -> float:
    """The share of all services that are among the top ten predictions of at least one example.

    Masked services do not count. Ties are broken by vocabulary order, as in answers.
    """
    return outcome.coverage


def nll(outcome: Outcome) -> float:
    """The mean negative log-likelihood of the reachable targets, in nats.

    The other targets have probability 0 and would make it infinite, so it should be read together with
    ``ceiling``. It is 0 if no target is reachable.
    """
    rows = np.flatnonzero(outcome.ranks.reachable & (outcome.weights > 0))
    if not len(rows):
        return 0.0
    losses = -outcome.log_probabilities[rows, outcome.targets[rows]]
    return float(losses @ outcome.weights[rows] / outcome.weights[rows].sum())


def ece(outcome: Outcome) -> float:
    """The expected calibration error of the top prediction, with ten bins of equal width.

    It is biased upwards on small samples; compare it with :func:`ece_band`.
    """
    bins = np.minimum((outcome.confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, outcome.weights * (outcome.hits - outcome.confidence), ECE_BINS)
    return float(np.abs(gaps).sum())


def ece_band(outcome: Outcome) -> float:
    """The 95 % quantile of the ECE of a perfectly calibrated model on these examples.

    The top predictions of such a model are correct with the probabilities that this model predicts. The
    weighted sum of each bin is then approximately normal with mean 0, and the ECE is the sum of their
    absolute values.
    """
    bins = np.minimum((outcome.confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    spread = outcome.confidence * (1 - outcome.confidence)
    variances = np.bincount(bins, outcome.weights**2 * np.clip(spread, 0, None), ECE_BINS)
    mean = np.sqrt(2 / np.pi * variances).sum()
    return float(mean + 1.645 * np.sqrt((1 - 2 / np.pi) * variances.sum()))


def brier(outcome: Outcome) -> float:
    """The mean of sum_y (p(y) - [y is the target])^2, which is between 0 and 2.

    A target that is not reachable has probability 0.
    """
    return outcome.mean(outcome.squared_errors)


def ceiling(outcome: Outcome) -> float:
    """The share of the targets that are in the training data and allowed by the mask."""
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
"""The metrics by name. The number after ``@`` is the cut-off; ``ndcg`` has none."""
