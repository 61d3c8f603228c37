"""Draws of services whose sums are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dagrec.training.sampling import Draw, Sampler

COUNTS = torch.tensor([0.0, 5.0, 1.0, 0.0, 20.0, 4.0, 0.0])
SCORES = torch.tensor([9.0, 0.5, 1.5, 9.0, -1.0, 1.0, 9.0], dtype=torch.float64)
ALPHAS = [0.0, 0.5, 0.75, 1.0]


def undrawn(rows: int) -> Tensor:
    """Targets that no draw of :data:`COUNTS` can hit."""
    return torch.zeros(rows, dtype=torch.int64)


def shares(alpha: float, counts: Tensor = COUNTS) -> Tensor:
    weights = torch.where(counts > 0, counts.double() ** alpha, 0)
    return weights / weights.sum()


def estimates(draw: Draw) -> Tensor:
    """[P] the sum of exp(s) over services, estimated from each row."""
    terms = (SCORES[draw.columns] - draw.log_expected.double()).exp()
    return (terms * draw.valid).sum(dim=1)


def sum_without(*columns: int) -> float:
    """The sum of exp(s) over the services that can be drawn, without these."""
    kept = COUNTS > 0
    kept[list(columns)] = False
    return float(SCORES[kept].exp().sum())


def near(values: Tensor, expected: float) -> bool:
    """Whether the mean of independent values is within four standard errors, which are small."""
    error = float(values.std() / math.sqrt(len(values)))
    assert error < 0.05 * expected
    return abs(float(values.mean()) - expected) < 4 * error


@dataclass(frozen=True)
class Giving(Sampler):
    """Draws these columns, and fails when it is asked for more."""

    columns: Iterator[int]

    def _columns(self, size: int, generator: torch.Generator | None) -> Tensor:
        assert generator is None
        return torch.tensor([next(self.columns) for _ in range(size)], dtype=torch.int64)


def giving(columns: Iterable[int], counts: Tensor = COUNTS) -> Giving:
    return Giving(**vars(Sampler.of(counts, 0.75)), columns=iter(columns))
