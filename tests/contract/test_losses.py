"""What every loss must do: one number for each pair, a pure function of scores, to be made small.

The losses are those of ``dagrec.training.losses.LOSSES``: adding one needs no line here. The
cross-entropy over all services stands among them, with the valid negatives as its mask. A loss that may
break a rule stands in ``EXCEPTIONS`` with the reason, and must break it.
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


def full(candidates: CandidateScores, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of rows with the target in column 0, then its negatives."""
    scores = torch.cat([candidates.positive[:, None], candidates.others], dim=1)
    rows = torch.arange(len(scores))
    mask = torch.cat([torch.ones(len(scores), 1, dtype=torch.bool), candidates.valid], dim=1)
    return cross_entropy(scores, rows, torch.zeros_like(rows), mask=mask, smoothing=smoothing)


def named(name: str) -> Loss:
    options = TrainingOptions.model_validate({"loss": name})
    return lambda candidates: LOSSES[name](candidates, options)


CASES: dict[str, Loss] = {
    "ce": full,
    "ce, smoothed": partial(full, smoothing=0.2),
    **{name: named(name) for name in LOSSES},
    "bpr-max of differences": partial(bpr_max, score_penalty=0, elu=0),
}

CONSTANT = "test_adding_a_constant_to_a_row_changes_nothing"
ABSOLUTE = "it judges the scores themselves, not only their differences"
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("ce, smoothed", "test_raising_the_score_of_the_target_never_raises_it"): (
        "a target that leads by too much has more than its smoothed share"
    ),
    ("bce", CONSTANT): ABSOLUTE,
    ("gbce", CONSTANT): ABSOLUTE,
    ("bpr-max", CONSTANT): ABSOLUTE,
    ("top1", CONSTANT): ABSOLUTE,
    ("top1-max", CONSTANT): ABSOLUTE,
}
"""(case, test) -> why the rule does not hold for it."""


@pytest.fixture(params=CASES)
def loss(request: pytest.FixtureRequest) -> Loss:
    """Each loss, and its known exception to the rule that is tested."""
    key = (request.param, request.function.__name__)
    if key in EXCEPTIONS:
        request.applymarker(
            pytest.mark.xfail(raises=AssertionError, reason=EXCEPTIONS[key], strict=True)
        )
    return CASES[request.param]


def random(spread: float = 2.0) -> CandidateScores:
    """Five pairs with up to six negatives, of which the last pair has no valid one."""
    generator = torch.Generator().manual_seed(0)
    scores = spread * torch.randn(5, 7, generator=generator, dtype=torch.float64)
    valid = torch.rand(5, 6, generator=generator) > 0.4
    valid[:4, 0], valid[4] = True, False
    log_expected = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    return CandidateScores(scores[:, 0], scores[:, 1:], valid, log_expected, num_services=9)


def gradients(loss: Loss, candidates: CandidateScores) -> tuple[Tensor, Tensor]:
    """Of the sum over pairs, with respect to the scores of targets and of negatives."""
    positive = candidates.positive.detach().clone().requires_grad_()
    others = candidates.others.detach().clone().requires_grad_()
    losses = loss(candidates._replace(positive=positive, others=others))
    found = torch.autograd.grad(losses.sum(), (positive, others))
    return found[0], found[1]


def test_the_names_are_those_of_the_option() -> None:
    assert sorted([*LOSSES, "ce"]) == sorted(get_args(LossName))


def test_exceptions_are_of_losses_and_tests() -> None:
    tests = {name for name in globals() if name.startswith("test_")}
    assert all(case in CASES and test in tests for case, test in EXCEPTIONS)


def test_it_is_one_finite_number_a_pair_and_not_negative(loss: Loss) -> None:
    losses = loss(random())
    assert losses.shape == (5,)
    assert losses.dtype == torch.float64
    assert torch.isfinite(losses).all()
    assert (losses >= 0).all()


def test_every_pair_is_alone(loss: Loss) -> None:
    candidates = random()
    single = [
        loss(CandidateScores(*(part[i : i + 1] for part in candidates[:4]), num_services=9))
        for i in range(5)
    ]
    torch.testing.assert_close(loss(candidates), torch.cat(single))


