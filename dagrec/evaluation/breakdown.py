"""Accuracy by confidence, by service, by length of the context, and by support of its last node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrec.evaluation.evaluator import RunResult
from dagrec.metrics.ranking import ECE_BINS

LENGTHS = (0, 1, 2, 3, 4, 6, 9, 17)
SUPPORTS = (0, 1, 3, 10, 30, 100, 300)
"""The lower bounds of the groups."""

Sums = dict[str, dict[str, list[float]]]
"""Kind of group -> group -> [number of examples, number of hits, sum of confidences]."""


def breakdown(run: RunResult) -> Sums:
    """Compute the sums of each group in one run."""
    examples, outcome = run.examples, run.outcome
    bins = np.minimum((outcome.confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    groups = {
        "confidence": [f"{b / ECE_BINS:.1f}-{(b + 1) / ECE_BINS:.1f}" for b in bins],
        "service": [example.target for example in examples],
        "length": [_range(len(example.context.path), LENGTHS) for example in examples],
        "support": [_range(value, SUPPORTS) for value in run.support],
    }
    sums: Sums = {name: {} for name in groups}
    for name, group_of in groups.items():
        for group, hit, confidence in zip(group_of, outcome.hits, outcome.confidence, strict=True):
            total = sums[name].setdefault(group, [0.0, 0.0, 0.0])
            total[0] += 1
            total[1] += float(hit)
            total[2] += float(confidence)
    return sums


def group_means(repeats: Sequence[Sums]) -> dict[str, list[dict[str, Any]]]:
    """Return the sorted groups with their accuracy and mean confidence over all repeats."""
    totals: Sums = {}
    for sums in repeats:
        for name, groups in sums.items():
            for group, values in groups.items():
                total = totals.setdefault(name, {}).setdefault(group, [0.0, 0.0, 0.0])
                for i, value in enumerate(values):
                    total[i] += value
    return {
        name: [
            {
                "group": group,
                "examples": int(total[0]),
                "accuracy": total[1] / total[0],
                "confidence": total[2] / total[0],
            }
            for group, total in sorted(groups.items(), key=lambda item: _sort_key(name, *item))
        ]
        for name, groups in totals.items()
    }


def _sort_key(name: str, group: str, total: Sequence[float]) -> tuple[float, str]:
    """Services are sorted by their number of examples, ranges by their lower bound."""
    if name == "service":
        return -total[0], group
    return float(group.rstrip("+").partition("-")[0]), group


def _range(value: float, lows: Sequence[int]) -> str:
    """Return the name of the range of a value, such as ``4-5``, ``3`` or ``17+``."""
    i = int(np.searchsorted(lows, value, side="right")) - 1
    if i + 1 == len(lows):
        return f"{lows[i]}+"
    high = lows[i + 1] - 1
    return str(high) if high == lows[i] else f"{lows[i]}-{high}"
