"""Estimates from draws of sums over services are unbiased."""

from __future__ import annotations

import itertools

import pytest
import torch

from dagrec.training.sampling import Sampler
from tests.training.draws import COUNTS, estimates, fixed_sampler, mean_is_close, shares, sum_without

pytestmark = pytest.mark.usefixtures("isolated_rng")


@pytest.mark.parametrize(
    ("target", "columns"), [(0, [1, 2, 4, 5]), (4, [1, 2, 5]), (1, [2, 4, 5]), (5, [1, 2, 4])]
)
def test_estimate_from_draws_per_row_is_unbiased_by_enumeration(
    target: int, columns: list[int]
) -> None:
    q = shares(0.75)[columns] / shares(0.75)[columns].sum()
    expectation = 0.0
    for chosen in itertools.product(range(len(columns)), repeat=2):
        sampler = fixed_sampler(columns[i] for i in chosen)
        draw = sampler.draw(torch.tensor([target]), 2)
        expectation += float(q[list(chosen)].prod() * estimates(draw)[0])
    assert expectation == pytest.approx(sum_without(target))


def test_estimate_from_shared_draws_is_unbiased_by_enumeration() -> None:
    q = shares(0.75)
    expectation = torch.zeros(3, dtype=torch.float64)
    for chosen in itertools.product([1, 2, 4, 5], repeat=2):
        draw = fixed_sampler(chosen).draw_shared(torch.tensor([4, 1, 0]), 2)
        expectation += q[list(chosen)].prod() * estimates(draw)
    assert expectation.tolist() == pytest.approx([sum_without(4), sum_without(1), sum_without()])


@pytest.mark.parametrize("size", [0, 1])
def test_estimate_from_batch_is_unbiased_by_enumeration(size: int) -> None:
    """The first of three rows has target 5, and the targets of the others are drawn by popularity."""
    p, q = shares(1.0), shares(0.75)
    expectation = 0.0
    for others in itertools.product([1, 2, 4, 5], repeat=2):
        for chosen in itertools.product([1, 2, 4, 5], repeat=size):
            targets = torch.tensor([5, *others])
            draw = fixed_sampler(chosen).draw_shared(targets, size, in_batch=True)
            expectation += float(p[list(others)].prod() * q[list(chosen)].prod() * estimates(draw)[0])
    assert expectation == pytest.approx(sum_without(5))


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_mean_estimate_from_draws_per_row(alpha: float) -> None:
    draw = Sampler.of(COUNTS, alpha).draw(torch.full((20_000,), 4), 3)
    assert mean_is_close(estimates(draw), sum_without(4))


def test_mean_estimate_from_shared_draws() -> None:
    sampler, targets = Sampler.of(COUNTS, 0.75), torch.tensor([4, 1, 0])
    sums = torch.stack([estimates(sampler.draw_shared(targets, 2)) for _ in range(8_000)])
    assert mean_is_close(sums[:, 0], sum_without(4))
    assert mean_is_close(sums[:, 1], sum_without(1))
    assert mean_is_close(sums[:, 2], sum_without())
