from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from dagrec.training.sampling import Alias, Excluded, InverseCdf, Sampler
from tests.checks import says
from tests.training.draws import (
    ALPHAS,
    COUNTS,
    METHODS,
    NOTHING,
    excluded,
    giving,
    shares,
)

pytestmark = pytest.mark.usefixtures("own_generator")


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return request.param


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
def test_columns_are_drawn_by_a_power_of_their_count(method: str, alpha: float) -> None:
    drawn = Sampler.of(COUNTS, alpha, method=method).draw(4, 10_000, NOTHING)
    assert drawn.valid.all()
    assert in_proportion(drawn.columns, shares(alpha))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_others_keep_their_proportions_where_some_are_excluded(method: str, alpha: float) -> None:
    """Also a most popular one, which makes most draws repeat, and one that is named twice."""
    drawn = Sampler.of(COUNTS, alpha, method=method).draw(
        3, 20_000, excluded((2, 4), (0, 4), (2, 1), (2, 4), (2, 3))
    )
    assert drawn.valid.all()
    for row, gone in ((0, [4]), (1, []), (2, [1, 4])):
        left = shares(alpha)
        left[gone] = 0
        assert in_proportion(drawn.columns[row], left)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_first_without_replacement_is_drawn_in_proportion(alpha: float) -> None:
    sampler = Sampler.of(COUNTS, alpha, replacement=False)
    drawn = sampler.draw(20_000, 1, Excluded(torch.arange(20_000), torch.full((20_000,), 1)))
    left = shares(alpha)
    left[1] = 0
    assert in_proportion(drawn.columns, left)


def test_columns_are_shared_in_proportion(method: str) -> None:
    drawn = Sampler.of(COUNTS, 0.75, method=method).draw_shared(2, 20_000, NOTHING)
    assert torch.equal(drawn.columns[0], drawn.columns[1])
    assert in_proportion(drawn.columns[0], shares(0.75))


