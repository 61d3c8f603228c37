from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dagrec.training import losses
from dagrec.training.losses import LOSSES, CandidateScores, cross_entropy
from dagrec.training.options import TrainingOptions
from dagrec.training.sampling import Sampler
from tests.training.test_cross_entropy import random_scores


def pair(
    positive: float, *others: float, log_expected: Tensor | None = None, c: int = 9
) -> CandidateScores:
    """One target with negatives that are all valid."""
    negatives = torch.tensor([others], dtype=torch.float64)
    return CandidateScores(
        torch.tensor([positive], dtype=torch.float64),
        negatives,
        torch.ones_like(negatives, dtype=torch.bool),
        log_expected,
        c,
    )


def random_pairs(width: int = 6, seed: int = 0) -> CandidateScores:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(5, width + 1, generator=generator, dtype=torch.float64)
    valid = torch.rand(5, width, generator=generator) > 0.4
    valid[:, 0] = True
    return CandidateScores(scores[:, 0], scores[:, 1:], valid, None, num_services=9)


def gradient(loss: Callable[[CandidateScores], Tensor], candidates: CandidateScores) -> list[float]:
    """The derivatives of the loss of one pair, by the score of the target and of each negative."""
    scores = candidates.positive.requires_grad_(), candidates.others.requires_grad_()
    positive, others = torch.autograd.grad(loss(candidates).sum(), scores)
    return [*positive.tolist(), *others[0].tolist()]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log(1 + math.exp(x))


# Values by hand


LOG_2, LOG_3, LOG_5 = math.log(2), math.log(3), math.log(5)
HALF_AND_THREE = torch.tensor([[0.5, 3.0]], dtype=torch.float64).log()
BINARY = softplus(1) + softplus(-3)
TOP1_TERMS = sigmoid(LOG_3 - 2) + sigmoid(LOG_3**2), sigmoid(-2) + sigmoid(0)
BY_HAND = {
    "bce": (losses.bce(pair(2, 1, -3)), (softplus(-2) + BINARY) / 3),
    "gbce, t 0": (losses.gbce(pair(2, 1, -3), t=0), (softplus(-2) + BINARY) / 3),
    "gbce, 2 of 8, t 1": (losses.gbce(pair(2, 1, -3), t=1), (2 / 8 * softplus(-2) + BINARY) / 3),
    "gbce, 2 of 8, t 0.75": (
        losses.gbce(pair(2, 1, -3), t=0.75),
        ((0.25 + 0.75 * 2 / 8) * softplus(-2) + BINARY) / 3,
    ),
    "bpr": (losses.bpr(pair(2, 1, 3)), -(math.log(sigmoid(1)) + math.log(sigmoid(-1))) / 2),
    "bpr, one negative twice": (losses.bpr(pair(1, 0, 3, 3)), (softplus(-1) + 2 * softplus(2)) / 3),
    "bpr, equal scores": (losses.bpr(pair(4, 4, 4, 4)), LOG_2),
    "bpr-max, weights 3/4 and 1/4": (
        losses.bpr_max(pair(2, LOG_3 - 1, -1), score_penalty=0.2, elu=0),
        -math.log(3 / 4 * sigmoid(3 - LOG_3) + 1 / 4 * sigmoid(3))
        + 0.2 * (3 / 4 * (LOG_3 - 1) ** 2 + 1 / 4),
    ),
    "top1": (
        losses.top1(pair(2, 1, -3)),
        (sigmoid(1 - 2) + sigmoid(1) + sigmoid(-3 - 2) + sigmoid(9)) / 2,
    ),
    "top1-max, weights 3/4 and 1/4": (
        losses.top1_max(pair(2, LOG_3, 0)),
        3 / 4 * TOP1_TERMS[0] + 1 / 4 * TOP1_TERMS[1],
    ),
    "hinge": (losses.hinge(pair(2, 1.5, 1, 3, -4), margin=1), (0.5 + 0 + 2 + 0) / 4),
    "hinge, margin 3": (losses.hinge(pair(2, 1.5, 1, 3, -4), margin=3), (2.5 + 2 + 4 + 0) / 4),
    "infonce": (
        losses.infonce(pair(1, 0, -1), temperature=0.5),
        math.log(math.exp(2) + 1 + math.exp(-2)) - 2,
    ),
    # A negative with an expected count of 0.5 has weight 2, and one with 3 has weight 1/3.
    "sampled-softmax": (
        losses.sampled_softmax(pair(LOG_5, LOG_2, 0, log_expected=HALF_AND_THREE)),
        math.log((5 + 2 * 2 + 1 / 3) / 5),
    ),
}


