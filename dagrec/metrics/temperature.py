"""Temperature scaling: scores are divided by T so that their softmax is calibrated.

    p = softmax(s / T),   where T > 0 minimises the negative log-likelihood of the targets

The negative log-likelihood is convex in 1 / T, so T is found by bisection. At the minimum, the mean
score under p equals the mean score of the targets. Dividing by T does not change the ranking.
(Guo et al. 2017, arXiv 1706.04599)
"""

from __future__ import annotations

import numpy as np

from dagrec.types import Floats, Ids, Mask

MIN_PROBABILITY = 1e-30
"""The lower bound of a predicted probability, so that its logarithm stays finite after underflow."""
MAX_SHARPNESS = 1e4
"""The upper bound of both 1 / T and T."""


def fit_temperature(scores: Floats, targets: Ids, allowed: Mask | None = None) -> float:
    """Return T for scores [n, C] and target columns [n] under a mask of allowed services [n, C].

    Rows whose target is not allowed and rows with a single allowed service carry no information and are
    ignored. T is 1 if no other row is left.
    """
    allowed = np.ones(scores.shape, dtype=np.bool_) if allowed is None else allowed
    informative = allowed[np.arange(len(targets)), targets] & (allowed.sum(axis=1) > 1)
    values, mask = scores[informative].astype(np.float64), allowed[informative]
    targets = targets[informative]
    if not len(targets):
        return 1.0
    mean_target_score = values[np.arange(len(targets)), targets].mean()

    def slope(sharpness: float) -> float:
        """The derivative of the mean negative log-likelihood with respect to ``sharpness`` = 1 / T.

        It is the expected score under p minus the mean score of the targets.
        """
        p = np.exp(log_softmax(values * sharpness, mask))
        return float((p * np.where(mask, values, 0)).sum() / len(targets) - mean_target_score)

    low, high = 1 / MAX_SHARPNESS, MAX_SHARPNESS
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))


def log_softmax(values: Floats, allowed: Mask | None = None) -> Floats:
    """Return the log-softmax over the allowed entries of each row, all of them by default.

    Entries that are not allowed are -inf, and so is a row without allowed entries.
    """
    allowed = np.ones_like(values, dtype=np.bool_) if allowed is None else allowed
    logs: Floats = np.where(allowed, values, -np.inf)
    highest = logs.max(axis=1, keepdims=True, initial=-np.inf)
    highest[highest == -np.inf] = 0.0  # a row without allowed entries
    logs -= highest
    total = np.exp(logs).sum(axis=1, keepdims=True)
    total[total == 0] = 1.0
    logs -= np.log(total)
    return logs
