"""Sums over services, estimated from draws, are right on average."""

from __future__ import annotations

import itertools

import pytest
import torch

from dagrec.training.sampling import Sampler
from tests.training.draws import COUNTS, estimates, giving, near, shares, sum_without

pytestmark = pytest.mark.usefixtures("isolated_rng")


@pytest.mark.parametrize(
    ("target", "columns"), [(0, [1, 2, 4, 5]), (4, [1, 2, 5]), (1, [2, 4, 5]), (5, [1, 2, 4])]
)
def test_the_sum_of_draws_of_a_row_is_right_over_all_of_them(target: int, columns: list[int]) -> None:
    q = shares(0.75)[columns] / shares(0.75)[columns].sum()
    found = 0.0
    for chosen in itertools.product(range(len(columns)), repeat=2):
        sampler = giving(columns[i] for i in chosen)
        drawn = sampler.draw(torch.tensor([target]), 2)
        found += float(q[list(chosen)].prod() * estimates(drawn)[0])
    assert found == pytest.approx(sum_without(target))


def test_the_sum_of_shared_draws_is_right_over_all_of_them() -> None:
    q = shares(0.75)
    found = torch.zeros(3, dtype=torch.float64)
    for chosen in itertools.product([1, 2, 4, 5], repeat=2):
        drawn = giving(chosen).draw_shared(torch.tensor([4, 1, 0]), 2)
        found += q[list(chosen)].prod() * estimates(drawn)
    assert found.tolist() == pytest.approx([sum_without(4), sum_without(1), sum_without()])


@pytest.mark.parametrize("size", [0, 1])
def test_the_sum_over_a_batch_is_right_over_all_its_other_targets(size: int) -> None:
    """Of three rows the first has target 5; the others are drawn by popularity."""
    p, q = shares(1.0), shares(0.75)
    found = 0.0
    for others in itertools.product([1, 2, 4, 5], repeat=2):
        for chosen in itertools.product([1, 2, 4, 5], repeat=size):
            targets = torch.tensor([5, *others])
            drawn = giving(chosen).draw_shared(targets, size, in_batch=True)
            found += float(p[list(others)].prod() * q[list(chosen)].prod() * estimates(drawn)[0])
    assert found == pytest.approx(sum_without(5))


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_the_sum_of_draws_of_a_row_is_right_on_average(alpha: float) -> None:
    drawn = Sampler.of(COUNTS, alpha).draw(torch.full((20_000,), 4), 3)
    assert near(estimates(drawn), sum_without(4))


def test_the_sum_of_shared_draws_is_right_on_average() -> None:
    sampler, targets = Sampler.of(COUNTS, 0.75), torch.tensor([4, 1, 0])
    found = torch.stack([estimates(sampler.draw_shared(targets, 2)) for _ in range(8_000)])
    assert near(found[:, 0], sum_without(4))
    assert near(found[:, 1], sum_without(1))
    assert near(found[:, 2], sum_without())
