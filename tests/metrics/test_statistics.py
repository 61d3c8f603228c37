from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dagrec.metrics.statistics import (
    LEVEL,
    bootstrap_p_value,
    holm,
    mcnemar_p_value,
    mean_over_draws,
    mean_over_splits,
    paired_p_value,
    resampled_weights,
)

# Over splits


@pytest.fixture
def values() -> list[float]:
    return np.random.default_rng(0).normal(0.55, 0.02, size=12).tolist()


def test_interval_of_two_values_by_hand() -> None:
    """The 0.975 quantile of Student's t with one degree of freedom is tan(0.475 pi)."""
    estimate = mean_over_splits([4.0, 6.0], 0.0)
    assert (estimate.mean, estimate.std) == (5, pytest.approx(math.sqrt(2)))
    half = math.tan(0.475 * math.pi)
    assert (estimate.low, estimate.high) == pytest.approx((5 - half, 5 + half))
    assert estimate.values == (4, 6)


def test_corrected_interval_by_hand() -> None:
    """Var = (1/4 + 1/2) s^2 with s^2 = 2/3, and t has 3 degrees of freedom."""
    estimate = mean_over_splits([0.0, 1.0, 1.0, 2.0], 0.5)
    half = 3.1824463053 * math.sqrt((1 / 4 + 1 / 2) * 2 / 3)
    assert estimate.mean == 1
    assert estimate.high - 1 == 1 - estimate.low == pytest.approx(half)


def test_correction_widens_interval_of_published_splits() -> None:
    values = np.random.default_rng(1).normal(size=30).tolist()
    naive, corrected = mean_over_splits(values, 0.0), mean_over_splits(values, 305 / 711)
    factor = (corrected.high - corrected.low) / (naive.high - naive.low)
    assert factor == pytest.approx(math.sqrt(1 + 30 * 305 / 711))
    assert factor == pytest.approx(3.72, abs=0.005)


def test_interval_of_single_value_is_the_value() -> None:
    estimate = mean_over_splits([0.5], 0.4)
    assert (estimate.mean, estimate.std, estimate.low, estimate.high) == (0.5, 0, 0.5, 0.5)


@pytest.mark.parametrize("overlap", [0.0, 0.4])
@pytest.mark.parametrize("shift", [3.0, -0.1, 1e6])
def test_paired_p_value_of_three_differences_by_hand(shift: float, overlap: float) -> None:
    """P(|T| > t) = 1 - t / sqrt(2 + t^2) for Student's t with two degrees of freedom, and s = 1."""
    t = abs(shift) / math.sqrt(1 / 3 + overlap)
    expected = 2 / (2 + t**2) / (1 + t / math.sqrt(2 + t**2))  # without cancellation
    assert paired_p_value([shift - 1, shift, shift + 1], overlap) == pytest.approx(expected, rel=1e-9)


def test_very_small_p_value_is_not_rounded_to_zero() -> None:
    differences = (1 + np.random.default_rng(0).normal(0, 0.01, size=30)).tolist()
    assert 0 < paired_p_value(differences, 0.0) < 1e-40


def test_paired_p_value_agrees_with_interval(values: list[float]) -> None:
    """The interval ends at 0 if p is 1 - LEVEL."""
    centred = np.array(values) - np.mean(values)
    half = mean_over_splits(centred.tolist(), 0.4).high
    assert paired_p_value((centred + half).tolist(), 0.4) == pytest.approx(1 - LEVEL)


def test_correction_increases_p_value(values: list[float]) -> None:
    differences = (np.array(values) - 0.54).tolist()
    assert paired_p_value(differences, 0.4) > paired_p_value(differences, 0.0)


@pytest.mark.parametrize(
    ("differences", "p"),
    [([0.3], 1.0), ([0.0] * 3, 1.0), ([0.5] * 3, 2 / 8), ([0.1] * 3, 2 / 8), ([-0.7] * 6, 2 / 64)],
)
def test_p_value_of_equal_differences_is_that_of_sign_test(differences: list[float], p: float) -> None:
    """Rounding can give equal values a standard deviation of 1e-17."""
    assert paired_p_value(differences, 0.4) == p


