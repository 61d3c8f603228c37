from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from dagrec.models.hybrid.mixture import grouped_weights, mixture_weights
from dagrec.types import Floats


def random_log_p(seed: int, n: int = 60, m: int = 3) -> Floats:
    return np.log(np.random.default_rng(seed).uniform(0.01, 1, size=(n, m)))


def likelihood(log_likelihoods: Floats, weights: Floats) -> float:
    return float(np.log(np.exp(log_likelihoods) @ weights).mean())


@pytest.mark.parametrize("seed", range(4))
def test_weights_maximise_likelihood(seed: int) -> None:
    log_p = random_log_p(seed)
    best = minimize(
        lambda w: -likelihood(log_p, w),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12},
    )
    weights = mixture_weights(log_p)
    assert weights.sum() == pytest.approx(1)
    assert likelihood(log_p, weights) >= -best.fun - 1e-4


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 40))
def test_mixture_likelihood_is_at_least_that_of_each_member(seed: int, members: int, n: int) -> None:
    log_p = random_log_p(seed, n, members) * 5
    weights = mixture_weights(log_p)
    assert likelihood(log_p, weights) >= log_p.mean(axis=0).max() - 1e-4


def test_complementary_members_share_weight() -> None:
    log_p = np.log([[0.9, 0.1], [0.1, 0.9]] * 10)
    np.testing.assert_allclose(mixture_weights(log_p), [0.5, 0.5])


def test_dominated_member_has_weight_0() -> None:
    log_p = np.log([[0.9, 0.3], [0.8, 0.2]] * 10)
    np.testing.assert_allclose(mixture_weights(log_p), [1, 0], atol=1e-4)


def test_weights_are_equal_without_targets() -> None:
    np.testing.assert_allclose(mixture_weights(np.zeros((0, 4))), np.full(4, 0.25))


def test_very_unlikely_targets_have_finite_weights() -> None:
    assert np.isfinite(mixture_weights(np.array([[-5000.0, -5001.0]]))).all()


def test_prior_counts_as_targets() -> None:
    """One target is explained by the first member only, and the prior has three for the second."""
    log_p = np.array([[0.0, -1000.0]])
    np.testing.assert_allclose(mixture_weights(log_p, np.array([0.0, 3.0])), [0.25, 0.75])


def test_groups_have_separate_weights() -> None:
    log_p = np.log([[0.9, 0.1]] * 50 + [[0.1, 0.9]] * 50)
    groups = np.repeat([0, 1], 50)
    overall, by_group = grouped_weights(log_p, groups, 3, strength=10)
    np.testing.assert_allclose(overall, [0.5, 0.5])
    assert by_group[0, 0] > 0.85
    assert by_group[1, 1] > 0.85
    np.testing.assert_allclose(by_group[2], overall)  # the group is empty
    assert 0.5 < grouped_weights(log_p, groups, 3, strength=1e4)[1][0, 0] < 0.51