@pytest.mark.parametrize(("result", "expected"), BY_HAND.values(), ids=BY_HAND)
def test_loss_by_hand(result: Tensor, expected: float) -> None:
    assert result.tolist() == pytest.approx([expected])


@pytest.mark.parametrize("others", [[1.0, -3.0], [1.0, -3.0, -3.0, 1.0, 0.0]])
def test_gbce_with_all_other_services_equals_bce(others: list[float]) -> None:
    candidates = pair(2.0, *others, c=3)
    torch.testing.assert_close(losses.gbce(candidates, t=0.75), losses.bce(candidates))


def test_gbce_counts_only_valid_negatives() -> None:
    candidates = pair(2.0, 1.0, -3.0, 5.0, c=5)._replace(valid=torch.tensor([[True, False, True]]))
    torch.testing.assert_close(
        losses.gbce(candidates, t=0.5), losses.gbce(pair(2.0, 1.0, 5.0, c=5), t=0.5)
    )


def test_bpr_max_with_elu_equals_bpr_max_of_transformed_scores() -> None:
    bounded = [0.5 * (math.exp(-2) - 1), 1.0, 0.5 * (math.exp(-30) - 1)]
    result = losses.bpr_max(pair(-2.0, 1.0, -30.0), score_penalty=1, elu=0.5)
    torch.testing.assert_close(result, losses.bpr_max(pair(*bounded), score_penalty=1, elu=0))


HYPERPARAMETERS: dict[str, dict[str, float]] = {
    "gbce": {"t": 0.75},
    "bpr-max": {"score_penalty": 1.0, "elu": 0.5},
    "hinge": {"margin": 2.5},
    "infonce": {"temperature": 0.1},
}


@pytest.mark.parametrize("name", LOSSES)
def test_named_loss_has_hyperparameters_of_options(name: str) -> None:
    """The margin is an option, and everything else is constant."""
    candidates, values = random_pairs(), HYPERPARAMETERS.get(name, {})
    result = LOSSES[name](candidates, TrainingOptions.model_validate({"loss": name, "margin": 2.5}))
    assert torch.equal(result, getattr(losses, name.replace("-", "_"))(candidates, **values))


# Identities


def test_bpr_of_one_negative_equals_cross_entropy_of_two_columns() -> None:
    """-log(e^p / (e^p + e^n)) = softplus(n - p)."""
    scores, first = random_scores()[:, :2], torch.zeros(6, dtype=torch.int64)
    valid = torch.ones(6, 1, dtype=torch.bool)
    pairwise = losses.bpr(CandidateScores(scores[:, 0], scores[:, 1:], valid, None, 2))
    torch.testing.assert_close(pairwise, cross_entropy(scores, torch.arange(6), first))


@pytest.mark.parametrize("others", [[0.3], [3.0, 3.0, 3.0]])
def test_bpr_max_of_equal_negatives_equals_bpr(others: list[float]) -> None:
    candidates = pair(1.0, *others)
    result = losses.bpr_max(candidates, score_penalty=0, elu=0)
    torch.testing.assert_close(result, losses.bpr(candidates))


def test_bpr_max_differs_from_bpr() -> None:
    candidates = random_pairs()
    result = losses.bpr_max(candidates, score_penalty=0, elu=0)
    assert ((result - losses.bpr(candidates)).abs() > 1e-3).any()


@pytest.mark.parametrize("log_expected", [None, 0.0])
def test_sampled_softmax_with_all_services_equals_cross_entropy(log_expected: float | None) -> None:
    scores = random_scores()
    rows, targets = torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 0])
    valid = torch.arange(5) != targets[:, None]
    expected = None if log_expected is None else torch.full((6, 5), log_expected)
    candidates = CandidateScores(scores[rows, targets], scores, valid, expected, 5)
    result, full = losses.sampled_softmax(candidates), cross_entropy(scores, rows, targets)
    torch.testing.assert_close(result, full)
    sampled_gradient, full_gradient = (
        torch.autograd.grad(loss.sum(), scores)[0] for loss in (result, full)
    )
    torch.testing.assert_close(sampled_gradient, full_gradient)


def test_sampled_softmax_without_correction_equals_infonce() -> None:
    candidates = random_pairs()
    expected = losses.infonce(candidates, temperature=1)
    torch.testing.assert_close(losses.sampled_softmax(candidates), expected)


@pytest.mark.parametrize("loss", [losses.top1, losses.top1_max])
def test_top1_is_not_invariant_to_constant_added_to_scores(
    loss: Callable[[CandidateScores], Tensor],
) -> None:
    assert loss(pair(11.0, 10.0, 9.0)) > loss(pair(1.0, 0.0, -1.0)) + 0.2


