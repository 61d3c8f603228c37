from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax as oracle

from dagrec.metrics.temperature import MAX_SHARPNESS, fit_temperature, log_softmax
from dagrec.types import Floats, Ids, Mask


def drawn(seed: int, temperature: float, n: int = 4000) -> tuple[Floats, Ids, Mask]:
    """Scores whose targets are drawn from softmax(s / T) over random services."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 6)) * 3
    allowed = rng.random((n, 6)) < 0.7
    allowed[:, 0] = True
    p = np.exp(log_softmax(scores / temperature, allowed))
    targets = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return scores, targets, allowed


def loss(scores: Floats, targets: Ids, allowed: Mask, temperature: float) -> float:
    logs = log_softmax(scores / temperature, allowed)
    return float(-logs[np.arange(len(targets)), targets].mean())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_made_the_targets_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(0, temperature)) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_where_the_likelihood_is_best(seed: int) -> None:
    scores, targets, allowed = drawn(seed, 2.0, n=200)
    best = minimize_scalar(
        lambda log_t: loss(scores, targets, allowed, np.exp(log_t)), bounds=(-5, 5), method="bounded"
    )
    found = fit_temperature(scores, targets, allowed)
    assert loss(scores, targets, allowed, found) <= best.fun + 1e-9


def test_at_the_best_one_the_expected_score_is_the_targets() -> None:
    scores, targets, allowed = drawn(1, 0.7, n=300)
    p = np.exp(log_softmax(scores / fit_temperature(scores, targets, allowed), allowed))
    several = allowed.sum(axis=1) > 1
    expected = (p * scores)[several].sum() / several.sum()
    wanted = scores[np.arange(300), targets][several].mean()
    assert expected == pytest.approx(wanted, abs=1e-6)


def test_scaled_scores_have_a_scaled_temperature() -> None:
    scores, targets, allowed = drawn(2, 1.0, n=300)
    one, ten = (fit_temperature(factor * scores, targets, allowed) for factor in (1, 10))
    assert ten == pytest.approx(10 * one, rel=1e-6)


def test_always_right_is_sharp_and_always_wrong_is_flat() -> None:
    scores = np.tile([1.0, 0.0], (5, 1))
    assert fit_temperature(scores, np.zeros(5, dtype=np.int64)) < 0.05
    assert fit_temperature(scores, np.ones(5, dtype=np.int64)) == pytest.approx(MAX_SHARPNESS)


def test_rows_that_say_nothing_leave_it_at_1() -> None:
    scores = np.array([[3.0, 1.0], [0.0, 2.0]])
    targets = np.array([1, 0])
    allowed = np.array([[True, False], [True, False]])  # the first is masked, the second alone
    assert fit_temperature(scores, targets, allowed) == 1
    assert fit_temperature(scores[:0], targets[:0]) == 1


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=4))
def test_log_softmax_is_that_of_scipy(rows: list[list[float]]) -> None:
    values = np.array(rows)
    np.testing.assert_allclose(log_softmax(values), oracle(values, axis=1), atol=1e-12)
    np.testing.assert_allclose(
        log_softmax(values, np.tile([True, False, True], (len(rows), 1)))[:, [0, 2]],
        oracle(values[:, [0, 2]], axis=1),
        atol=1e-12,
    )
