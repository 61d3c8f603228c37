from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dagrec.metrics.statistics import (
    LEVEL,
    bootstrap_p,
    holm,
    mcnemar_p,
    over_draws,
    over_splits,
    paired_p,
    resampled_weights,
    t_cdf,
    t_quantile,
)

DEGREES = [1, 2, 3, 4.5, 10, 29, 100, 1000]


# Student's t


@pytest.mark.parametrize("df", DEGREES)
def test_t_cdf_equals_scipy(df: float) -> None:
    t = np.concatenate([np.linspace(-50, 50, 201), [-1e-3, 1e-3, 1e3, -1e3, 1e-9]])
    np.testing.assert_allclose([t_cdf(x, df) for x in t], stats.t.cdf(t, df), rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("df", DEGREES)
def test_tails_of_t_are_exact_far_out(df: float) -> None:
    t = np.array([-10.0, -30.0, -200.0])
    np.testing.assert_allclose([t_cdf(x, df) for x in t], stats.t.cdf(t, df), rtol=1e-8)


@pytest.mark.parametrize("df", DEGREES)
def test_t_quantile_equals_scipy(df: float) -> None:
    p = np.array([0.001, 0.025, 0.2, 0.5, 0.9, 0.975, 0.999])
    found = [t_quantile(x, df) for x in p]
    np.testing.assert_allclose(found, stats.t.ppf(p, df), rtol=1e-7, atol=1e-6)


@given(t=st.floats(-100, 100), df=st.sampled_from(DEGREES))
def test_t_is_symmetric_and_its_quantile_inverts_it(t: float, df: float) -> None:
    p = t_cdf(t, df)
    assert p + t_cdf(-t, df) == pytest.approx(1)
    if 1e-3 < p < 1 - 1e-3:
        assert t_quantile(p, df) == pytest.approx(t, rel=1e-6, abs=1e-6)


# Over splits


@pytest.fixture
def values() -> list[float]:
    return np.random.default_rng(0).normal(0.55, 0.02, size=12).tolist()


def test_without_overlap_it_is_the_ordinary_t_interval(values: list[float]) -> None:
    found = over_splits(values, 0.0)
    expected = stats.ttest_1samp(values, 0).confidence_interval(LEVEL)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx(np.mean(values))
    assert found.std == pytest.approx(np.std(values, ddof=1))
    assert found.values == tuple(values)


def test_the_correction_by_hand() -> None:
    """Var = (1/4 + 1/2) s^2, with s^2 = 2/3 of the values 0, 1, 1, 2 and t of 3 degrees."""
    found = over_splits([0.0, 1.0, 1.0, 2.0], 0.5)
    half = stats.t.ppf(0.975, 3) * math.sqrt((1 / 4 + 1 / 2) * 2 / 3)
    assert found.mean == 1
    assert found.high - 1 == 1 - found.low == pytest.approx(half)


def test_thirty_published_splits_widen_the_interval_3_72_times() -> None:
    values = np.random.default_rng(1).normal(size=30).tolist()
    naive, corrected = over_splits(values, 0.0), over_splits(values, 305 / 711)
    factor = (corrected.high - corrected.low) / (naive.high - naive.low)
    assert factor == pytest.approx(math.sqrt(1 + 30 * 305 / 711))
    assert factor == pytest.approx(3.72, abs=0.005)


def test_one_value_has_no_interval() -> None:
    found = over_splits([0.5], 0.4)
    assert (found.mean, found.std, found.low, found.high) == (0.5, 0, 0.5, 0.5)


def test_paired_p_without_overlap_is_that_of_the_t_test(values: list[float]) -> None:
    others = np.random.default_rng(5).normal(0.54, 0.02, size=12)
    expected = stats.ttest_rel(values, others).pvalue
    assert paired_p(np.subtract(values, others).tolist(), 0.0) == pytest.approx(expected)


def test_a_very_small_p_is_not_rounded_to_zero() -> None:
    differences = (1 + np.random.default_rng(0).normal(0, 0.01, size=30)).tolist()
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert 0 < expected < 1e-40
    assert paired_p(differences, 0.0) == pytest.approx(expected, rel=1e-6)


def test_p_and_interval_agree(values: list[float]) -> None:
    """The interval touches 0 where p is 1 - LEVEL."""
    centred = np.array(values) - np.mean(values)
    half = over_splits(centred.tolist(), 0.4).high
    assert paired_p((centred + half).tolist(), 0.4) == pytest.approx(1 - LEVEL)


def test_overlap_makes_p_larger(values: list[float]) -> None:
    differences = (np.array(values) - 0.54).tolist()
    assert paired_p(differences, 0.4) > paired_p(differences, 0.0)


@pytest.mark.parametrize(
    ("differences", "p"),
    [([0.3], 1.0), ([0.0] * 3, 1.0), ([0.5] * 3, 2 / 8), ([0.1] * 3, 2 / 8), ([-0.7] * 6, 2 / 64)],
)
def test_p_where_there_is_no_spread_is_that_of_the_sign_test(
    differences: list[float], p: float
) -> None:
    """Also where rounding makes a spread of 1e-17 of equal values."""
    assert paired_p(differences, 0.4) == p


def test_p_is_uniform_when_there_is_no_difference() -> None:
    rng = np.random.default_rng(0)
    found = [paired_p(rng.normal(size=10).tolist(), 0.0) for _ in range(400)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


@pytest.mark.parametrize(
    ("only_a", "only_b", "both", "p"),
    [(0, 0, 5, 1.0), (1, 0, 3, 1.0), (5, 0, 0, 2 / 32), (0, 5, 9, 2 / 32), (3, 1, 2, 10 / 16)],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, both: int, p: float) -> None:
    a = [True] * only_a + [False] * only_b + [True] * both + [False] * 2
    b = [False] * only_a + [True] * only_b + [True] * both + [False] * 2
    assert mcnemar_p(a, b) == pytest.approx(p)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=200))
