"""Mixture weights by expectation-maximisation, and the protocol of recommenders that use them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from dagrec.data.vocabulary import Contexts
from dagrec.types import Floats, Ids

MAX_ITERATIONS = 500
"""Maximum number of iterations of expectation-maximisation."""


def mixture_weights(log_likelihoods: Floats, prior: Floats | None = None) -> Floats:
    """Return the weights w [m], which sum to 1, that maximise the likelihood of sum_m w_m p_m.

    log_likelihoods: [n, m] finite log-probabilities of n targets by m members; prior: [m] pseudo-counts
    of targets that are explained by one member each. The likelihood is concave in w and each iteration
    increases it, starting from equal weights. Without a prior, the likelihood of the mixture is at
    least that of each member.
    """
    members = log_likelihoods.shape[1]
    prior = np.zeros(members) if prior is None else prior
    total = len(log_likelihoods) + prior.sum()
    weights = np.full(members, 1 / members)
    if total == 0:
        return weights
    likelihoods = np.exp(log_likelihoods - log_likelihoods.max(axis=1, keepdims=True, initial=-np.inf))
    for _ in range(MAX_ITERATIONS):
        joint = likelihoods * weights
        shares = joint / joint.sum(axis=1, keepdims=True)
        new: Floats = (shares.sum(axis=0) + prior) / total
        if np.abs(new - weights).max() < 1e-7:
            return new
        weights = new
    return weights


def grouped_weights(
    log_likelihoods: Floats, groups: Ids, count: int, strength: float
) -> tuple[Floats, Floats]:
    """Return the weights over all targets [m], and those of each of ``count`` groups [count, m].

    The weights over all targets are the prior of each group's weights, worth ``strength`` targets.
    """
    overall = mixture_weights(log_likelihoods)
    by_group = [
        mixture_weights(log_likelihoods[groups == group], overall * strength) for group in range(count)
    ]
    return overall, np.stack(by_group)


@runtime_checkable
class SupportsShares(Protocol):
    """A recommender whose probabilities are a mixture with known weights."""

    def shares(self, contexts: Contexts) -> dict[str, float]:
        """Return component -> weight for a single context, in descending order; weights sum to 1."""


def heaviest_first(shares: dict[str, float]) -> dict[str, float]:
    """Return the positive shares in descending order."""
    order = sorted(shares.items(), key=lambda item: -item[1])
    return {component: weight for component, weight in order if weight > 0}
