"""Sums over services, estimated from draws, are right on average."""

from __future__ import annotations

import itertools

import pytest
import torch

from dagrec.training.sampling import Excluded, Sampler
from tests.training.draws import (
    COUNTS,
    METHODS,
    estimates,
    excluded,
    giving,
    near,
    shares,
    sum_without,
)

pytestmark = pytest.mark.usefixtures("own_generator")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize(("gone", "columns"), [((), [1, 2, 4, 5]), ((4,), [1, 2, 5]), ((1, 5), [2, 4])])
def test_the_sum_of_draws_of_a_row_is_right_over_all_of_them(
    gone: tuple[int, ...], columns: list[int]
) -> None:
    q = shares(0.75)[columns] / shares(0.75)[columns].sum()
    found = 0.0
    for chosen in itertools.product(range(len(columns)), repeat=2):
        sampler = giving(columns[i] for i in chosen)
        drawn = sampler.draw(1, 2, excluded(*((0, column) for column in (*gone, 0))))
        found += float(q[list(chosen)].prod() * estimates(drawn)[0])
    assert found == pytest.approx(sum_without(*gone))


def test_the_sum_of_shared_draws_is_right_over_all_of_them() -> None:
    q = shares(0.75)
    found = torch.zeros(3, dtype=torch.float64)
    for chosen in itertools.product([1, 2, 4, 5], repeat=2):
        drawn = giving(chosen).draw_shared(3, 2, excluded((0, 4), (1, 2), (1, 1)))
        found += q[list(chosen)].prod() * estimates(drawn)
    assert found.tolist() == pytest.approx([sum_without(4), sum_without(1, 2), sum_without()])


@pytest.mark.parametrize("size", [0, 1])
def test_the_sum_over_a_batch_is_right_over_all_its_other_targets(size: int) -> None:
    """Of three rows the first has target 5, and also excludes 1; the others are drawn by popularity."""
    p, q = shares(1.0), shares(0.75)
    found = 0.0
    for others in itertools.product([1, 2, 4, 5], repeat=2):
        for chosen in itertools.product([1, 2, 4, 5], repeat=size):
            batch = torch.tensor([5, *others])
            drawn = giving(chosen).draw_shared(3, size, excluded((0, 5), (0, 1)), batch=batch)
            found += float(p[list(others)].prod() * q[list(chosen)].prod() * estimates(drawn)[0])
    assert found == pytest.approx(sum_without(5, 1))


@pytest.mark.parametrize("alpha", [0.0, 0.75])
def test_the_sum_of_draws_of_a_row_is_right_on_average(method: str, alpha: float) -> None:
    rows = torch.arange(20_000)
    gone = Excluded(rows, torch.full_like(rows, 4))
    sampler = Sampler.of(COUNTS, alpha, method=method)
    assert near(estimates(sampler.draw(len(rows), 3, gone)), sum_without(4))


@pytest.mark.parametrize("alpha", [0.0, 0.75])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_sum_without_replacement_is_right_on_average(size: int, alpha: float) -> None:
    """Three columns are all there are, and the sum is exact."""
    rows = torch.arange(40_000)
    sampler = Sampler.of(COUNTS, alpha, replacement=False)
    drawn = sampler.draw(len(rows), size, Excluded(rows, torch.full_like(rows, 4)))
    assert drawn.valid.all()
    found = estimates(drawn)
    if size == 3:
        torch.testing.assert_close(found, torch.full_like(found, sum_without(4)))
    else:
        assert found.std() > 0.1
        assert near(found, sum_without(4))


def test_the_sum_shared_without_replacement_is_right_on_average() -> None:
    sampler = Sampler.of(COUNTS, 0.75, replacement=False)
    gone = excluded((0, 4), (1, 1), (1, 2))
    found = torch.stack([estimates(sampler.draw_shared(3, 2, gone)) for _ in range(8_000)])
    assert near(found[:, 0], sum_without(4))
    assert near(found[:, 1], sum_without(1, 2))
    assert near(found[:, 2], sum_without())