def test_mcnemar_equals_the_binomial_test(rows: list[tuple[bool, bool]]) -> None:
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    differing = [row for row in rows if row[0] != row[1]]
    wins = sum(row[0] for row in differing)
    expected = stats.binomtest(wins, len(differing)).pvalue if differing else 1.0
    assert mcnemar_p(a, b) == pytest.approx(expected)
    assert mcnemar_p(a, b) == mcnemar_p(b, a)


# Many comparisons


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.5, times 4, 3, 2, 1, and never below an earlier one."""
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])


def test_holm_stops_at_one() -> None:
    assert holm([0.9, 0.8, 0.7]) == [1.0, 1.0, 1.0]


def test_holm_of_one_or_none_changes_nothing() -> None:
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_the_order_and_lies_between_p_and_bonferroni(p: list[float]) -> None:
    adjusted = holm(p)
    for a, b in zip(p, adjusted, strict=True):
        assert a <= b <= min(1.0, len(p) * a) or b == pytest.approx(max(adjusted))
    order = np.argsort(p, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_holm_equals_its_definition() -> None:
    """The adjusted p of rank i is the largest (n - j) p_j over the ranks j up to i."""
    p = np.random.default_rng(0).uniform(0, 0.3, size=7)
    order = np.argsort(p)
    expected = np.empty(7)
    for i in range(7):
        expected[order[i]] = min(1.0, max((7 - j) * p[order[j]] for j in range(i + 1)))
    assert holm(p.tolist()) == pytest.approx(expected.tolist())


# The bootstrap


def test_a_bootstrap_draws_whole_groups() -> None:
    groups = np.array([7, 7, 3, 3, 3, 9])
    weights = np.array([0.1, 0.2, 0.3, 0.1, 0.1, 0.2])
    draws = resampled_weights(groups, weights, 50, np.random.default_rng(0))
    assert len(draws) == 50
    for drawn in draws:
        assert drawn.sum() == pytest.approx(1)
        times = drawn / weights
        for group in (7, 3, 9):
            own = times[groups == group]
            assert own == pytest.approx(own[0])


def test_a_group_is_drawn_once_on_average() -> None:
    weights = np.full(20, 1 / 20)
    draws = resampled_weights(np.arange(20), weights, 4000, np.random.default_rng(0))
    assert np.mean(draws, axis=0) == pytest.approx(weights, rel=0.1)
    unused = np.mean([(drawn == 0).mean() for drawn in draws])
    assert unused == pytest.approx((1 - 1 / 20) ** 20, abs=0.01)


def test_the_bootstrap_spread_of_a_mean_is_its_standard_error() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=300)
    draws = resampled_weights(np.arange(300), np.full(300, 1 / 300), 2000, rng)
    spread = np.std([drawn @ values for drawn in draws])
    assert spread == pytest.approx(values.std() / math.sqrt(300), rel=0.1)


def test_one_seed_gives_one_bootstrap() -> None:
    groups, weights = np.arange(9), np.full(9, 1 / 9)
    a, b, c = (resampled_weights(groups, weights, 3, np.random.default_rng(s)) for s in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_the_interval_of_draws_is_their_middle_95_percent() -> None:
    found = over_draws([0.4, 0.6], np.arange(1001) / 1000)
    assert (found.low, found.high) == pytest.approx((0.025, 0.975))
    assert found.mean == pytest.approx(0.5)
    assert found.std == pytest.approx(math.sqrt(0.02))


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
def test_bootstrap_p_by_hand(draws: list[float], p: float) -> None:
    assert bootstrap_p(np.array(draws)) == pytest.approx(p)
