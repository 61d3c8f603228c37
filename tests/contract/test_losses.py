"""The contract of losses: a pure function of scores that returns one value for each pair.

Every entry of ``dagrec.training.losses.LOSSES`` is tested, and the cross-entropy over all services with
the valid negatives as its mask. A loss that violates a rule for a good reason is listed in
``EXCEPTIONS``, and must violate it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import get_args

import pytest
import torch
from torch import Tensor

from dagrec.training.losses import LOSSES, CandidateScores, bpr_max, cross_entropy
from dagrec.training.options import LossName, TrainingOptions

Loss = Callable[[CandidateScores], Tensor]


def masked_cross_entropy(candidates: CandidateScores, smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of rows with the target in column 0, followed by its negatives."""
    scores = torch.cat([candidates.positive[:, None], candidates.others], dim=1)
    rows = torch.arange(len(scores))
    mask = torch.cat([torch.ones(len(scores), 1, dtype=torch.bool), candidates.valid], dim=1)
    return cross_entropy(scores, rows, torch.zeros_like(rows), mask=mask, smoothing=smoothing)


def named(name: str) -> Loss:
    options = TrainingOptions.model_validate({"loss": name})
    return lambda candidates: LOSSES[name](candidates, options)


CASES: dict[str, Loss] = {
    "ce": masked_cross_entropy,
    "ce, smoothed": partial(masked_cross_entropy, smoothing=0.2),
    **{name: named(name) for name in LOSSES},
    "bpr-max without regularisation": partial(bpr_max, score_penalty=0, elu=0),
}

CONSTANT = "test_loss_is_invariant_to_constant_added_to_row"
ABSOLUTE = "it depends on the scores themselves, not only on their differences"
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("ce, smoothed", "test_loss_does_not_increase_with_score_of_target"): (
        "the probability of the target can exceed its smoothed share"
    ),
    ("bce", CONSTANT): ABSOLUTE,
    ("gbce", CONSTANT): ABSOLUTE,
    ("bpr-max", CONSTANT): ABSOLUTE,
    ("top1", CONSTANT): ABSOLUTE,
    ("top1-max", CONSTANT): ABSOLUTE,
}
"""(case, test) -> the reason why the loss fails the test."""


@pytest.fixture(params=CASES)
def loss(request: pytest.FixtureRequest) -> Loss:
    """Each loss; the test is expected to fail for its known exceptions."""
    key = (request.param, request.function.__name__)
    if key in EXCEPTIONS:
        request.applymarker(
            pytest.mark.xfail(raises=AssertionError, reason=EXCEPTIONS[key], strict=True)
        )
    return CASES[request.param]


def random(spread: float = 2.0) -> CandidateScores:
    """Five pairs with up to six valid negatives; the last pair has none."""
    generator = torch.Generator().manual_seed(0)
    scores = spread * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    valid = torch.rand(5, 6, generator=generator) > 0.4
    valid[:4, 0], valid[4] = True, False
    log_expected = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    return CandidateScores(scores[:, 0], scores[:, 1:], valid, log_expected, num_services=9)


def gradients(loss: Loss, candidates: CandidateScores) -> tuple[Tensor, Tensor]:
    """The gradients of the summed loss with respect to the scores of targets and of negatives."""
    positive = candidates.positive.detach().clone().requires_grad_()
    others = candidates.others.detach().clone().requires_grad_()
    losses = loss(candidates._replace(positive=positive, others=others))
    of_positive, of_others = torch.autograd.grad(losses.sum(), (positive, others))
    return of_positive, of_others


def test_losses_match_names_of_option() -> None:
    assert sorted([*LOSSES, "ce"]) == sorted(get_args(LossName))


def test_exceptions_refer_to_existing_losses_and_tests() -> None:
    tests = {name for name in globals() if name.startswith("test_")}
    assert all(case in CASES and test in tests for case, test in EXCEPTIONS)


def test_loss_is_finite_and_not_negative(loss: Loss) -> None:
    losses = loss(random())
    assert losses.shape == (5,)
    assert losses.dtype == torch.float64
    assert torch.isfinite(losses).all()
    assert (losses >= 0).all()


def test_pairs_are_independent(loss: Loss) -> None:
    candidates = random()
    single = [
        loss(CandidateScores(*(part[i : i + 1] for part in candidates[:4]), num_services=9))
        for i in range(5)
    ]
    torch.testing.assert_close(loss(candidates), torch.cat(single))


