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
from tests.training.draws import ALPHAS, COUNTS, fixed_sampler, shares, undrawable_targets

pytestmark = pytest.mark.usefixtures("isolated_rng")
METHODS = ["rows", "shared", "batch"]


def draw_by(
    method: str,
    sampler: Sampler,
    targets: Tensor,
    size: int,
    generator: torch.Generator | None = None,
) -> Draw:
    """A draw for each row, a draw for all rows, or the targets followed by a shared draw."""
    if method == "rows":
        return sampler.draw(targets, size, generator=generator)
    return sampler.draw_shared(targets, size, in_batch=method == "batch", generator=generator)


def in_proportion(columns: Tensor, expected: Tensor) -> bool:
    """Whether columns have these shares by a chi-square test. Columns with share 0 must not occur."""
    counts = torch.bincount(columns.flatten(), minlength=len(expected))
    possible = expected > 0
    assert not counts[~possible].any()
    if possible.sum() == 1:
        return True
    share = expected[possible] / expected[possible].sum()
    return bool(chisquare(counts[possible].numpy(), (share * counts.sum()).numpy()).pvalue > 1e-4)


# Frequencies


@pytest.mark.parametrize("alpha", ALPHAS)
def test_draws_are_proportional_to_power_of_count(alpha: float) -> None:
    draw = Sampler.of(COUNTS, alpha).draw(undrawable_targets(4), 10_000)
    assert draw.valid.all()
    assert in_proportion(draw.columns, shares(alpha))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_draws_exclude_target_and_keep_proportions(alpha: float) -> None:
    """The targets are the most popular column, one with count 0, and a rare one."""
    targets = [4, 0, 1]
    draw = Sampler.of(COUNTS, alpha).draw(torch.tensor(targets), 20_000)
    assert draw.valid.all()
    for row, target in enumerate(targets):
        expected = shares(alpha)
        expected[target] = 0
        assert in_proportion(draw.columns[row], expected)


def test_shared_draws_are_proportional_to_power_of_count() -> None:
    draw = Sampler.of(COUNTS, 0.75).draw_shared(undrawable_targets(2), 20_000)
    assert torch.equal(draw.columns[0], draw.columns[1])
    assert in_proportion(draw.columns[0], shares(0.75))


