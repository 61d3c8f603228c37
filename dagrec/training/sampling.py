"""Sampling of negatives in proportion to a power of their popularity.

A sum over all services is estimated from draws by sum_j f(j) / n_j, where n_j is the expected number of
occurrences of j among the draws. This is unbiased for every method of sampling here. Probabilities are
float64, because float32 loses the rare services if there are many. ``torch.multinomial`` is not used,
because it is limited to 2^24 categories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAX_ROUNDS = 100
"""How often draws of the target are repeated. If the target has probability 0.5, one draw in 2^100 is
still the target afterwards; if it has probability 0.99, a third of the draws."""


class Draw(NamedTuple):
    """K negatives for each of P targets.

    columns: [P, K] int64 service columns; valid: [P, K], False for negatives to ignore; log_expected:
    [P, K] float32, logarithm of the expected number of occurrences of the service in the row, 0 where
    not valid.
    """

    columns: Tensor
    valid: Tensor
    log_expected: Tensor


@dataclass(frozen=True)
class Sampler:
    """Draws columns j with replacement and with probability q_j proportional to count_j ** alpha.

    alpha = 0 is uniform over the columns with a positive count, and alpha = 1 is popularity. Random
    numbers come from a generator on the device of the sampler, by default torch's current one.

    probabilities: [C] float64, the q_j; cumulative: [C] float64, their cumulative sum, which ends at 1;
    popularity: [C] float64, the shares p_j of the counts.
    """

    probabilities: Tensor
    cumulative: Tensor
    popularity: Tensor

    @classmethod
    def of(cls, counts: Tensor, alpha: float) -> Sampler:
        """The sampler for counts [C], which must not be negative and not all 0, on their device."""
        popularity = counts.double() / counts.sum(dtype=torch.float64)
        if not popularity.isfinite().all():
            raise ValueError("one of the counts must be above 0, found none")
        weights = torch.where(counts > 0, counts.double() ** alpha, 0)
        # A cumulative sum never decreases on the CPU. On a GPU it can, due to rounding.
        cumulative = torch.cumsum(weights.cpu(), dim=0)
        cumulative = (cumulative / cumulative[-1]).to(counts.device)
        return cls(weights / weights.sum(), cumulative, popularity)

    def draw(self, targets: Tensor, size: int, *, generator: torch.Generator | None = None) -> Draw:
        """Draw ``size`` columns for each of the targets [P]: [P, size].

        A column j other than the target t has probability q_j / (1 - q_t), and its expected number of
        occurrences is k times that, where k is the number of valid columns in the row. A draw of the
        target is repeated up to :data:`MAX_ROUNDS` times, and is not valid if all of them fail.
        """
        device = self.probabilities.device
        # Columns are counted, because rounding could leave a probability above 0 for no other column.
        drawable = self.probabilities > 0
        num_others = drawable.sum() - drawable[targets].long()
        row = torch.arange(len(targets), device=device).repeat_interleave(size)
        columns = self._columns(len(targets) * size, generator)
        valid = (num_others > 0)[row]
        rejected = torch.nonzero((columns == targets[row]) & valid).squeeze(1)
        for _ in range(MAX_ROUNDS):
            if not len(rejected):
                break
            columns[rejected] = self._columns(len(rejected), generator)
            rejected = rejected[columns[rejected] == targets[row[rejected]]]
        valid[rejected] = False

        shape = (len(targets), size)
        columns, valid = columns.view(shape), valid.view(shape)
        q_others = 1 - self.probabilities[targets]
        scale = valid.sum(dim=1) / q_others.clamp(min=torch.finfo(q_others.dtype).tiny)
        return _make_draw(columns, valid, (scale[:, None] * self.probabilities[columns]).log())

    def draw_shared(
        self,
        targets: Tensor,
        size: int,
        *,
        in_batch: bool = False,
        generator: torch.Generator | None = None,
    ) -> Draw:
        """Draw ``size`` columns that all targets [P] share. They are not valid for an equal target.

        With ``in_batch``, the targets precede the draws, [P, P + size], and are negatives of the other
        rows. The other P - 1 targets are treated as draws by popularity, so the expected number of
        occurrences of column j is (P - 1) p_j + size q_j, whether it is a draw or a target (the balance
        heuristic of Veach and Guibas 1995).
        """
        columns = self._columns(size, generator)
        expected = size * self.probabilities[columns]
        if in_batch:
            columns = torch.cat([targets, columns])
            by_popularity = (len(targets) - 1) * self.popularity[columns]
            expected = by_popularity + size * self.probabilities[columns]
        valid = (expected > 0) & (columns != targets[:, None])
        shape = (len(targets), len(columns))
        return _make_draw(columns.expand(shape), valid, expected.log().expand(shape))

    def _columns(self, size: int, generator: torch.Generator | None) -> Tensor:
        """[size] independent draws by inversion of the cumulative distribution, in O(log C) each."""
        device = self.cumulative.device
        uniform = torch.rand(size, dtype=torch.float64, generator=generator, device=device)
        # right=True skips columns of weight 0, which have the cumulative value of the one before.
        return torch.searchsorted(self.cumulative, uniform, right=True)


def _make_draw(columns: Tensor, valid: Tensor, log_expected: Tensor) -> Draw:
    return Draw(columns, valid, log_expected.masked_fill(~valid, 0).float())
