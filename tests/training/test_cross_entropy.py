"""Cross-entropy over all services, with masks and label smoothing."""

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


def test_cross_entropy_by_hand() -> None:
    """- log(3 / 4) and - log(1 / 4) for a row with odds 3 : 1, and - log(1 / 2) for equal scores."""
    scores = scores_of([math.log(3), 0.0], [5.0, 5.0])
    result = cross_entropy(scores, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    assert result.tolist() == pytest.approx([math.log(4 / 3), math.log(4), math.log(2)])


def test_gradient_by_hand() -> None:
    """The sum over the pairs of a row of the softmax minus one at the target."""
    scores = random_scores()
    expected = torch.zeros(6, 5, dtype=torch.float64)
    for row, target in zip(ROWS.tolist(), TARGETS.tolist(), strict=True):
        expected[row] += scores.detach()[row].softmax(0)
        expected[row, target] -= 1
    torch.testing.assert_close(gradient(scores), expected)


def test_cross_entropy_matches_torch() -> None:
    scores = random_scores()
    single = torch.nn.functional.cross_entropy(scores[ROWS], TARGETS, reduction="none")
    torch.testing.assert_close(cross_entropy(scores, ROWS, TARGETS), single)


def test_cross_entropy_of_equal_scores_is_log_of_number_of_services() -> None:
    scores, row, target = torch.full((1, 5), 3.0), torch.tensor([0]), torch.tensor([1])
    assert cross_entropy(scores, row, target).item() == pytest.approx(math.log(5))
    mask = torch.tensor([[True, True, False, False, True]])
    assert cross_entropy(scores, row, target, mask=mask).item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("offset", [0.0, 1e5, -1e5])
def test_mask_equals_selection_of_columns(offset: float, smoothing: float) -> None:
    """Even if all scores are very low, so that the number used instead of -inf could be higher."""
    scores = random_scores() + offset
    columns = torch.tensor([0, 2, 3])
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, columns] = True
    rows, targets = torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])
    masked = cross_entropy(scores, rows, columns[targets], mask=mask, smoothing=smoothing)
    selected = cross_entropy(scores[:, columns], rows, targets, smoothing=smoothing)
    torch.testing.assert_close(masked, selected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mask_of_all_services_has_no_effect(smoothing: float) -> None:
    scores, everything = random_scores(), torch.ones(6, 5, dtype=torch.bool)
    masked = cross_entropy(scores, ROWS, TARGETS, mask=everything, smoothing=smoothing)
    torch.testing.assert_close(masked, cross_entropy(scores, ROWS, TARGETS, smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mask_of_single_service_gives_no_loss_and_gradient(smoothing: float) -> None:
    scores, mask = random_scores(), torch.zeros(6, 5, dtype=torch.bool)
    mask[:, 2] = True
    assert not cross_entropy(scores, ROWS, TARGETS, mask=mask, smoothing=smoothing).any()
    assert not gradient(scores, mask, smoothing).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_masked_target_gives_no_loss_and_gradient(smoothing: float) -> None:
    scores, mask = random_scores(), torch.ones(6, 5, dtype=torch.bool)
    mask[ROWS[0], TARGETS[0]] = mask[ROWS[3], TARGETS[3]] = False
    result = cross_entropy(scores, ROWS, TARGETS, mask=mask, smoothing=smoothing)
    assert (result == 0).tolist() == [True, False, False, True, False, False]
    assert not gradient(scores, mask, smoothing)[3].any()
    inside = torch.tensor([1, 2, 4, 5])
    others = cross_entropy(scores, ROWS[inside], TARGETS[inside], mask=mask, smoothing=smoothing)
    assert torch.equal(result[inside], others)
    expected = torch.autograd.grad(others.sum(), scores)[0]
    assert torch.equal(gradient(scores, mask, smoothing), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_fully_masked_row_gives_no_loss_and_gradient(smoothing: float, dtype: torch.dtype) -> None:
    scores, mask = (
        random_scores().to(dtype).detach().requires_grad_(),
        torch.ones(6, 5, dtype=torch.bool),
    )
    mask[0] = mask[3] = False
    result = cross_entropy(scores, ROWS, TARGETS, mask=mask, smoothing=smoothing)
    assert torch.equal(result[[0, 1, 3]], torch.zeros(3, dtype=dtype))
    assert torch.isfinite(gradient(scores, mask, smoothing)).all()
    assert not gradient(scores, mask, smoothing)[[0, 3]].any()


def test_cross_entropy_does_not_modify_arguments() -> None:
    scores, mask = random_scores(), torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) > 0.5
    before = [scores.detach().clone(), mask.clone()]
    cross_entropy(scores, ROWS, TARGETS, mask=mask, smoothing=0.1)
    assert torch.equal(before[0], scores)
    assert torch.equal(before[1], mask)


# Label smoothing


def test_smoothing_by_hand() -> None:
    """The services in the mask have probabilities 1/2, 1/3 and 1/6; the fourth one is masked."""
    scores = scores_of([math.log(3), math.log(2), 0.0, 50.0])
    mask = torch.tensor([[True, True, True, False]])
    result = cross_entropy(scores, torch.tensor([0]), torch.tensor([1]), mask=mask, smoothing=0.3)
    mean = (math.log(2) + math.log(3) + math.log(6)) / 3
    assert result.item() == pytest.approx(0.7 * math.log(3) + 0.3 * mean)


def test_minimum_of_smoothed_loss_is_entropy_of_smoothed_target() -> None:
    smoothed = [0.3 / 4] * 4
    smoothed[2] += 0.7
    scores = scores_of([*(math.log(share) for share in smoothed), 7.0])
    mask = torch.tensor([[True, True, True, True, False]])
    loss = cross_entropy(scores, torch.tensor([0]), torch.tensor([2]), mask=mask, smoothing=0.3)
    assert loss.item() == pytest.approx(-sum(share * math.log(share) for share in smoothed))
    gradient_ = torch.autograd.grad(loss.sum(), scores)[0]
    torch.testing.assert_close(gradient_, torch.zeros_like(scores))