def test_alpha_zero_is_uniform_over_columns_with_positive_count() -> None:
    counts = torch.tensor([0.0, 1.0, 1000.0, 3.0])
    draw = Sampler.of(counts, 0.0).draw(undrawable_targets(4), 10_000)
    assert in_proportion(draw.columns, torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_columns_with_count_zero_are_never_valid(alpha: float) -> None:
    """Not even if they are targets of other rows."""
    sampler = Sampler.of(COUNTS, alpha)
    for method, rows in (("rows", 500), ("shared", 2), ("batch", 2)):
        draw = draw_by(method, sampler, undrawable_targets(rows), 9)
        assert draw.valid.any()
        assert (COUNTS[draw.columns[draw.valid]] > 0).all()


@pytest.mark.parametrize("counts", [[3.0], [0.0, 2.0], [2.0, 0.0]])
def test_single_column_is_always_drawn(counts: list[float]) -> None:
    """The draws are not valid if it is the target, too."""
    only, other = int(np.argmax(counts)), int(np.argmin(counts))
    draw = Sampler.of(torch.tensor(counts), 0.75).draw(torch.full((3,), other), 50)
    assert (draw.columns == only).all()
    assert (draw.valid == (only != other)).all()


def test_sampler_rejects_counts_of_zero() -> None:
    with pytest.raises(ValueError, match="above 0") as error:
        Sampler.of(torch.zeros(3), 0.5)
    assert says(error, "counts", "none")


# Single draws


def test_draw_at_boundary_is_next_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each column has a half-open interval of [0, 1), which is empty for columns of weight 0."""
    sampler = Sampler.of(torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 2.0]), 1.0)
    edges = torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: edges)
    assert sampler.draw(undrawable_targets(1), 3).columns.tolist() == [[1, 4, 5]]


def test_rare_columns_are_not_lost_to_rounding() -> None:
    """In float32 the cumulative sum would not increase for the rare columns."""
    sampler = Sampler.of(torch.cat([torch.full((1,), 1e9), torch.ones(1000)]), 1.0)
    assert sampler.cumulative.dtype == torch.float64
    assert (sampler.cumulative.diff() > 0).all()
    assert sampler.cumulative[-1] == 1


def test_sampler_supports_more_than_2_to_the_24_columns() -> None:
    """In float32 neither the columns nor their shares would be distinct."""
    size = 2**24 + 8
    sampler = Sampler.of(torch.ones(size), 0.0)
    draw = sampler.draw(torch.tensor([0, size - 1]), 2048)
    assert in_proportion(draw.columns * 16 // size, torch.ones(16, dtype=torch.float64))
    assert in_proportion(draw.columns % 2, torch.ones(2, dtype=torch.float64))
    assert draw.log_expected[0, 0].item() == pytest.approx(math.log(2048 / (size - 1)))
    assert (sampler.cumulative.diff() > 0).all()


def test_draws_of_target_are_repeated() -> None:
    columns = [*(4, 1, 2, 4, 4, 1), *(4, 5), 4, 2]  # rounds of six, two, one and one draws
    draw = fixed_sampler(columns).draw(torch.tensor([4, 1]), 3)
    assert draw.columns.tolist() == [[2, 1, 2], [4, 4, 5]]
    assert draw.valid.all()


def test_draws_of_target_in_all_rounds_are_not_valid() -> None:
    """The expected counts are those of the two valid draws."""
    columns = itertools.chain([1, 4, 2], itertools.repeat(4))
    draw = fixed_sampler(columns).draw(torch.tensor([4]), 3)
    assert draw.valid.tolist() == [[True, False, True]]
    q = shares(0.75)
    expected = [math.log(2 * q[1] / (1 - q[4])), 0, math.log(2 * q[2] / (1 - q[4]))]
    assert draw.log_expected[0].tolist() == pytest.approx(expected)


def test_row_with_only_drawable_column_as_target_has_no_valid_draws() -> None:
    """The draws are not repeated then."""
    draw = fixed_sampler([1] * 4, torch.tensor([0.0, 2.0, 0.0])).draw(torch.tensor([1, 0]), 2)
    assert draw.valid.tolist() == [[False, False], [True, True]]
    assert not draw.log_expected[0].any()


@pytest.mark.parametrize("method", METHODS)
def test_target_is_never_valid_in_its_own_row(method: str) -> None:
    targets = torch.tensor([1, 2, 4, 5]).repeat(50)
    draw = draw_by(method, Sampler.of(COUNTS, 0.75), targets, 3)
    assert draw.valid.any(dim=1).all()
    assert not (draw.valid & (draw.columns == targets[:, None])).any()
    assert torch.isfinite(draw.log_expected).all()
    assert not draw.log_expected[~draw.valid].any()


# Targets of the batch


def test_batch_targets_precede_draws_and_are_negatives_of_other_rows() -> None:
    draw = fixed_sampler([2, 5]).draw_shared(torch.tensor([4, 1, 4]), 2, in_batch=True)
    assert draw.columns.tolist() == [[4, 1, 4, 2, 5]] * 3
    assert draw.valid.tolist() == [
        [False, True, False, True, True],
        [True, False, True, True, True],
        [False, True, False, True, True],
    ]
    p, q = shares(1.0), shares(0.75)
    expected = [math.log(2 * p[j] + 2 * q[j]) for j in (1, 2, 5)]
    assert draw.log_expected[0, [1, 3, 4]].tolist() == pytest.approx(expected)


def test_batch_of_one_row_has_no_negatives() -> None:
    assert not fixed_sampler([]).draw_shared(torch.tensor([4]), 0, in_batch=True).valid.any()


def test_batch_target_with_count_zero_is_not_valid() -> None:
    draw = fixed_sampler([]).draw_shared(torch.tensor([0, 4]), 0, in_batch=True)
    assert draw.valid.tolist() == [[False, True], [False, False]]
    assert torch.isfinite(draw.log_expected).all()


# Shapes and seeds


@pytest.mark.parametrize("method", METHODS)
def test_draw_has_shape_and_types(method: str) -> None:
    """With more or fewer negatives than columns, and without rows or negatives."""
    for counts in (COUNTS, torch.ones(5_000)):
        for rows, size in ((5, 2048), (0, 9), (3, 0)):
            draw = draw_by(method, Sampler.of(counts, 0.75), undrawable_targets(rows), size)
            width = rows + size if method == "batch" else size
            assert [part.shape for part in draw] == [(rows, width)] * 3
            assert draw.columns.dtype == torch.int64
            assert draw.valid.dtype == torch.bool
            assert draw.log_expected.dtype == torch.float32
            assert ((draw.columns >= 0) & (draw.columns < len(counts))).all()


def test_rows_are_drawn_independently() -> None:
    draw = Sampler.of(torch.ones(50), 0.75).draw(undrawable_targets(2), 40)
    assert not torch.equal(draw.columns[0], draw.columns[1])


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_draw_depends_on_generator(method: str, explicit: bool) -> None:
    """The generator is passed, or is torch's current one."""
    sampler, targets = Sampler.of(torch.arange(1, 90), 0.75), torch.tensor([3, 0, 3, 7])
    draws = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed) if explicit else None
        torch.manual_seed(len(draws) if explicit else seed)
        draws.append(draw_by(method, sampler, targets, 50, generator))
    assert all(torch.equal(a, b) for a, b in zip(draws[0], draws[1], strict=True))
    assert not torch.equal(draws[0].columns, draws[2].columns)
