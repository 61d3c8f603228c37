"""Where the target stands among the candidates, with ties counted in expectation.

Let a be the number of candidates that score strictly better than the target and m the size of the
block of equal scores that holds it. Under a random order of the block every metric has an exact
expectation in (a, m); nothing here breaks a tie by position.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dagrec.types import Floats, Ids, Mask


@dataclass(frozen=True)
class Ranks:
    """better: [n] a; tied: [n] m; reachable: [n] whether the target can be answered at all."""

    better: Ids
    tied: Ids
    reachable: Mask

    @classmethod
    def of(cls, scores: Floats, targets: Ids) -> Ranks:
        """scores: [n, C], -inf for what the mask removed; targets: [n] columns, -1 for unknown.

        A target that is removed or unknown is never answered: it is a miss, in every metric.
        """
        own = np.take_along_axis(scores, np.maximum(targets, 0)[:, None], axis=1)
        reachable = (targets >= 0) & np.isfinite(own[:, 0])
        return cls((scores > own).sum(axis=1), (scores == own).sum(axis=1), reachable)

    def expect(self, gain: Floats) -> Floats:
        """[n] expected value of ``gain[r - 1]`` over the ranks r = a+1 .. a+m; 0 for a miss.

        gain: [C] the worth of each rank.
        """
        sums = np.concatenate([[0.0], np.cumsum(gain)])
        mean = (sums[self.better + self.tied] - sums[self.better]) / np.maximum(self.tied, 1)
        return np.where(self.reachable, mean, 0.0)

    def middle(self) -> Floats:
        """[n] expected rank a + (m + 1) / 2; without meaning for a miss, which has no rank."""
        return self.better + (self.tied + 1) / 2
