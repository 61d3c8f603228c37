"""Ranks of targets among all services, with ties in expectation.

Let a be the number of services with a strictly higher score than the target, and m the number of
services with the same score, including the target. If ties are broken at random, the rank of the target
is uniform on a+1 .. a+m, and the expectation of every metric is computed exactly from (a, m).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dagrec.types import Floats, Ids, Mask


@dataclass(frozen=True)
class Ranks:
    """better: [n] a; tied: [n] m; reachable: [n] whether the target is known and allowed."""

    better: Ids
    tied: Ids
    reachable: Mask

    @classmethod
    def of(cls, scores: Floats, targets: Ids) -> Ranks:
        """The ranks of the targets.

        scores: [n, C], -inf for masked services; targets: [n] columns, -1 for unknown services. A
        masked or unknown target is not reachable and is a miss in every metric.
        """
        target_scores = np.take_along_axis(scores, np.maximum(targets, 0)[:, None], axis=1)
        reachable = (targets >= 0) & np.isfinite(target_scores[:, 0])
        better = (scores > target_scores).sum(axis=1)
        tied = (scores == target_scores).sum(axis=1)
        return cls(better, tied, reachable)

    def expect(self, gains: Floats) -> Floats:
        """[n] mean of ``gains[r - 1]`` over the ranks r = a+1 .. a+m; 0 for a miss.

        gains: [C], one value per rank.
        """
        sums = np.concatenate([[0.0], np.cumsum(gains)])
        mean = (sums[self.better + self.tied] - sums[self.better]) / np.maximum(self.tied, 1)
        return np.where(self.reachable, mean, 0.0)

    def middle(self) -> Floats:
        """[n] expected rank a + (m + 1) / 2; undefined for a miss."""
        return self.better + (self.tied + 1) / 2
