"""Helpers for tests of sampling."""

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


def undrawable_targets(rows: int) -> Tensor:
    """Targets with count 0, which are never drawn."""
    return torch.zeros(rows, dtype=torch.int64)


def shares(alpha: float, counts: Tensor = COUNTS) -> Tensor:
    weights = torch.where(counts > 0, counts.double() ** alpha, 0)
    return weights / weights.sum()


def estimates(draw: Draw) -> Tensor:
    """[P] estimate of the sum of exp(s) over services from each row."""
    terms = (SCORES[draw.columns] - draw.log_expected.double()).exp()
    return (terms * draw.valid).sum(dim=1)


def sum_without(*columns: int) -> float:
    """The sum of exp(s) over all services with a positive count, except ``columns``."""
    included = COUNTS > 0
    included[list(columns)] = False
    return float(SCORES[included].exp().sum())


def mean_is_close(values: Tensor, expected: float) -> bool:
    """Whether the mean of independent values is within four (small) standard errors."""
    error = float(values.std() / math.sqrt(len(values)))
    assert error < 0.05 * expected
    return abs(float(values.mean()) - expected) < 4 * error


@dataclass(frozen=True)
class FixedSampler(Sampler):
    """A sampler that draws the given columns, and fails if there are not enough."""

    columns: Iterator[int]

    def _columns(self, size: int, generator: torch.Generator | None) -> Tensor:
        assert generator is None
        return torch.tensor([next(self.columns) for _ in range(size)], dtype=torch.int64)


def fixed_sampler(columns: Iterable[int], counts: Tensor = COUNTS) -> FixedSampler:
    return FixedSampler(**vars(Sampler.of(counts, 0.75)), columns=iter(columns))
