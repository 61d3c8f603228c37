from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from dagrec.models.hybrid.mixture import grouped_weights, mixture_weights
from dagrec.types import Floats


def logs(seed: int, n: int = 60, m: int = 3) -> Floats:
    return np.log(np.random.default_rng(seed).uniform(0.01, 1, size=(n, m)))


def likelihood(log_likelihoods: Floats, weights: Floats) -> float:
    return float(np.log(np.exp(log_likelihoods) @ weights).mean())


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_the_likeliest(seed: int) -> None:
    own = logs(seed)
    best = minimize(
        lambda w: -likelihood(own, w),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-12},
    )
    weights = mixture_weights(own)
    assert weights.sum() == pytest.approx(1)
    assert likelihood(own, weights) >= -best.fun - 1e-4


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 40))
def test_a_mixture_is_no_less_likely_than_any_member(seed: int, members: int, n: int) -> None:
    own = logs(seed, n, members) * 5
    weights = mixture_weights(own)
    assert likelihood(own, weights) >= own.mean(axis=0).max() - 1e-4


def test_members_that_are_wrong_in_different_places_share() -> None:
    own = np.log([[0.9, 0.1], [0.1, 0.9]] * 10)
    np.testing.assert_allclose(mixture_weights(own), [0.5, 0.5])


def test_a_member_that_is_always_worse_gets_nothing() -> None:
    own = np.log([[0.9, 0.3], [0.8, 0.2]] * 10)
    np.testing.assert_allclose(mixture_weights(own), [1, 0], atol=1e-4)


def test_without_targets_all_weigh_the_same() -> None:
    np.testing.assert_allclose(mixture_weights(np.zeros((0, 4))), np.full(4, 0.25))


def test_very_unlikely_targets_are_no_trouble() -> None:
    assert np.isfinite(mixture_weights(np.array([[-5000.0, -5001.0]]))).all()


def test_the_prior_counts_as_targets() -> None:
    """One target that only the first foresees, against three imaginary ones for the second."""
    own = np.array([[0.0, -1000.0]])
    np.testing.assert_allclose(mixture_weights(own, np.array([0.0, 3.0])), [0.25, 0.75])


def test_groups_have_weights_of_their_own() -> None:
    own = np.log([[0.9, 0.1]] * 50 + [[0.1, 0.9]] * 50)
    groups = np.repeat([0, 1], 50)
    overall, found = grouped_weights(own, groups, 3, strength=10)
    np.testing.assert_allclose(overall, [0.5, 0.5])
    assert found[0, 0] > 0.85
    assert found[1, 1] > 0.85
    np.testing.assert_allclose(found[2], overall)  # no target is in it
    assert 0.5 < grouped_weights(own, groups, 3, strength=1e4)[1][0, 0] < 0.51