def test_loss_is_invariant_to_permutation_of_negatives(loss: Loss) -> None:
    candidates, order = random(), torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = candidates._replace(
        others=candidates.others[:, order],
        valid=candidates.valid[:, order],
        log_expected=candidates.log_expected[:, order],
    )
    torch.testing.assert_close(loss(permuted), loss(candidates))
    positive, others = gradients(loss, candidates)
    torch.testing.assert_close(gradients(loss, permuted), (positive, others[:, order]))


def test_loss_is_invariant_to_constant_added_to_row(loss: Loss) -> None:
    candidates = random()
    constant = torch.tensor([100.0, -7.0, 0.0, 3.0, 50.0], dtype=torch.float64)
    shifted = candidates._replace(
        positive=candidates.positive + constant, others=candidates.others + constant[:, None]
    )
    torch.testing.assert_close(loss(shifted), loss(candidates))


@pytest.mark.parametrize("score", [0.0, 1e4, -1e4, float("inf"), float("nan")])
def test_invalid_negatives_are_ignored(loss: Loss, score: float) -> None:
    candidates = random()
    changed = candidates._replace(
        others=candidates.others.masked_fill(~candidates.valid, score),
        log_expected=candidates.log_expected.masked_fill(~candidates.valid, -torch.inf),
    )
    assert torch.equal(loss(changed), loss(candidates))
    result, expected = gradients(loss, changed), gradients(loss, candidates)
    assert torch.equal(result[0], expected[0])
    assert torch.equal(result[1], expected[1])
    assert not result[1][~candidates.valid].any()


def test_invalid_negatives_can_be_removed(loss: Loss) -> None:
    candidates = random()
    columns = candidates.valid[0]
    some = candidates._replace(valid=candidates.valid & columns)
    fewer = CandidateScores(
        some.positive,
        some.others[:, columns],
        some.valid[:, columns],
        some.log_expected[:, columns],
        9,
    )
    torch.testing.assert_close(loss(some), loss(fewer))


@pytest.mark.parametrize("width", [6, 0])
def test_loss_and_gradient_without_valid_negatives_are_zero(loss: Loss, width: int) -> None:
    candidates = random()
    without_negatives = candidates._replace(
        others=candidates.others[:, :width],
        valid=torch.zeros(5, width, dtype=torch.bool),
        log_expected=candidates.log_expected[:, :width],
    )
    assert not loss(without_negatives).any()
    positive, others = gradients(loss, without_negatives)
    assert torch.equal(positive, torch.zeros(5, dtype=torch.float64))
    assert torch.equal(others, torch.zeros(5, width, dtype=torch.float64))


@pytest.mark.parametrize("spread", [0.1, 2.0, 10.0])
def test_loss_does_not_increase_with_score_of_target(loss: Loss, spread: float) -> None:
    candidates = random(spread)
    leading = candidates._replace(positive=candidates.others.amax(dim=1) + 10)
    assert (gradients(loss, leading)[0] <= 0).all()
    assert (gradients(loss, candidates)[0] <= 0).all()


def test_loss_decreases_with_score_of_target_for_equal_scores(loss: Loss) -> None:
    candidates = random()
    tied = candidates._replace(others=candidates.positive[:, None].expand(5, 6))
    assert (gradients(loss, tied)[0][:4] < 0).all()


def test_gradient_matches_numerical_gradient(loss: Loss) -> None:
    candidates = random()
    scores = candidates.positive.requires_grad_(), candidates.others.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda positive, others: loss(candidates._replace(positive=positive, others=others)), scores
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_loss_of_large_scores_is_finite(loss: Loss, size: float, dtype: torch.dtype) -> None:
    """The target is above, below or between its negatives, which are different or equal."""
    signs = torch.tensor([[1, -1, 0, 1, -1, 0], [1] * 6, [-1] * 6, [0] * 6, [1] * 6])
    candidates = random()._replace(
        positive=size * torch.tensor([1, -1, 1, -1, 0], dtype=dtype),
        others=size * signs.to(dtype),
        log_expected=torch.zeros(5, 6, dtype=dtype),
    )
    for valid in (candidates.valid, torch.ones_like(candidates.valid)):
        changed = candidates._replace(valid=valid)
        assert torch.isfinite(loss(changed)).all()
        assert all(torch.isfinite(part).all() for part in gradients(loss, changed))


def test_loss_does_not_modify_arguments(loss: Loss) -> None:
    candidates = random()
    before = [part.clone() for part in candidates[:4]]
    loss(candidates)
    assert all(torch.equal(a, b) for a, b in zip(before, candidates[:4], strict=True))