def test_alpha_zero_is_uniform_over_columns_with_a_count(method: str) -> None:
    drawn = Sampler.of(torch.tensor([1.0, 1000.0, 3.0]), 0.0, method=method).draw(4, 10_000, NOTHING)
    assert in_proportion(drawn.columns, torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("replacement", [True, False])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_columns_without_a_count_are_never_valid(method: str, alpha: float, replacement: bool) -> None:
    """Not even where more are asked for than there are."""
    sampler = Sampler.of(COUNTS, alpha, method=method, replacement=replacement)
    for drawn in (sampler.draw(500, 9, NOTHING), sampler.draw_shared(2, 9, NOTHING)):
        assert (COUNTS[drawn.columns[drawn.valid]] > 0).all()


@pytest.mark.parametrize("counts", [[3.0], [0.0, 2.0], [2.0, 0.0]])
def test_a_single_column_is_always_drawn(counts: list[float], method: str) -> None:
    drawn = Sampler.of(torch.tensor(counts), 0.75, method=method).draw(3, 50, NOTHING)
    assert (drawn.columns == int(np.argmax(counts))).all()


def test_a_sampler_needs_a_count() -> None:
    with pytest.raises(ValueError, match="above 0") as error:
        Sampler.of(torch.zeros(3), 0.5)
    assert says(error, "counts", "none")


# The two sources


def test_a_draw_at_the_edge_of_a_column_goes_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of u in [0, 1) each column has a part with its lower end; those of weight 0 have none."""
    sampler = Sampler.of(torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 2.0]), 1.0)
    edges = torch.tensor([0.0, 0.25, 0.5], dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: edges)
    assert sampler.draw(1, 3, NOTHING).columns.tolist() == [[1, 4, 5]]


def test_rare_columns_of_large_catalogues_are_not_lost() -> None:
    """In float32 the cumulative sum would not move at the end of ten million counts."""
    source = Sampler.of(torch.cat([torch.full((1,), 1e9), torch.ones(1000)]), 1.0).source
    assert isinstance(source, InverseCdf)
    assert source.cumulative.dtype == torch.float64
    assert (source.cumulative.diff() > 0).all()
    assert source.cumulative[-1] == 1


def random_counts(seed: int) -> Tensor:
    """Of popularity with a long tail, a third of them 0."""
    generator = np.random.default_rng(seed)
    size = int(generator.integers(2, 400))
    counts = torch.from_numpy(
        generator.zipf(1.3, size).clip(max=10**6) * (generator.random(size) > 0.3)
    )
    counts[0] += 1
    return counts


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(
    "counts",
    [
        COUNTS,
        torch.tensor([1.0]),
        torch.ones(7),
        torch.tensor([2.0, 2.0, 0.0]),
        torch.tensor([1.0, 3.0, 1.0, 3.0]),
        *(random_counts(seed) for seed in range(20)),
    ],
)
def test_the_table_of_aliases_holds_the_probabilities(counts: Tensor, alpha: float) -> None:
    """q_i = (keep_i + what columns with alias i do not keep) / C."""
    sampler = Sampler.of(counts, alpha, method="alias")
    source = sampler.source
    assert isinstance(source, Alias)
    assert ((source.keep >= 0) & (source.keep <= 1)).all()
    found = source.keep.index_add(0, source.alias, 1 - source.keep) / len(counts)
    torch.testing.assert_close(found, shares(alpha, counts), rtol=1e-12, atol=1e-15)
    assert torch.equal(found > 0, counts > 0)
    assert not source.keep[counts == 0].any()


def test_there_may_be_more_than_two_to_the_24_columns(method: str) -> None:
    """In float32 neither the columns nor their shares could be told apart."""
    size = 2**24 + 8
    sampler = Sampler.of(torch.ones(size), 0.0, method=method)
    drawn = sampler.draw(2, 2048, excluded((1, size - 1)))
    assert in_proportion(drawn.columns * 16 // size, torch.ones(16, dtype=torch.float64))
    assert in_proportion(drawn.columns % 2, torch.ones(2, dtype=torch.float64))
    assert drawn.log_expected[0, 0].item() == pytest.approx(math.log(2048 / size))
    if isinstance(sampler.source, Alias):
        assert (sampler.source.keep == 1).all()
    else:
        assert (sampler.source.cumulative.diff() > 0).all()


def test_only_draws_that_hit_an_excluded_column_are_repeated() -> None:
    columns = [*(4, 1, 2, 4, 4, 1), *(4, 5), 5, 2]  # two of six hit, one of two, one of one, none
    drawn = giving(columns).draw(2, 3, excluded((0, 4), (1, 1), (0, 5)))
    assert drawn.columns.tolist() == [[2, 1, 2], [4, 4, 5]]
    assert drawn.valid.all()


def test_draws_that_never_miss_what_is_excluded_are_not_valid_in_the_end() -> None:
    """The two that are left are expected as two draws, not as three."""
    columns = itertools.chain([1, 4, 2], itertools.repeat(4))
    drawn = giving(columns).draw(1, 3, excluded((0, 4)))
    assert drawn.valid.tolist() == [[True, False, True]]
    q = shares(0.75)
    expected = [math.log(2 * q[1] / (1 - q[4])), 0, math.log(2 * q[2] / (1 - q[4]))]
    assert drawn.log_expected[0].tolist() == pytest.approx(expected)


def test_a_row_that_excludes_everything_has_nothing_valid_at_once() -> None:
    """Given has no columns for a second round."""
    drawn = giving([1, 4, 2, 5]).draw(2, 2, excluded((0, 1), (0, 2), (0, 4), (0, 5), (0, 0)))
    assert drawn.valid.tolist() == [[False, False], [True, True]]
    assert not drawn.log_expected[0].any()


@pytest.mark.parametrize("replacement", [True, False])
def test_an_excluded_column_is_never_valid(method: str, replacement: bool) -> None:
    sampler = Sampler.of(COUNTS, 0.75, method=method, replacement=replacement)
    rows = torch.arange(400) % 200
    gone = Excluded(rows, torch.tensor([1, 2, 4, 5]).repeat(100))
    for drawn in (sampler.draw(200, 3, gone), sampler.draw_shared(200, 3, gone)):
        hits = (drawn.columns[gone.rows] == gone.columns[:, None]) & drawn.valid[gone.rows]
        assert drawn.valid.any()
        assert not hits.any()
        assert torch.isfinite(drawn.log_expected).all()
        assert not drawn.log_expected[~drawn.valid].any()


def test_without_replacement_no_column_comes_twice() -> None:
    drawn = Sampler.of(COUNTS, 0.75, replacement=False).draw(300, 3, excluded((0, 1)))
    assert drawn.valid.all()
    assert (drawn.columns.sort(dim=1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize("size", [3, 4, 6, 7, 20])
def test_without_replacement_all_are_taken_where_there_are_no_more(size: int) -> None:
    sampler = Sampler.of(COUNTS, 0.75, replacement=False)
    gone = excluded((0, 4), (1, 1), (1, 2), (1, 4), (1, 5), (1, 3))
    for drawn in (sampler.draw(2, size, gone), sampler.draw_shared(2, max(size, 4), gone)):
        assert sorted(drawn.columns[0, drawn.valid[0]].tolist()) == [1, 2, 5]
        assert not drawn.valid[1].any()
        assert not drawn.log_expected.any()


# The targets of a batch


def test_the_targets_of_a_batch_stand_in_front_and_are_negatives_of_other_rows() -> None:
    batch = torch.tensor([4, 1, 4])
    drawn = giving([2, 5]).draw_shared(3, 2, Excluded(torch.arange(3), batch), batch=batch)
    assert drawn.columns.tolist() == [[4, 1, 4, 2, 5]] * 3
    assert drawn.valid.tolist() == [
        [False, True, False, True, True],
        [True, False, True, True, True],
        [False, True, False, True, True],
    ]
    p, q = shares(1.0), shares(0.75)
    expected = [math.log(2 * p[j] + 2 * q[j]) for j in (1, 2, 5)]
    assert drawn.log_expected[0, [1, 3, 4]].tolist() == pytest.approx(expected)


def test_a_row_is_no_negative_of_itself_though_nothing_is_excluded() -> None:
    drawn = giving([]).draw_shared(3, 0, NOTHING, batch=torch.tensor([4, 4, 1]))
    assert torch.equal(drawn.valid, ~torch.eye(3, dtype=torch.bool))


def test_a_batch_of_one_row_has_no_negative() -> None:
    assert not giving([]).draw_shared(1, 0, NOTHING, batch=torch.tensor([4])).valid.any()


def test_a_target_that_nothing_can_draw_is_not_valid() -> None:
    drawn = giving([]).draw_shared(2, 0, NOTHING, batch=torch.tensor([0, 4]))
    assert drawn.valid.tolist() == [[False, True], [False, False]]
    assert torch.isfinite(drawn.log_expected).all()


@pytest.mark.parametrize(("rows", "replacement"), [(2, False), (3, True)])
def test_a_batch_is_one_target_a_row_and_needs_replacement(rows: int, replacement: bool) -> None:
    sampler = Sampler.of(COUNTS, 0.75, replacement=replacement)
    with pytest.raises(ValueError, match="targets of a batch") as error:
        sampler.draw_shared(rows, 4, NOTHING, batch=torch.tensor([1, 4]))
    assert says(error, str(replacement), f"2 targets for {rows} rows")


# Shapes and seeds


@pytest.mark.parametrize("replacement", [True, False])
def test_shape_type_and_range(method: str, replacement: bool) -> None:
    """Up to 2,048 negatives a row, of more or fewer columns; and none for no rows."""
    for counts in (COUNTS, torch.ones(5_000)):
        sampler = Sampler.of(counts, 0.75, method=method, replacement=replacement)
        for rows, size in ((5, 2048), (0, 9), (3, 0)):
            for drawn in (sampler.draw(rows, size, NOTHING), sampler.draw_shared(rows, size, NOTHING)):
                assert [part.shape for part in drawn] == [(rows, size)] * 3
                assert drawn.columns.dtype == torch.int64
                assert drawn.valid.dtype == torch.bool
                assert drawn.log_expected.dtype == torch.float32
                assert ((drawn.columns >= 0) & (drawn.columns < len(counts))).all()


def test_rows_draw_for_themselves() -> None:
    drawn = Sampler.of(torch.ones(50), 0.75).draw(2, 40, NOTHING)
    assert not torch.equal(drawn.columns[0], drawn.columns[1])


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("replacement", [True, False])
def test_the_generator_decides_the_draw(
    method: str, replacement: bool, shared: bool, own: bool
) -> None:
    """One that is passed, or torch's current one."""
    sampler = Sampler.of(torch.arange(1, 90), 0.75, method=method, replacement=replacement)
    draw = sampler.draw_shared if shared else sampler.draw
    drawn = []
    for seed in (1, 1, 2):
        generator = torch.Generator().manual_seed(seed) if own else None
        torch.manual_seed(len(drawn) if own else seed)
        drawn.append(draw(4, 50, excluded((0, 3)), generator=generator))
    assert all(torch.equal(a, b) for a, b in zip(drawn[0], drawn[1], strict=True))
    assert not torch.equal(drawn[0].columns, drawn[2].columns)
