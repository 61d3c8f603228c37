"""Confidence intervals and paired tests, for repeated random splits and for bootstraps of one split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dagrec.types import Floats, Ids

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval. ``std`` is the sample standard deviation of the values."""

    mean: float
    std: float
    low: float
    high: float
    values: tuple[float, ...]


def mean_over_splits(values: Sequence[float], test_over_train: float) -> Estimate:
    """The mean over J random splits, with the corrected resampled t interval.

    Var(mean) = (1/J + n_test/n_train) s^2, and t has J - 1 degrees of freedom. The training parts
    overlap, so s^2 / J would be far too small (Nadeau and Bengio 2003, "Inference for the
    generalization error"). With ``test_over_train`` = 0 this is the ordinary t interval. For a single
    value, ``low`` and ``high`` equal the mean.
    """
    mean, std = _mean_and_std(values)
    n = len(values)
    if n < 2:
        return Estimate(mean, std, mean, mean, tuple(values))
    from scipy.stats import t

    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * std * math.sqrt(1 / n + test_over_train)
    return Estimate(mean, std, mean - half, mean + half, tuple(values))


def mean_over_draws(values: Sequence[float], draws: Floats) -> Estimate:
    """The mean over the seeds of one split, with the percentile interval of its bootstrap ``draws``."""
    mean, std = _mean_and_std(values)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Estimate(mean, std, float(low), float(high), tuple(values))


def resampled_weights(
    groups: Ids, weights: Floats, draws: int, rng: np.random.Generator
) -> list[Floats]:
    """The row weights of bootstrap samples in which whole groups are drawn with replacement.

    groups: [n] group (composition) of each row; weights: [n]. The weights of each sample have sum 1.
    """
    _, group = np.unique(groups, return_inverse=True)
    size = int(group.max()) + 1
    samples = []
    for _ in range(draws):
        multiplicities = np.bincount(rng.integers(size, size=size), minlength=size)
        sample = weights * multiplicities[group]
        samples.append(sample / sample.sum())
    return samples


def paired_p_value(differences: Sequence[float], test_over_train: float) -> float:
    """The two-sided p-value of the corrected resampled t-test that the mean difference is 0."""
    mean, std = _mean_and_std(differences)
    n = len(differences)
    if n < 2:
        return 1.0
    if std <= 1e-12 * abs(mean):  # all differences are equal up to rounding
        # The t statistic is undefined, so this is the p-value of the sign test.
        return 1.0 if mean == 0 else 2.0 ** (1 - n)
    from scipy.stats import t

    statistic = mean / (std * math.sqrt(1 / n + test_over_train))
    return float(2 * t.sf(abs(statistic), n - 1))


def bootstrap_p_value(draws: Floats) -> float:
    """The two-sided p-value of a difference of 0 from bootstrap draws; at least 1 / (draws + 1)."""
    below = (np.count_nonzero(draws <= 0) + 1) / (len(draws) + 1)
    above = (np.count_nonzero(draws >= 0) + 1) / (len(draws) + 1)
    return float(min(1.0, 2 * min(below, above)))


def mcnemar_p_value(a: Sequence[bool], b: Sequence[bool]) -> float:
    """The two-sided exact p-value that two models are equally accurate (McNemar 1947).

    ``a`` and ``b`` say which of the same examples each model predicts correctly. Only the n examples
    that exactly one model predicts correctly count; under the null hypothesis, the number of those that
    are correct for ``a`` is Binomial(n, 1/2).
    """
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    if n == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(min(only_a, only_b), n).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple testing, controlling the family-wise error rate (Holm 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the sample standard deviation, which is 0 for a single value."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return float(np.mean(values)), std
