"""Cross-entropy over all services, masked and with smoothed labels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dagrec.training.losses import cross_entropy

ROWS, TARGETS = torch.tensor([0, 0, 1, 3, 5, 5]), torch.tensor([0, 2, 1, 4, 3, 0])


def scores_of(*rows: Sequence[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def random_scores(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()


def gradient(scores: Tensor, mask: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    loss = cross_entropy(scores, ROWS, TARGETS, mask=mask, smoothing=smoothing).sum()
    return torch.autograd.grad(loss, scores)[0]


# Cross-entropy over all services


def test_values_by_hand() -> None:
    """- log(3 / 4) and - log(1 / 4) of one row with odds 3 : 1, and - log(1 / 2) of an even one."""
    scores = scores_of([math.log(3), 0.0], [5.0, 5.0])
    found = cross_entropy(scores, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    assert found.tolist() == pytest.approx([math.log(4 / 3), math.log(4), math.log(2)])


def test_gradient_by_hand() -> None:
    """The softmax once for each pair of a row, less one at the target."""
    scores = random_scores()
    expected = torch.zeros(6, 5, dtype=torch.float64)
    for row, target in zip(ROWS.tolist(), TARGETS.tolist(), strict=True):
        expected[row] += scores.detach()[row].softmax(0)
        expected[row, target] -= 1
    torch.testing.assert_close(gradient(scores), expected)


def test_pairs_are_rows_of_their_own() -> None:
    scores = random_scores()
    single = torch.nn.functional.cross_entropy(scores[ROWS], TARGETS, reduction="none")
    torch.testing.assert_close(cross_entropy(scores, ROWS, TARGETS), single)


def test_equal_scores_give_the_logarithm_of_the_candidates() -> None:
    scores, row, target = torch.full((1, 5), 3.0), torch.tensor([0]), torch.tensor([1])
    assert cross_entropy(scores, row, target).item() == pytest.approx(math.log(5))
    mask = torch.tensor([[True, True, False, False, True]])
    assert cross_entropy(scores, row, target, mask=mask).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("offset", [0.0, 1e5, -1e5])
def test_the_mask_is_the_choice_of_a_subset(offset: float, smoothing: float) -> None:
    """Also where all scores lie far below 0, and a number in place of -inf could be above them."""
    scores = random_scores() + offset
    kept = torch.tensor([0, 2, 3])
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, kept] = True
    rows, place = torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])
    whole = cross_entropy(scores, rows, kept[place], mask=mask, smoothing=smoothing)
    part = cross_entropy(scores[:, kept], rows, place, smoothing=smoothing)
    torch.testing.assert_close(whole, part)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_mask_of_everything_is_no_mask(smoothing: float) -> None:
    scores, everything = random_scores(), torch.ones(6, 5, dtype=torch.bool)
    masked = cross_entropy(scores, ROWS, TARGETS, mask=everything, smoothing=smoothing)
    torch.testing.assert_close(masked, cross_entropy(scores, ROWS, TARGETS, smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_single_candidate_teaches_nothing(smoothing: float) -> None:
    scores, mask = random_scores(), torch.zeros(6, 5, dtype=torch.bool)
    mask[:, 2] = True
    assert not cross_entropy(scores, ROWS, TARGETS, mask=mask, smoothing=smoothing).any()
    assert not gradient(scores, mask, smoothing).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_target_outside_the_mask_counts_for_nothing(smoothing: float) -> None:
    scores, mask = random_scores(), torch.ones(6, 5, dtype=torch.bool)
    mask[ROWS[0], TARGETS[0]] = mask[ROWS[3], TARGETS[3]] = False
    found = cross_entropy(scores, ROWS, TARGETS, mask=mask, smoothing=smoothing)
    assert (found == 0).tolist() == [True, False, False, True, False, False]
    assert not gradient(scores, mask, smoothing)[3].any()
    inside = torch.tensor([1, 2, 4, 5])
    kept = cross_entropy(scores, ROWS[inside], TARGETS[inside], mask=mask, smoothing=smoothing)
    assert torch.equal(found[inside], kept)
    expected = torch.autograd.grad(kept.sum(), scores)[0]
    assert torch.equal(gradient(scores, mask, smoothing), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_row_that_is_all_masked_adds_nothing_and_stays_finite(
    smoothing: float, dtype: torch.dtype
) -> None:
    scores, mask = (
        random_scores().to(dtype).detach().requires_grad_(),
        torch.ones(6, 5, dtype=torch.bool),
    )
    mask[0] = mask[3] = False
    found = cross_entropy(scores, ROWS, TARGETS, mask=mask, smoothing=smoothing)
    assert torch.equal(found[[0, 1, 3]], torch.zeros(3, dtype=dtype))
    assert torch.isfinite(gradient(scores, mask, smoothing)).all()
    assert not gradient(scores, mask, smoothing)[[0, 3]].any()


def test_arguments_stay_as_they_were() -> None:
    scores, mask = random_scores(), torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) > 0.5
    before = [scores.detach().clone(), mask.clone()]
    cross_entropy(scores, ROWS, TARGETS, mask=mask, smoothing=0.1)
    assert torch.equal(before[0], scores)
    assert torch.equal(before[1], mask)


# Label smoothing


def test_smoothing_by_hand() -> None:
    """Shares 1/2, 1/3, 1/6 of those in the mask; a fourth service outside it."""
    scores = scores_of([math.log(3), math.log(2), 0.0, 50.0])
    mask = torch.tensor([[True, True, True, False]])
    found = cross_entropy(scores, torch.tensor([0]), torch.tensor([1]), mask=mask, smoothing=0.3)
    mean = (math.log(2) + math.log(3) + math.log(6)) / 3
    assert found.item() == pytest.approx(0.7 * math.log(3) + 0.3 * mean)


def test_smoothing_is_least_at_the_smoothed_target_where_it_is_its_entropy() -> None:
    wanted = [0.3 / 4] * 4
    wanted[2] += 0.7
    scores = scores_of([*(math.log(share) for share in wanted), 7.0])
    mask = torch.tensor([[True, True, True, True, False]])
    loss = cross_entropy(scores, torch.tensor([0]), torch.tensor([2]), mask=mask, smoothing=0.3)
    assert loss.item() == pytest.approx(-sum(share * math.log(share) for share in wanted))
    slope = torch.autograd.grad(loss.sum(), scores)[0]
    torch.testing.assert_close(slope, torch.zeros_like(scores))
