from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from dagrec.training.sampling import PopularitySampler

COUNTS = torch.tensor([0.0, 5.0, 1.0, 0.0, 20.0, 4.0, 0.0])


@pytest.fixture(autouse=True)
def _own_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def frequencies(counts: Tensor, alpha: float, size: int = 40_000) -> Tensor:
    drawn = PopularitySampler.of(counts, alpha).draw(4, size // 4)
    return torch.bincount(drawn.flatten(), minlength=len(counts))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.75, 1.0])
def test_columns_are_drawn_by_a_power_of_their_count(alpha: float) -> None:
    found = frequencies(COUNTS, alpha)
    kept = COUNTS > 0
    weights = COUNTS[kept].double() ** alpha
    expected = weights / weights.sum() * found.sum()
    assert chisquare(found[kept].numpy(), expected.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
def test_columns_without_a_count_are_never_drawn(alpha: float) -> None:
    assert not frequencies(COUNTS, alpha)[COUNTS == 0].any()


def test_a_draw_at_the_edge_of_a_column_goes_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of u in [0, 1) each column has a part with its lower end; those of weight 0 have none."""
    sampler = PopularitySampler.of(torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 2.0]), 1.0)
    edges = torch.tensor([[0.0, 0.25, 0.5]], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: edges)
    assert sampler.draw(1, 3).tolist() == [[1, 4, 5]]


def test_alpha_zero_is_uniform_over_columns_with_a_count() -> None:
    found = frequencies(torch.tensor([1.0, 1000.0, 3.0]), 0.0)
    assert chisquare(found.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("counts", [[3.0], [0.0, 2.0], [2.0, 0.0]])
def test_a_single_column_is_always_drawn(counts: list[float]) -> None:
    drawn = PopularitySampler.of(torch.tensor(counts), 0.75).draw(3, 50)
    assert (drawn == int(np.argmax(counts))).all()


def test_rare_columns_of_large_catalogues_are_not_lost() -> None:
    """In float32 the cumulative sum would not move at the end of ten million counts."""
    counts = torch.cat([torch.full((1,), 1e9), torch.ones(1000)])
    cumulative = PopularitySampler.of(counts, 1.0).cumulative
    assert cumulative.dtype == torch.float64
    assert (cumulative.diff() > 0).all()
    assert cumulative[-1] == 1


def test_shape_and_range() -> None:
    drawn = PopularitySampler.of(COUNTS, 0.75).draw(5, 9)
    assert drawn.shape == (5, 9)
    assert drawn.dtype == torch.int64
    assert PopularitySampler.of(COUNTS, 0.75).draw(0, 9).shape == (0, 9)


def test_the_generator_decides_the_draw() -> None:
    sampler = PopularitySampler.of(COUNTS, 0.75)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(sampler.draw(4, 50))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
