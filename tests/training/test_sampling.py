from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from dagrec.training.sampling import Draw, Sampler
from tests.checks import says
from tests.training.draws import ALPHAS, COUNTS, giving, shares, undrawn

pytestmark = pytest.mark.usefixtures("isolated_rng")
WAYS = ["rows", "shared", "batch"]


def draw_by(
    way: str,
    sampler: Sampler,
    targets: Tensor,
    size: int,
    generator: torch.Generator | None = None,
) -> Draw:
    """A draw for each row, one for all of them, or one that stands behind the targets."""
    if way == "rows":
        return sampler.draw(targets, size, generator=generator)
    return sampler.draw_shared(targets, size, in_batch=way == "batch", generator=generator)


def in_proportion(columns: Tensor, expected: Tensor) -> bool:
    """Whether columns have these shares, by a chi-square test, and none of them has a share of 0."""
    found = torch.bincount(columns.flatten(), minlength=len(expected))
    kept = expected > 0
    assert not found[~kept].any()
    if kept.sum() == 1:
        return True
    share = expected[kept] / expected[kept].sum()
    return bool(chisquare(found[kept].numpy(), (share * found.sum()).numpy()).pvalue > 1e-4)


# Frequencies


@pytest.mark.parametrize("alpha", ALPHAS)
def test_columns_are_drawn_by_a_power_of_their_count(alpha: float) -> None:
    drawn = Sampler.of(COUNTS, alpha).draw(undrawn(4), 10_000)
    assert drawn.valid.all()
    assert in_proportion(drawn.columns, shares(alpha))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_others_keep_their_proportions_where_the_target_is_never_drawn(alpha: float) -> None:
    """Also the most popular one, which makes most draws repeat, and one that nothing draws."""
    targets = [4, 0, 1]
    drawn = Sampler.of(COUNTS, alpha).draw(torch.tensor(targets), 20_000)
    assert drawn.valid.all()
    for row, target in enumerate(targets):
        left = shares(alpha)
        left[target] = 0
        assert in_proportion(drawn.columns[row], left)


def test_columns_are_shared_in_proportion() -> None:
    drawn = Sampler.of(COUNTS, 0.75).draw_shared(undrawn(2), 20_000)
    assert torch.equal(drawn.columns[0], drawn.columns[1])
    assert in_proportion(drawn.columns[0], shares(0.75))