def test_infonce_of_batch_with_equal_scores_is_log_of_size() -> None:
    targets = torch.tensor([3, 0, 1, 4])
    result = losses.infonce(in_batch(targets, torch.full((4, 5), 0.7)), temperature=0.1)
    torch.testing.assert_close(result, torch.full((4,), math.log(4)))


def test_infonce_of_batch_with_equal_targets_is_zero() -> None:
    assert not losses.infonce(
        in_batch(torch.tensor([2, 2, 2]), torch.randn(3, 5)), temperature=0.1
    ).any()


def in_batch(targets: Tensor, scores: Tensor) -> CandidateScores:
    draw = Sampler.of(torch.ones(5), 1.0).draw_shared(targets, 0, in_batch=True)
    others = scores.gather(1, draw.columns)
    positive = scores[torch.arange(len(targets)), targets]
    return CandidateScores(positive, others, draw.valid, draw.log_expected, 5)


# Gradients


def test_gradient_of_bpr_max_by_hand() -> None:
    """dL/ds_p = -sum_j w_j q_j (1 - q_j) / Q, dL/ds_j = w_j / Q (q_j (1 - q_j) - q_j + Q)."""
    positive, others = 0.5, [2.0, -1.0, -4.0]
    total = sum(math.exp(s) for s in others)
    weights = [math.exp(s) / total for s in others]
    q = [sigmoid(positive - s) for s in others]
    mean_q = sum(w * x for w, x in zip(weights, q, strict=True))
    expected = [-sum(w * x * (1 - x) for w, x in zip(weights, q, strict=True)) / mean_q]
    expected += [w / mean_q * (x * (1 - x) - x + mean_q) for w, x in zip(weights, q, strict=True)]
    result = gradient(lambda c: losses.bpr_max(c, score_penalty=0, elu=0), pair(positive, *others))
    assert result == pytest.approx(expected)
    assert result[0] < 0 < result[1]
    assert result[3] < 0  # the score of the weakest negative is raised


def test_gradient_of_hinge_by_hand() -> None:
    result = gradient(lambda c: losses.hinge(c, margin=1), pair(2.0, 1.5, 1.0, 3.0, -4.0))
    assert result == pytest.approx([-2 / 4, 1 / 4, 0, 1 / 4, 0])
    assert losses.hinge(pair(2.0, 1.0, -7.0), margin=1).item() == 0


def test_gradient_of_sampled_softmax_by_hand() -> None:
    expected = torch.tensor([[0.5, 3.0]], dtype=torch.float64).log()
    result = gradient(
        losses.sampled_softmax, pair(math.log(5), math.log(2), 0.0, log_expected=expected)
    )
    z = 5 + 4 + 1 / 3
    assert result == pytest.approx([5 / z - 1, 4 / z, 1 / 3 / z])


@pytest.mark.parametrize("n", [1, 4])
def test_minimum_of_bce_is_log_odds_minus_log_of_number_of_negatives(n: int) -> None:
    """Two services have shares 0.8 and 0.2, and the negatives of each are n times the other one."""
    shares = [0.8, 0.2]
    scores = torch.tensor([math.log(p / (1 - p)) - math.log(n) for p in shares], dtype=torch.float64)
    scores.requires_grad_()
    valid = torch.ones(2, n, dtype=torch.bool)
    result = losses.bce(CandidateScores(scores, scores.flip(0)[:, None].expand(2, n), valid, None, 2))
    loss = (torch.tensor(shares, dtype=torch.float64) * result).sum()
    torch.testing.assert_close(
        torch.autograd.grad(loss, scores)[0], torch.zeros(2, dtype=torch.float64)
    )


@pytest.mark.parametrize(("t", "is_minimum"), [(1, True), (0, False)])
def test_minimum_of_gbce_with_t_one_is_log_odds(t: float, is_minimum: bool) -> None:
    """All pairs of a target and one negative, for three services."""
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    scores = torch.log(shares / (1 - shares)).requires_grad_()
    target, other = torch.tensor(list(itertools.permutations(range(3), 2))).T
    valid = torch.ones(6, 1, dtype=torch.bool)
    result = losses.gbce(CandidateScores(scores[target], scores[other][:, None], valid, None, 3), t=t)
    gradient_ = torch.autograd.grad((shares[target] / 2 * result).sum(), scores)[0]
    assert bool((gradient_.abs() < 1e-12).all()) is is_minimum
