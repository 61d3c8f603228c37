"""Intervals and paired tests for means over repeated splits, and over the rows of one split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dagrec.types import Floats, Ids

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. ``std`` is over the values, with n - 1 below the line."""

    mean: float
    std: float
    low: float
    high: float
    values: tuple[float, ...]


def over_splits(values: Sequence[float], test_over_train: float) -> Estimate:
    """Mean over J random splits, with the corrected resampled t interval.

    Var(mean) = (1/J + n_test/n_train) s^2, t with J - 1 degrees of freedom: training parts overlap,
    so that s^2 / J is far too small (Nadeau and Bengio 2003, "Inference for the generalization
    error"). With ``test_over_train`` 0 this is the ordinary t interval. One value has no interval:
    its low and high are itself.
    """
    mean, std, half = _corrected(values, test_over_train)
    return Estimate(mean, std, mean - half, mean + half, tuple(values))


def over_draws(values: Sequence[float], draws: Floats) -> Estimate:
    """Mean over seeds on one split, with the percentile interval of its bootstrap ``draws``."""
    mean, std, _ = _corrected(values, 0.0)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Estimate(mean, std, float(low), float(high), tuple(values))


def resampled_weights(
    groups: Ids, weights: Floats, draws: int, rng: np.random.Generator
) -> list[Floats]:
    """Weights of bootstrap samples in which whole groups are drawn with replacement.

    groups: [n] the group (composition) of each row; weights: [n]. Each result adds up to 1.
    """
    _, group = np.unique(groups, return_inverse=True)
    size = int(group.max()) + 1
    found = []
    for _ in range(draws):
        times = np.bincount(rng.integers(size, size=size), minlength=size)
        drawn = weights * times[group]
        found.append(drawn / drawn.sum())
    return found


def paired_p(differences: Sequence[float], test_over_train: float) -> float:
    """Two-sided p of the corrected resampled t-test that the mean difference is 0."""
    mean, std, _ = _corrected(differences, test_over_train)
    n = len(differences)
    if n < 2:
        return 1.0
    if std <= 1e-12 * abs(mean):  # equal but for rounding
        # Equal differences leave nothing to estimate: what the sign test would say of them.
        return 1.0 if mean == 0 else 2.0 ** (1 - n)
    t = mean / (std * math.sqrt(1 / n + test_over_train))
    return 2 * t_cdf(-abs(t), n - 1)


def bootstrap_p(draws: Floats) -> float:
    """Two-sided p that a difference is 0, from its bootstrap draws; at least 1 / (draws + 1)."""
    below = (np.count_nonzero(draws <= 0) + 1) / (len(draws) + 1)
    above = (np.count_nonzero(draws >= 0) + 1) / (len(draws) + 1)
    return float(min(1.0, 2 * min(below, above)))


def mcnemar_p(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Two-sided exact p that two models are right equally often on the same examples (McNemar 1947).

    Only the n examples on which one of them is right count: half of them each way, Binomial(n, 1/2).
    """
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(min(only_a, only_b) + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values adjusted for their number (Holm 1979): the error rate of the whole family holds."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _corrected(values: Sequence[float], test_over_train: float) -> tuple[float, float, float]:
    """Mean, standard deviation and half width of the interval."""
    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return mean, 0.0, 0.0
    std = float(np.std(values, ddof=1))
    half = t_quantile((1 + LEVEL) / 2, n - 1) * std * math.sqrt(1 / n + test_over_train)
    return mean, std, half


def t_cdf(t: float, df: float) -> float:
    """Cumulative distribution of Student's t."""
    tail = 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + t * t))
    return 1 - tail if t > 0 else tail


def t_quantile(p: float, df: float) -> float:
    """The t below which a share p of Student's t lies, by bisection."""
    low, high = -1e4, 1e4
    while high - low > 1e-10 * max(1.0, abs(low)):
        middle = (low + high) / 2
        if t_cdf(middle, df) < p:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function, by its continued fraction (Abramowitz-Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, use the symmetry
        return 1 - _incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(log_front + a * math.log(x) + b * math.log1p(-x)) / a
    # Lentz's method: c and d are the ratios of consecutive numerators and denominators.
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    result = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d or tiny)
            c = 1 + term / c or tiny
            result *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * result
