"""Temperature: by what to divide scores, so that their softmax says how likely each service is.

    p = softmax(s / T),   T > 0 with the least negative log-likelihood of the targets

The likelihood is convex in 1 / T, so one search finds T. At the best one the mean score under p equals
the mean score of the targets. Dividing by T changes no rank. (Guo et al. 2017, arXiv 1706.04599)
"""

from __future__ import annotations

import numpy as np

from dagrec.graph.mask import log_softmax
from dagrec.types import Floats, Ids, Mask

LEAST = 1e-30
"""Least probability of an answer: a score that underflowed rules nothing out, and its logarithm stays
finite."""
LARGEST = 1e4
"""Of 1 / T, and of T: beyond it scores say nothing, or everything."""


def fit_temperature(scores: Floats, targets: Ids, allowed: Mask | None = None) -> float:
    """T of scores [n, C] whose targets [n] are columns, over the allowed services [n, C].

    Rows whose target is not allowed, and rows that allow one service only, say nothing; without any
    other, T is 1.
    """
    allowed = np.ones(scores.shape, dtype=np.bool_) if allowed is None else allowed
    telling = allowed[np.arange(len(targets)), targets] & (allowed.sum(axis=1) > 1)
    values, rows, own = scores[telling].astype(np.float64), allowed[telling], targets[telling]
    if not len(own):
        return 1.0
    of_targets = values[np.arange(len(own)), own].mean()

    def slope(sharpness: float) -> float:
        """Of the negative log-likelihood by 1 / T: expected score less the targets' score."""
        p = np.exp(log_softmax(values * sharpness, rows))
        return float((p * np.where(rows, values, 0)).sum() / len(own) - of_targets)

    low, high = 1 / LARGEST, LARGEST
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))
