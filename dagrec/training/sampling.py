"""Negatives: services drawn by a power of their popularity, and how often each draw is expected.

A sum over services is estimated from draws as sum_j f(j) / n_j, where n_j is how often j is expected
among them: for each way of drawing here, that is right on average. Probabilities are in float64, since
float32 loses the rare services of a large catalogue, and there may be more than the 2^24 categories at
which ``torch.multinomial`` ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAX_ROUNDS = 100
"""How often draws that hit the target are repeated. With a target that has half of the probability, one
draw in 2^100 is left over; with 99 %, a third of them."""


class Draw(NamedTuple):
    """K services against each of P targets.

    columns: [P, K] int64; valid: [P, K], False for those that do not count; log_expected: [P, K]
    float32, logarithm of how often the service is expected in the row, 0 where not valid.
    """

    columns: Tensor
    valid: Tensor
    log_expected: Tensor


@dataclass(frozen=True)
class Sampler:
    """Draws columns j with probability q_j proportional to count_j ** alpha, with replacement.

    alpha 0 is uniform over the columns with a count, 1 is popularity. Draws take a generator on the
    device of the sampler, or torch's current one, and the same state gives the same draw.

    probabilities: [C] float64, the q_j; cumulative: [C] float64, their running sum, 1 at the end;
    popularity: [C] float64, the shares p_j of the counts themselves.
    """

    probabilities: Tensor
    cumulative: Tensor
    popularity: Tensor

    @classmethod
    def of(cls, counts: Tensor, alpha: float) -> Sampler:
        """counts: [C], not negative, at least one above 0; the sampler is on their device."""
        popularity = counts.double() / counts.sum(dtype=torch.float64)
        if not popularity.isfinite().all():
            raise ValueError("one of the counts must be above 0, found none")
        weights = torch.where(counts > 0, counts.double() ** alpha, 0)
        # On the CPU a running sum never decreases; on a GPU it may, by the order of its additions.
        cumulative = torch.cumsum(weights.cpu(), dim=0)
        cumulative = (cumulative / cumulative[-1]).to(counts.device)
        return cls(weights / weights.sum(), cumulative, popularity)

    def draw(self, targets: Tensor, size: int, *, generator: torch.Generator | None = None) -> Draw:
        """[P, size] columns, drawn for each of the targets [P] by itself.

        Each column has probability q_j / (1 - q of the target), and is expected k times as often, k
        being the number of valid ones in the row. A draw that hits the target is repeated, up to
        :data:`MAX_ROUNDS` times, and not valid when that was not enough.
        """
        device = self.probabilities.device
        # Counted, since a difference of probabilities need not be 0 where nothing is left.
        drawable = self.probabilities > 0
        left_to_draw = drawable.sum() - drawable[targets].long()
        row = torch.arange(len(targets), device=device).repeat_interleave(size)
        columns = self._columns(len(targets) * size, generator)
        valid = (left_to_draw > 0)[row]
        again = torch.nonzero((columns == targets[row]) & valid).squeeze(1)
        for _ in range(MAX_ROUNDS):
            if not len(again):
                break
            columns[again] = self._columns(len(again), generator)
            again = again[columns[again] == targets[row[again]]]
        valid[again] = False

        shape = (len(targets), size)
        columns, valid = columns.view(shape), valid.view(shape)
        left = 1 - self.probabilities[targets]
        scale = valid.sum(dim=1) / left.clamp(min=torch.finfo(left.dtype).tiny)
        return _draw(columns, valid, (scale[:, None] * self.probabilities[columns]).log())

    def draw_shared(
        self,
        targets: Tensor,
        size: int,
        *,
        in_batch: bool = False,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """``size`` columns for all targets [P] together, not valid where they are the target itself.

        With ``in_batch`` the targets stand in front of the draws, [P, P + size], and are negatives of
        the other rows: in its own row a target is there for certain and not by chance. The other P - 1
        are taken as draws by popularity, so that a column is expected (P - 1) p_j + size q_j times,
        from wherever it came (the balance heuristic of Veach and Guibas 1995).
        """
        columns = self._columns(size, generator)
        expected = size * self.probabilities[columns]
        if in_batch:
            columns = torch.cat([targets, columns])
            by_popularity = (len(targets) - 1) * self.popularity[columns]
            expected = by_popularity + size * self.probabilities[columns]
        valid = (expected > 0) & (columns != targets[:, None])
        shape = (len(targets), len(columns))
        return _draw(columns.expand(shape), valid, expected.log().expand(shape))

    def _columns(self, size: int, generator: torch.Generator | None) -> Tensor:
        """[size] independent draws: a search for a uniform number in the running sum, O(log C) each."""
        device = self.cumulative.device
        uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=device)
        # right=True: a column of weight 0 has the same cumulative value as the one before it, and
        # is passed over.
        return torch.searchsorted(self.cumulative, uniform, right=True)


def _draw(columns: Tensor, valid: Tensor, log_expected: Tensor) -> Draw:
    return Draw(columns, valid, log_expected.masked_fill(~valid, 0).float())
