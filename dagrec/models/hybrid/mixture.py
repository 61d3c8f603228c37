"""Weights of a mixture by expectation-maximisation; recommenders that can tell theirs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from dagrec.data.vocabulary import Contexts
from dagrec.types import Floats, Ids

STEPS = 500
"""Of expectation-maximisation, at most."""


def mixture_weights(log_likelihoods: Floats, prior: Floats | None = None) -> Floats:
    """w [m], adding up to 1, that makes sum_m w_m p_m likeliest.

    log_likelihoods: [n, m], what each of m members says of each of n targets; finite. prior: [m],
    imaginary targets that each member alone has foreseen. The likelihood is concave in w, and each step
    raises it, from equal weights on: without a prior the mixture is no less likely than any member.
    """
    members = log_likelihoods.shape[1]
    prior = np.zeros(members) if prior is None else prior
    total = len(log_likelihoods) + prior.sum()
    weights = np.full(members, 1 / members)
    if total == 0:
        return weights
    likelihoods = np.exp(log_likelihoods - log_likelihoods.max(axis=1, keepdims=True, initial=-np.inf))
    for _ in range(STEPS):
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
    """Weights over all targets [m], and of each of ``count`` groups [count, m].

    A group's weights start from those over all with the force of ``strength`` targets.
    """
    overall = mixture_weights(log_likelihoods)
    own = [
        mixture_weights(log_likelihoods[groups == group], overall * strength) for group in range(count)
    ]
    return overall, np.stack(own)


@runtime_checkable
class Mixing(Protocol):
    """A recommender that answers with a mixture, and can tell how much of it is whose."""

    def shares(self, contexts: Contexts) -> dict[str, float]:
        """Part -> weight in the answer to one context, adding up to 1; the heaviest first."""


def heaviest_first(shares: dict[str, float]) -> dict[str, float]:
    """The same shares in order, without those that are 0."""
    order = sorted(shares.items(), key=lambda item: -item[1])
    return {part: weight for part, weight in order if weight > 0}
