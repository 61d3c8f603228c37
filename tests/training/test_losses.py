from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dagrec.training.losses import bpr, count_cross_entropy


def scores_of(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def random_scores(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 5, generator=generator, dtype=torch.float64).requires_grad_()


def random_counts(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4, (6, 5), generator=generator).double()


def gradient(scores: Tensor, counts: Tensor, mask: Tensor | None = None) -> Tensor:
    (found,) = torch.autograd.grad(count_cross_entropy(scores, counts, mask), scores)
    return found


# Cross-entropy of counts


def test_values_by_hand() -> None:
    """- log(3 / 4) of one row with odds 3 : 1, and twice - log(1 / 2) of an even one."""
    scores = scores_of([math.log(3), 0.0], [5.0, 5.0])
    counts = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    loss = count_cross_entropy(scores, counts).item()
    assert loss == pytest.approx(math.log(4 / 3) + 2 * math.log(2))


def test_gradient_by_hand() -> None:
    """n p - n(y): the softmax times the count of the row, less the counts."""
    scores, counts = random_scores(), random_counts()
    expected = counts.sum(1, keepdim=True) * scores.detach().softmax(1) - counts
    torch.testing.assert_close(gradient(scores, counts), expected)


def test_counts_equal_repeated_rows() -> None:
    scores, counts = random_scores(), random_counts()
    rows, columns = torch.nonzero(counts, as_tuple=True)
    times = counts[rows, columns].long()
    single = torch.nn.functional.cross_entropy(
        scores[rows.repeat_interleave(times)], columns.repeat_interleave(times), reduction="sum"
    )
    assert count_cross_entropy(scores, counts).item() == pytest.approx(single.item())


def test_equal_scores_give_the_logarithm_of_the_candidates() -> None:
    scores = torch.full((1, 5), 3.0)
    counts = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]])
    assert count_cross_entropy(scores, counts).item() == pytest.approx(math.log(5))
    mask = torch.tensor([[True, True, False, False, True]])
    assert count_cross_entropy(scores, counts, mask).item() == pytest.approx(math.log(3))


def test_a_masked_loss_is_that_of_the_kept_subset() -> None:
    scores, counts = random_scores(), random_counts()
    kept = torch.tensor([True, False, True, True, False])
    mask = kept.expand(6, 5)
    whole = count_cross_entropy(scores, counts, mask)
    part = count_cross_entropy(scores[:, kept], counts[:, kept])
    assert whole.item() == pytest.approx(part.item())


def test_a_mask_of_everything_is_no_mask() -> None:
    scores, counts = random_scores(), random_counts()
    assert torch.equal(
        count_cross_entropy(scores, counts, torch.ones(6, 5, dtype=torch.bool)),
        count_cross_entropy(scores, counts),
    )


def test_a_single_candidate_teaches_nothing() -> None:
    scores, counts = random_scores(), random_counts()
    mask = torch.zeros(6, 5, dtype=torch.bool)
    mask[:, 2] = True
    assert count_cross_entropy(scores, counts, mask).item() == 0
    assert not gradient(scores, counts, mask).any()


def test_a_target_outside_the_mask_counts_for_nothing() -> None:
    scores = random_scores()
    mask = torch.tensor([[True, False, True, True, True]]).expand(6, 5)
    counts = random_counts()
    without = counts * mask
    assert torch.equal(
        count_cross_entropy(scores, counts, mask), count_cross_entropy(scores, without, mask)
    )
    assert torch.equal(gradient(scores, counts, mask), gradient(scores, without, mask))


def test_a_masked_score_changes_neither_loss_nor_gradient() -> None:
    counts = random_counts()
    mask = torch.tensor([[True, False, True, True, True]]).expand(6, 5)
    scores, other = random_scores(), random_scores().detach()
    other[:, 1] = 1e4
    other.requires_grad_()
    assert torch.equal(
        count_cross_entropy(scores, counts, mask), count_cross_entropy(other, counts, mask)
    )
    assert torch.equal(gradient(scores, counts, mask), gradient(other, counts, mask))
    assert not gradient(other, counts, mask)[:, 1].any()


def test_arguments_stay_as_they_were() -> None:
    scores, counts = random_scores(), random_counts()
    mask = torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) > 0.5
    before = [scores.detach().clone(), counts.clone(), mask.clone()]
    count_cross_entropy(scores, counts, mask)
    assert all(torch.equal(a, b) for a, b in zip(before, (scores, counts, mask), strict=True))


# Pairwise ranking


def bpr_of(
    positive: list[float], negatives: list[list[float]], weights: list[float], valid: list[list[bool]]
) -> float:
    numbers = (torch.tensor(part, dtype=torch.float64) for part in (positive, negatives, weights))
    return bpr(*numbers, torch.tensor(valid)).item()


def minus_log_sigmoid(x: float) -> float:
    return math.log1p(math.exp(-x))


def test_bpr_by_hand() -> None:
    """Two pairs of weights 1 and 3; the last negative of the second does not count."""
    found = bpr_of([2.0, 0.5], [[1.0, 3.0], [0.0, 99.0]], [1.0, 3.0], [[True, True], [True, False]])
    first = (minus_log_sigmoid(2 - 1) + minus_log_sigmoid(2 - 3)) / 2
    assert found == pytest.approx(first + 3 * minus_log_sigmoid(0.5))


def test_bpr_of_a_tie_is_the_logarithm_of_two() -> None:
    assert bpr_of([4.0], [[4.0, 4.0, 4.0]], [1.0], [[True] * 3]) == pytest.approx(math.log(2))


def test_bpr_of_one_negative_is_the_cross_entropy_of_two_columns() -> None:
    """- log(e^p / (e^p + e^n)) is softplus(n - p)."""
    scores = random_scores()[:, :2]
    counts = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(6, 2)
    pairwise = bpr(scores[:, 0], scores[:, 1:], counts[:, 0], torch.ones(6, 1, dtype=torch.bool))
    torch.testing.assert_close(pairwise, count_cross_entropy(scores, counts))


def test_bpr_without_a_valid_negative_is_zero() -> None:
    assert bpr_of([1.0], [[5.0, 6.0]], [2.0], [[False, False]]) == 0


def test_a_negative_given_twice_counts_twice() -> None:
    once = bpr_of([1.0], [[0.0, 3.0, 3.0]], [1.0], [[True] * 3])
    assert once == pytest.approx((minus_log_sigmoid(1) + 2 * minus_log_sigmoid(-2)) / 3)