def test_alpha_zero_is_uniform_over_columns_with_a_count() -> None:
    counts = torch.tensor([0.0, 1.0, 1000.0, 3.0])
    drawn = Sampler.of(counts, 0.0).draw(undrawn(4), 10_000)
    assert in_proportion(drawn.columns, torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_columns_without_a_count_are_never_valid(alpha: float) -> None:
    """Not even as the target of another row."""
    sampler = Sampler.of(COUNTS, alpha)
    for way, rows in (("rows", 500), ("shared", 2), ("batch", 2)):
        drawn = draw_by(way, sampler, undrawn(rows), 9)
        assert drawn.valid.any()
        assert (COUNTS[drawn.columns[drawn.valid]] > 0).all()


@pytest.mark.parametrize("counts", [[3.0], [0.0, 2.0], [2.0, 0.0]])
def test_a_single_column_is_always_drawn(counts: list[float]) -> None:
    """Where it is the target as well, nothing is left to draw."""
    only, other = int(np.argmax(counts)), int(np.argmin(counts))
    drawn = Sampler.of(torch.tensor(counts), 0.75).draw(torch.full((3,), other), 50)
    assert (drawn.columns == only).all()
    assert (drawn.valid == (only != other)).all()


def test_a_sampler_needs_a_count() -> None:
    with pytest.raises(ValueError, match="above 0") as error:
        Sampler.of(torch.zeros(3), 0.5)
    assert says(error, "counts", "none")


# Single draws


def test_a_draw_at_the_edge_of_a_column_goes_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of u in [0, 1) each column has a part with its lower end; those of weight 0 have none."""
    sampler = Sampler.of(torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 2.0]), 1.0)
    edges = torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: edges)
    assert sampler.draw(undrawn(1), 3).columns.tolist() == [[1, 4, 5]]


def test_rare_columns_of_large_catalogues_are_not_lost() -> None:
    """In float32 the cumulative sum would not move at the end of ten million counts."""
    sampler = Sampler.of(torch.cat([torch.full((1,), 1e9), torch.ones(1000)]), 1.0)
    assert sampler.cumulative.dtype == torch.float64
    assert (sampler.cumulative.diff() > 0).all()
    assert sampler.cumulative[-1] == 1


def test_there_may_be_more_than_two_to_the_24_columns() -> None:
    """In float32 neither the columns nor their shares could be told apart."""
    size = 2**24 + 8
    sampler = Sampler.of(torch.ones(size), 0.0)
    drawn = sampler.draw(torch.tensor([0, size - 1]), 2048)
    assert in_proportion(drawn.columns * 16 // size, torch.ones(16, dtype=torch.float64))
    assert in_proportion(drawn.columns % 2, torch.ones(2, dtype=torch.float64))
    assert drawn.log_expected[0, 0].item() == pytest.approx(math.log(2048 / (size - 1)))
    assert (sampler.cumulative.diff() > 0).all()


def test_only_draws_that_hit_the_target_are_repeated() -> None:
    columns = [*(4, 1, 2, 4, 4, 1), *(4, 5), 4, 2]  # two of six hit, one of two, one of one, none
    drawn = giving(columns).draw(torch.tensor([4, 1]), 3)
    assert drawn.columns.tolist() == [[2, 1, 2], [4, 4, 5]]
    assert drawn.valid.all()


def test_draws_that_never_miss_the_target_are_not_valid_in_the_end() -> None:
    """The two that are left are expected as two draws, not as three."""
    columns = itertools.chain([1, 4, 2], itertools.repeat(4))
    drawn = giving(columns).draw(torch.tensor([4]), 3)
    assert drawn.valid.tolist() == [[True, False, True]]
    q = shares(0.75)
    expected = [math.log(2 * q[1] / (1 - q[4])), 0, math.log(2 * q[2] / (1 - q[4]))]
    assert drawn.log_expected[0].tolist() == pytest.approx(expected)


def test_a_row_whose_target_is_all_there_is_has_nothing_valid_at_once() -> None:
    """There are no columns for a second round."""
    drawn = giving([1] * 4, torch.tensor([0.0, 2.0, 0.0])).draw(torch.tensor([1, 0]), 2)
    assert drawn.valid.tolist() == [[False, False], [True, True]]
    assert not drawn.log_expected[0].any()


@pytest.mark.parametrize("way", WAYS)
def test_a_target_is_never_valid_in_its_own_row(way: str) -> None:
    targets = torch.tensor([1, 2, 4, 5]).repeat(50)
    drawn = draw_by(way, Sampler.of(COUNTS, 0.75), targets, 3)
    assert drawn.valid.any(dim=1).all()
    assert not (drawn.valid & (drawn.columns == targets[:, None])).any()
    assert torch.isfinite(drawn.log_expected).all()
    assert not drawn.log_expected[~drawn.valid].any()


# The targets of a batch


def test_the_targets_of_a_batch_stand_in_front_and_are_negatives_of_other_rows() -> None:
    drawn = giving([2, 5]).draw_shared(torch.tensor([4, 1, 4]), 2, in_batch=True)
    assert drawn.columns.tolist() == [[4, 1, 4, 2, 5]] * 3
    assert drawn.valid.tolist() == [
        [False, True, False, True, True],
        [True, False, True, True, True],
        [False, True, False, True, True],
    ]
    p, q = shares(1.0), shares(0.75)
    expected = [math.log(2 * p[j] + 2 * q[j]) for j in (1, 2, 5)]
    assert drawn.log_expected[0, [1, 3, 4]].tolist() == pytest.approx(expected)


def test_a_batch_of_one_row_has_no_negative() -> None:
    assert not giving([]).draw_shared(torch.tensor([4]), 0, in_batch=True).valid.any()


def test_a_target_that_nothing_can_draw_is_not_valid() -> None:
    drawn = giving([]).draw_shared(torch.tensor([0, 4]), 0, in_batch=True)
    assert drawn.valid.tolist() == [[False, True], [False, False]]
    assert torch.isfinite(drawn.log_expected).all()


# Shapes and seeds


@pytest.mark.parametrize("way", WAYS)
def test_shape_type_and_range(way: str) -> None:
    """Up to 2,048 negatives a row, of more or fewer columns; and none for no rows."""
    for counts in (COUNTS, torch.ones(5_000)):
        for rows, size in ((5, 2048), (0, 9), (3, 0)):
            drawn = draw_by(way, Sampler.of(counts, 0.75), undrawn(rows), size)
            width = rows + size if way == "batch" else size
            assert [part.shape for part in drawn] == [(rows, width)] * 3
            assert drawn.columns.dtype == torch.int64
            assert drawn.valid.dtype == torch.bool
            assert drawn.log_expected.dtype == torch.float32
            assert ((drawn.columns >= 0) & (drawn.columns < len(counts))).all()


def test_rows_draw_for_themselves() -> None:
    drawn = Sampler.of(torch.ones(50), 0.75).draw(undrawn(2), 40)
    assert not torch.equal(drawn.columns[0], drawn.columns[1])


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_generator_decides_the_draw(way: str, own: bool) -> None:
    """One that is passed, or torch's current one."""
    sampler, targets = Sampler.of(torch.arange(1, 90), 0.75), torch.tensor([3, 0, 3, 7])
    drawn = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed) if own else None
        torch.manual_seed(len(drawn) if own else seed)
        drawn.append(draw_by(way, sampler, targets, 50, generator))
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0].columns, drawn[2].columns)