def test_permuting_the_negatives_changes_nothing(loss: Loss) -> None:
    candidates, order = random(), torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = candidates._replace(
        others=candidates.others[:, order],
        valid=candidates.valid[:, order],
        log_expected=candidates.log_expected[:, order],
    )
    torch.testing.assert_close(loss(permuted), loss(candidates))
    positive, others = gradients(loss, candidates)
    torch.testing.assert_close(gradients(loss, permuted), (positive, others[:, order]))


def test_adding_a_constant_to_a_row_changes_nothing(loss: Loss) -> None:
    candidates = random()
    constant = torch.tensor([100.0, -7.0, 0.0, 3.0, 50.0], dtype=torch.float64)
    moved = candidates._replace(
        positive=candidates.positive + constant, others=candidates.others + constant[:, None]
    )
    torch.testing.assert_close(loss(moved), loss(candidates))


@pytest.mark.parametrize("score", [0.0, 1e4, -1e4, float("inf"), float("nan")])
def test_a_negative_that_is_not_valid_changes_nothing(loss: Loss, score: float) -> None:
    candidates = random()
    changed = candidates._replace(
        others=candidates.others.masked_fill(~candidates.valid, score),
        log_expected=candidates.log_expected.masked_fill(~candidates.valid, -torch.inf),
    )
    assert torch.equal(loss(changed), loss(candidates))
    found, expected = gradients(loss, changed), gradients(loss, candidates)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert not found[1][~candidates.valid].any()


def test_negatives_that_are_not_valid_may_be_left_out(loss: Loss) -> None:
    """Of any number: none of the valid ones of the first pair is needed to say so."""
    candidates = random()
    kept = candidates.valid[0]
    some = candidates._replace(valid=candidates.valid & kept)
    fewer = CandidateScores(
        some.positive, some.others[:, kept], some.valid[:, kept], some.log_expected[:, kept], 9
    )
    torch.testing.assert_close(loss(some), loss(fewer))


@pytest.mark.parametrize("width", [6, 0])
def test_without_a_valid_negative_nothing_is_learned(loss: Loss, width: int) -> None:
    candidates = random()
    nothing = candidates._replace(
        others=candidates.others[:, :width],
        valid=torch.zeros(5, width, dtype=torch.bool),
        log_expected=candidates.log_expected[:, :width],
    )
    assert not loss(nothing).any()
    positive, others = gradients(loss, nothing)
    assert torch.equal(positive, torch.zeros(5, dtype=torch.float64))
    assert torch.equal(others, torch.zeros(5, width, dtype=torch.float64))


@pytest.mark.parametrize("spread", [0.1, 2.0, 10.0])
def test_raising_the_score_of_the_target_never_raises_it(loss: Loss, spread: float) -> None:
    candidates = random(spread)
    leading = candidates._replace(positive=candidates.others.amax(dim=1) + 10)
    assert (gradients(loss, leading)[0] <= 0).all()
    assert (gradients(loss, candidates)[0] <= 0).all()


def test_raising_the_score_of_the_target_lowers_it_at_a_tie(loss: Loss) -> None:
    candidates = random()
    tied = candidates._replace(others=candidates.positive[:, None].expand(5, 6))
    assert (gradients(loss, tied)[0][:4] < 0).all()


def test_its_gradient_is_the_numerical_one(loss: Loss) -> None:
    candidates = random()
    scores = candidates.positive.requires_grad_(), candidates.others.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda positive, others: loss(candidates._replace(positive=positive, others=others)), scores
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_scores_stay_finite(loss: Loss, size: float, dtype: torch.dtype) -> None:
    """The target above, below and between its negatives, which are apart or all alike."""
    signs = torch.tensor([[1, -1, 0, 1, -1, 0], [1] * 6, [-1] * 6, [0] * 6, [1] * 6])
    candidates = random()._replace(
        positive=size * torch.tensor([1, -1, 1, -1, 0], dtype=dtype),
        others=size * signs.to(dtype),
        log_expected=torch.zeros(5, 6, dtype=dtype),
    )
    for valid in (candidates.valid, torch.ones_like(candidates.valid)):
        asked = candidates._replace(valid=valid)
        assert torch.isfinite(loss(asked)).all()
        assert all(torch.isfinite(part).all() for part in gradients(loss, asked))


def test_arguments_stay_as_they_were(loss: Loss) -> None:
    candidates = random()
    before = [part.clone() for part in candidates[:4]]
    loss(candidates)
    assert all(torch.equal(a, b) for a, b in zip(before, candidates[:4], strict=True))
