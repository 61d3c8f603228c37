"""Negatives drawn in proportion to a power of their popularity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PopularitySampler:
    """Columns with P(c) proportional to count(c) ** alpha, by inverse of the cumulative distribution.

    alpha 0 is uniform over the columns with a count, 1 is popularity. The distribution is kept in
    float64: float32 loses rare columns of large catalogues.
    """

    cumulative: Tensor

    @classmethod
    def of(cls, counts: Tensor, alpha: float) -> PopularitySampler:
        """counts: [C], not negative, at least one above 0."""
        weights = torch.where(counts > 0, counts.double() ** alpha, 0.0)
        cumulative = torch.cumsum(weights, dim=0)
        return cls(cumulative / cumulative[-1])

    def draw(self, rows: int, size: int) -> Tensor:
        """[rows, size] columns, with replacement, from torch's current generator."""
        device = self.cumulative.device
        uniform = torch.rand(rows, size, dtype=torch.float64, device=device)
        # right=True: a column of weight 0 has the same cumulative value as the one before it, and
        # is passed over.
        return torch.searchsorted(self.cumulative, uniform, right=True)
