from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax as scipy_log_softmax

from dagrec.metrics.temperature import MAX_SHARPNESS, fit_temperature, log_softmax
from dagrec.types import Floats, Ids, Mask


def sample(seed: int, temperature: float, n: int = 4000) -> tuple[Floats, Ids, Mask]:
    """Random scores s and masks, and targets that are drawn from softmax(s / T)."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n, 6)) * 3
    allowed = rng.random((n, 6)) < 0.7
    allowed[:, 0] = True
    p = np.exp(log_softmax(scores / temperature, allowed))
    targets = (p.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return scores, targets, allowed


def mean_nll(scores: Floats, targets: Ids, allowed: Mask, temperature: float) -> float:
    logs = log_softmax(scores / temperature, allowed)
    return float(-logs[np.arange(len(targets)), targets].mean())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_fit_temperature_recovers_true_temperature(temperature: float) -> None:
    assert fit_temperature(*sample(0, temperature)) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_fit_temperature_maximises_likelihood(seed: int) -> None:
    scores, targets, allowed = sample(seed, 2.0, n=200)
    best = minimize_scalar(
        lambda log_t: mean_nll(scores, targets, allowed, np.exp(log_t)),
        bounds=(-5, 5),
        method="bounded",
    )
    temperature = fit_temperature(scores, targets, allowed)
    assert mean_nll(scores, targets, allowed, temperature) <= best.fun + 1e-9


def test_expected_score_equals_mean_target_score_at_fitted_temperature() -> None:
    scores, targets, allowed = sample(1, 0.7, n=300)
    p = np.exp(log_softmax(scores / fit_temperature(scores, targets, allowed), allowed))
    several = allowed.sum(axis=1) > 1
    expected = (p * scores)[several].sum() / several.sum()
    target_scores = scores[np.arange(300), targets][several]
    assert expected == pytest.approx(target_scores.mean(), abs=1e-6)


def test_temperature_is_proportional_to_scale_of_scores() -> None:
    scores, targets, allowed = sample(2, 1.0, n=300)
    one, ten = (fit_temperature(factor * scores, targets, allowed) for factor in (1, 10))
    assert ten == pytest.approx(10 * one, rel=1e-6)


def test_temperature_is_low_if_always_right_and_bounded_if_always_wrong() -> None:
    scores = np.tile([1.0, 0.0], (5, 1))
    assert fit_temperature(scores, np.zeros(5, dtype=np.int64)) < 0.05
    assert fit_temperature(scores, np.ones(5, dtype=np.int64)) == pytest.approx(MAX_SHARPNESS)


def test_temperature_without_informative_rows_is_one() -> None:
    scores = np.array([[3.0, 1.0], [0.0, 2.0]])
    targets = np.array([1, 0])
    allowed = np.array([[True, False], [True, False]])  # a masked target, and a single allowed service
    assert fit_temperature(scores, targets, allowed) == 1
    assert fit_temperature(scores[:0], targets[:0]) == 1


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=4))
def test_log_softmax_matches_scipy(rows: list[list[float]]) -> None:
    values = np.array(rows)
    np.testing.assert_allclose(log_softmax(values), scipy_log_softmax(values, axis=1), atol=1e-12)
    np.testing.assert_allclose(
        log_softmax(values, np.tile([True, False, True], (len(rows), 1)))[:, [0, 2]],
        scipy_log_softmax(values[:, [0, 2]], axis=1),
        atol=1e-12,
    )
