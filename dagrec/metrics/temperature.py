"""Temperature: by what to divide scores, so that their softmax says how likely each service is.

    p = softmax(s / T),   T > 0 with the least negative log-likelihood of the targets

The likelihood is convex in 1 / T, so one search finds T. At the best one the mean score under p equals
the mean score of the targets. Dividing by T changes no rank. (Guo et al. 2017, arXiv 1706.04599)
"""

from __future__ import annotations

import numpy as np

from dagrec.types import Floats, Ids, Mask

MIN_PROBABILITY = 1e-30
"""Least probability of an answer: a score that underflowed rules nothing out, and its logarithm stays
finite."""
MAX_SHARPNESS = 1e4
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

    low, high = 1 / MAX_SHARPNESS, MAX_SHARPNESS
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / np.sqrt(low * high))


def log_softmax(values: Floats, allowed: Mask | None = None) -> Floats:
    """log softmax over the allowed entries of each row (None: all), -inf elsewhere; all -inf in an
    empty row."""
    allowed = np.ones_like(values, dtype=np.bool_) if allowed is None else allowed
    kept: Floats = np.where(allowed, values, -np.inf)
    top = kept.max(axis=1, keepdims=True, initial=-np.inf)
    top[top == -np.inf] = 0.0  # of an empty row
    kept -= top
    total = np.exp(kept).sum(axis=1, keepdims=True)
    total[total == 0] = 1.0
    kept -= np.log(total)
    return kept
