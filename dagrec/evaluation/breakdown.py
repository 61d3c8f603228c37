"""Where a model is right: by confidence, service, length of the context, and support of its last node.

Sums are kept a repeat, and added up over repeats: name -> group -> [examples, hits, confidence].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dagrec.evaluation.evaluator import RunResult
from dagrec.metrics.ranking import ECE_BINS

LENGTHS = (0, 1, 2, 3, 4, 6, 9, 17)
SUPPORTS = (0, 1, 3, 10, 30, 100, 300)
"""Lower ends of the groups."""

Sums = dict[str, dict[str, list[float]]]


def breakdown(run: RunResult) -> Sums:
    """Examples, hits and confidence of one repeat in each group."""
    examples, outcome = run.examples, run.outcome
    bins = np.minimum((outcome.confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    groups = {
        "confidence": [f"{b / ECE_BINS:.1f}-{(b + 1) / ECE_BINS:.1f}" for b in bins],
        "service": [example.target for example in examples],
        "length": [_range(len(example.context.path), LENGTHS) for example in examples],
        "support": [_range(value, SUPPORTS) for value in run.support],
    }
    sums: Sums = {name: {} for name in groups}
    for name, own in groups.items():
        for group, hit, confidence in zip(own, outcome.hits, outcome.confidence, strict=True):
            total = sums[name].setdefault(group, [0.0, 0.0, 0.0])
            total[0] += 1
            total[1] += float(hit)
            total[2] += float(confidence)
    return sums


def summed(repeats: Sequence[Sums]) -> dict[str, list[dict[str, Any]]]:
    """Accuracy and mean confidence in each group over all repeats, the groups in their order."""
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
            for group, total in sorted(groups.items(), key=lambda item: _order(name, *item))
        ]
        for name, groups in totals.items()
    }


def _order(name: str, group: str, total: Sequence[float]) -> tuple[float, str]:
    """Services by how often they are the target, ranges by their lower end."""
    if name == "service":
        return -total[0], group
    return float(group.rstrip("+").partition("-")[0]), group


def _range(value: float, lows: Sequence[int]) -> str:
    """The name of the range that a value lies in: ``4-5``, ``3``, ``17+``."""
    at = int(np.searchsorted(lows, value, side="right")) - 1
    if at + 1 == len(lows):
        return f"{lows[at]}+"
    high = lows[at + 1] - 1
    return str(high) if high == lows[at] else f"{lows[at]}-{high}"
