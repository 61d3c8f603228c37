"""What every loss must do: a pure function of scores, counts and a mask, to be made small.

A loss takes either the scores of all services, (scores, counts, mask), or those of the target and of
negatives, (positive, negatives, weights, valid); the second is asked here with all others as negatives.
The losses are the public functions of ``dagrec.training.losses``: adding one needs no line here. One
that may break a rule stands in ``EXCEPTIONS`` with the reason, and must break it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dagrec.training import losses

Loss = Callable[..., Tensor]

SIGNATURES = (["scores", "counts", "mask"], ["positive", "negatives", "weights", "valid"])


def of_all_services(function: Loss) -> Loss:
    """The loss as a function of scores, counts and mask."""
    if next(iter(inspect.signature(function).parameters)) == "scores":
        return function

    def loss(scores: Tensor, counts: Tensor, mask: Tensor | None = None) -> Tensor:
        allowed = torch.ones_like(counts, dtype=torch.bool) if mask is None else mask
        row, target = (counts * allowed).nonzero(as_tuple=True)
        others = torch.arange(scores.shape[1]) != target[:, None]
        return function(scores[row, target], scores[row], counts[row, target], others & allowed[row])

    return loss


PUBLIC: dict[str, Loss] = {
    name: function
    for name, function in inspect.getmembers(losses, inspect.isfunction)
    if function.__module__ == losses.__name__ and not name.startswith("_")
}

LOSSES = {name: of_all_services(function) for name, function in PUBLIC.items()}

EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(loss, test) -> why the rule does not hold for it."""


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> Loss:
    """Each loss, and its known exception to the rule that is tested."""
    key = (request.param, request.function.__name__)
    if key in EXCEPTIONS:
        request.applymarker(
            pytest.mark.xfail(raises=AssertionError, reason=EXCEPTIONS[key], strict=True)
        )
    return LOSSES[request.param]


def random(rows: int = 4, services: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, counts and a mask without an empty row."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(rows, services, generator=generator, dtype=torch.float64)
    counts = torch.randint(0, 3, (rows, services), generator=generator).double()
    counts[:, 0] += 1
    mask = torch.rand(rows, services, generator=generator) > 0.4
    mask[:, 0] = True
    return scores.requires_grad_(), counts, mask


def gradient(loss: Loss, scores: Tensor, *rest: Tensor | None) -> Tensor:
    (found,) = torch.autograd.grad(loss(scores, *rest), scores)
    return found


def test_there_are_losses_and_exceptions_are_of_them() -> None:
    tests = {name for name in globals() if name.startswith("test_")}
    assert LOSSES
    assert all(name in LOSSES and test in tests for name, test in EXCEPTIONS)


@pytest.mark.parametrize("name", PUBLIC)
def test_it_has_one_of_two_signatures(name: str) -> None:
    parameters = inspect.signature(PUBLIC[name]).parameters
    form = next(form for form in SIGNATURES if form[0] in parameters)
    assert list(parameters)[: len(form)] == form
    further = list(parameters.values())[len(form) :]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in further)


def test_it_is_one_finite_number_that_is_not_negative(loss: Loss) -> None:
    scores, counts, mask = random()
    for value in (loss(scores, counts), loss(scores, counts, mask)):
        assert value.shape == ()
        assert torch.isfinite(value)
        assert value >= 0


def test_it_is_summed_over_rows(loss: Loss) -> None:
    scores, counts, mask = random()
    rows = [loss(scores[i : i + 1], counts[i : i + 1], mask[i : i + 1]) for i in range(len(scores))]
    torch.testing.assert_close(loss(scores, counts, mask), torch.stack(rows).sum())


def test_rows_without_counts_add_nothing(loss: Loss) -> None:
    scores, counts, mask = random()
    counts[1:] = 0
    torch.testing.assert_close(loss(scores, counts, mask), loss(scores[:1], counts[:1], mask[:1]))
    assert not gradient(loss, scores, counts, mask)[1:].any()


def test_counts_scale_it(loss: Loss) -> None:
    scores, counts, mask = random()
    torch.testing.assert_close(loss(scores, 3 * counts, mask), 3 * loss(scores, counts, mask))


def test_permuting_services_changes_nothing(loss: Loss) -> None:
    scores, counts, mask = random()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found = loss(scores[:, order], counts[:, order], mask[:, order])
    torch.testing.assert_close(found, loss(scores, counts, mask))


def test_adding_a_constant_to_a_row_changes_nothing(loss: Loss) -> None:
    scores, counts, mask = random()
    moved = scores + torch.tensor([[100.0], [-7.0], [0.0], [3.0]], dtype=torch.float64)
    torch.testing.assert_close(loss(moved, counts, mask), loss(scores, counts, mask))


@pytest.mark.parametrize("offset", [0.0, 1e5, -1e5])
def test_the_mask_is_the_choice_of_a_subset(loss: Loss, offset: float) -> None:
    """Also where all scores lie far below 0, and a number in place of -inf could be above them."""
    scores, counts, mask = random()
    scores = scores + offset
    for i, kept in enumerate(mask):
        row = scores[i : i + 1], counts[i : i + 1], mask[i : i + 1]
        torch.testing.assert_close(loss(*row), loss(row[0][:, kept], row[1][:, kept]))


def test_masked_scores_get_no_gradient(loss: Loss) -> None:
    scores, counts, mask = random()
    assert not gradient(loss, scores, counts, mask)[~mask].any()


def test_a_row_that_is_all_masked_adds_nothing_and_stays_finite(loss: Loss) -> None:
    scores, counts, _ = random()
    nothing = torch.zeros(scores.shape, dtype=torch.bool)
    assert loss(scores, counts, nothing).item() == 0
    assert torch.equal(gradient(loss, scores, counts, nothing), torch.zeros_like(scores))


def test_raising_the_score_of_the_target_lowers_it(loss: Loss) -> None:
    scores, _, mask = random()
    counts = torch.zeros_like(scores)
    counts[:, 0] = 1
    several = mask.sum(dim=1) > 1
    assert several.any()
    assert (gradient(loss, scores, counts, mask)[several, 0] < 0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_its_gradient_is_the_numerical_one(loss: Loss, masked: bool) -> None:
    scores, counts, mask = random()
    assert torch.autograd.gradcheck(lambda s: loss(s, counts, mask if masked else None), (scores,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_scores_stay_finite(loss: Loss, size: float, dtype: torch.dtype) -> None:
    _, counts, mask = random()
    signs = torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 0.0], dtype=dtype)
    scores = (size * signs).repeat(4, 1).requires_grad_()
    for rest in ((counts.to(dtype),), (counts.to(dtype), mask)):
        assert torch.isfinite(loss(scores, *rest))
        assert torch.isfinite(gradient(loss, scores, *rest)).all()
