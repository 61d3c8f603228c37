"""Draws of services whose sums are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dagrec.training.sampling import Draw, Excluded, Sampler

COUNTS = torch.tensor([0.0, 5.0, 1.0, 0.0, 20.0, 4.0, 0.0])
SCORES = torch.tensor([9.0, 0.5, 1.5, 9.0, -1.0, 1.0, 9.0], dtype=torch.float64)
NOTHING = Excluded(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))
METHODS = ["inverse-cdf", "alias"]
ALPHAS = [0.0, 0.5, 0.75, 1.0]


def excluded(*pairs: tuple[int, int]) -> Excluded:
    rows, columns = torch.tensor(pairs).T
    return Excluded(rows, columns)


def shares(alpha: float, counts: Tensor = COUNTS) -> Tensor:
    weights = torch.where(counts > 0, counts.double() ** alpha, 0)
    return weights / weights.sum()


def estimates(draw: Draw) -> Tensor:
    """[P] the sum of exp(s) over services, estimated from each row."""
    terms = (SCORES[draw.columns] - draw.log_expected.double()).exp()
    return (terms * draw.valid).sum(dim=1)


def sum_without(*columns: int) -> float:
    """The sum of exp(s) over the services that can be drawn, of which these are excluded."""
    kept = COUNTS > 0
    kept[list(columns)] = False
    return float(SCORES[kept].exp().sum())


def near(values: Tensor, expected: float) -> bool:
    """Whether the mean of independent values is within four standard errors, which are small."""
    error = float(values.std() / math.sqrt(len(values)))
    assert error < 0.05 * expected
    return abs(float(values.mean()) - expected) < 4 * error


# What is not valid


@dataclass(frozen=True)
class Given:
    """A source of these columns, which fails when it is asked for more."""

    columns: Iterator[int]

    def draw(self, size: int, generator: torch.Generator | None) -> Tensor:
        assert generator is None
        return torch.tensor([next(self.columns) for _ in range(size)], dtype=torch.int64)


def giving(columns: Iterable[int]) -> Sampler:
    return replace(Sampler.of(COUNTS, 0.75), source=Given(iter(columns)))