def test_p_value_is_uniform_under_null_hypothesis() -> None:
    rng = np.random.default_rng(0)
    p_values = [paired_p_value(rng.normal(size=10).tolist(), 0.0) for _ in range(400)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("only_a", "only_b", "both", "p"),
    [(0, 0, 5, 1.0), (1, 0, 3, 1.0), (5, 0, 0, 2 / 32), (0, 5, 9, 2 / 32), (3, 1, 2, 10 / 16)],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, both: int, p: float) -> None:
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * 2
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * 2
    assert mcnemar_p_value(a, b) == pytest.approx(p)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60))
def test_mcnemar_is_two_sided_binomial_test(rows: list[tuple[bool, bool]]) -> None:
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    wins, n = sum(x > y for x, y in rows), sum(x != y for x, y in rows)
    tail = sum(math.comb(n, k) for k in range(min(wins, n - wins) + 1)) / 2**n
    assert mcnemar_p_value(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar_p_value(a, b) == mcnemar_p_value(b, a)


# Many comparisons


def test_holm_by_hand() -> None:
    """0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, each at least as large as the one before."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])


def test_holm_is_at_most_one() -> None:
    assert holm([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0]


def test_holm_of_at_most_one_p_value_is_identity() -> None:
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for a, b in zip(p, adjusted, strict=True):
        assert a <= b <= min(1.0, len(p) * a) or b == pytest.approx(max(adjusted))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_holm_matches_definition() -> None:
    """The adjusted p-value of rank i is the maximum of (n - j) p_j over the ranks j up to i."""
    p = np.random.default_rng(0).uniform(0, 0.3, size=7)
    order = np.argsort(p)
    expected = np.empty(7)
    for i in range(7):
        expected[order[i]] = min(1.0, max((7 - j) * p[order[j]] for j in range(i + 1)))
    assert holm(p.tolist()) == pytest.approx(expected.tolist())


# The bootstrap


def test_bootstrap_draws_whole_groups() -> None:
    groups = np.array([7, 7, 3, 3, 3, 9])
    weights = np.array([0.1, 0.2, 0.3, 0.1, 0.1, 0.2])
    draws = resampled_weights(groups, weights, 50, np.random.default_rng(0))
    assert len(draws) == 50
    for draw in draws:
        assert draw.sum() == pytest.approx(1)
        multiplicities = draw / weights
        for group in (7, 3, 9):
            in_group = multiplicities[groups == group]
            assert in_group == pytest.approx(in_group[0])


def test_bootstrap_draws_each_group_once_on_average() -> None:
    weights = np.full(20, 1 / 20)
    draws = resampled_weights(np.arange(20), weights, 4000, np.random.default_rng(0))
    assert np.mean(draws, axis=0) == pytest.approx(weights, rel=0.1)
    unused = np.mean([(draw == 0).mean() for draw in draws])
    assert unused == pytest.approx((1 - 1 / 20) ** 20, abs=0.01)


def test_bootstrap_deviation_of_mean_is_standard_error() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=300)
    draws = resampled_weights(np.arange(300), np.full(300, 1 / 300), 2000, rng)
    spread = np.std([draw @ values for draw in draws])
    assert spread == pytest.approx(values.std() / math.sqrt(300), rel=0.1)


def test_bootstrap_is_reproducible() -> None:
    groups, weights = np.arange(9), np.full(9, 1 / 9)
    a, b, c = (resampled_weights(groups, weights, 3, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_interval_of_draws_covers_middle_95_percent() -> None:
    estimate = mean_over_draws([0.4, 0.6], np.arange(1001) / 1000)
    assert (estimate.low, estimate.high) == pytest.approx((0.025, 0.975))
    assert estimate.mean == pytest.approx(0.5)
    assert estimate.std == pytest.approx(math.sqrt(0.02))


@pytest.mark.parametrize(
    ("draws", "p"),
    [
        ([1.0] * 99, 2 / 100),
        ([-1.0] * 99, 2 / 100),
        ([0.0] * 99, 1.0),
        ([1.0] * 90 + [-1.0] * 9, 2 * 10 / 100),
        ([1.0, -1.0], 1.0),
    ],
)
def test_bootstrap_p_value_by_hand(draws: list[float], p: float) -> None:
    assert bootstrap_p_value(np.array(draws)) == pytest.approx(p)
