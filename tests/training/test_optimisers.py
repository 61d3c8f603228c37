from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dagrec.models.optimisation import Optimisation
from dagrec.training.optimisers import Adagrad, make_optimiser

NAMES = get_args(Optimisation.model_fields["optimiser"].annotation)
TRIPLES = [0.75e-3, 3e-3, 21e-3]
"""Gradients whose squares, with 1e-6, sum to squares: 1.25e-3, 3.25e-3 and 21.25e-3 are the roots."""


def parameter(*values: Any) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def follow(
    optimiser: torch.optim.Optimizer, weights: nn.Parameter, gradients: Iterable[Tensor]
) -> None:
    """A step by each of these gradients, which do not depend on the weights."""
    for gradient in gradients:
        weights.grad = gradient.clone()
        optimiser.step()


def path_of(optimiser: torch.optim.Optimizer, weights: nn.Parameter, gradients: Sequence[float]) -> Any:
    """The only weight after each of these gradients."""
    found = []
    for gradient in gradients:
        follow(optimiser, weights, [torch.tensor([gradient], dtype=torch.float64)])
        found.append(weights.item())
    return found


def sparse(rows: Sequence[int], values: Sequence[Sequence[float]], size: int) -> Tensor:
    found = torch.tensor(values, dtype=torch.float64)
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), found, (size, found.shape[1]), check_invariants=True
    )


# What the options choose


def test_the_options_decide_class_and_settings() -> None:
    chosen = {"learning_rate": 0.3, "weight_decay": 0.2}
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": Adagrad}
    assert set(classes) == set(NAMES)
    for name, class_ in classes.items():
        weights = parameter(1.0)
        own = {"momentum": 0.4} if name == "adagrad" else {}
        optimiser = make_optimiser(iter([weights]), Optimisation(optimiser=name, **chosen, **own))
        (group,) = optimiser.param_groups
        assert type(optimiser) is class_
        assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)
        assert group["params"] == [weights]
    assert group["momentum"] == 0.4


def test_adam_and_adamw_are_those_of_the_papers() -> None:
    """The first step of Adam is lr times a sign, whatever weight decay adds to the gradient."""
    for name, expected in (("adam", 2 - 0.1), ("adamw", 2 * (1 - 0.1 * 0.5) - 0.1)):
        weights = parameter(2.0)
        options = Optimisation(optimiser=name, learning_rate=0.1, weight_decay=0.5)
        assert path_of(make_optimiser([weights], options), weights, [3.0]) == pytest.approx([expected])


# Adagrad by hand


def test_the_constant_is_inside_the_root() -> None:
    weights = parameter(1.0)
    expected = [1 - 0.5 * 3 / 5]
    expected.append(expected[-1] - 0.5 * 12 / 13)
    expected.append(expected[-1] - 0.5 * 84 / 85)
    optimiser = Adagrad([weights], lr=0.5)
    assert path_of(optimiser, weights, TRIPLES) == pytest.approx(expected, rel=1e-14)
    assert optimiser.state[weights]["squares"].item() == pytest.approx(21.25e-3**2 - 1e-6, rel=1e-14)
    assert set(optimiser.state[weights]) == {"squares"}


def test_two_steps_with_momentum() -> None:
    """m = -3/5, then m = 0.5 * -3/5 - 12/13; the weight moves by m each time."""
    weights = parameter(1.0)
    optimiser = Adagrad([weights], lr=1.0, momentum=0.5)
    first, second = -3 / 5, 0.5 * -3 / 5 - 12 / 13
    expected = [1 + first, 1 + first + second]
    assert path_of(optimiser, weights, TRIPLES[:2]) == pytest.approx(expected, rel=1e-14)
    assert optimiser.state[weights]["velocity"].item() == pytest.approx(second, rel=1e-14)


def test_weight_decay_is_part_of_the_gradient() -> None:
    weights = parameter(2.0)
    optimiser = Adagrad([weights], lr=1.0, weight_decay=0.25e-3)
    path = path_of(optimiser, weights, [0.25e-3])  # and 0.5e-3 of the weight: 0.75e-3
    assert path == pytest.approx([2 - 3 / 5], rel=1e-14)


@given(
    gradients=st.lists(st.floats(1, 50) | st.floats(-50, -1), min_size=1, max_size=30),
    rate=st.floats(0.001, 1),
)
def test_without_momentum_it_is_that_of_torch_up_to_the_constant(
    gradients: list[float], rate: float
) -> None:
    """1/sqrt(G) - 1/sqrt(G + e) <= e / (2 G^1.5), and G >= g^2: a step differs by lr e / (2 g^2)."""
    ours, theirs = parameter(0.0), parameter(0.0)
    found = path_of(Adagrad([ours], lr=rate), ours, gradients)
    expected = path_of(torch.optim.Adagrad([theirs], lr=rate, eps=0.0), theirs, gradients)
    bound = rate * sum(1e-6 / (2 * g**2) for g in gradients)
    rounding = 1e-13 * len(gradients)
    assert abs(found[-1] - expected[-1]) <= bound + rounding
    assert abs(found[0]) < abs(expected[0])


def test_the_constant_keeps_steps_by_tiny_gradients_small() -> None:
    ours, theirs = parameter(0.0), parameter(0.0)
    assert path_of(Adagrad([ours], lr=1.0), ours, [1e-9])[0] == pytest.approx(-1e-6)
    assert path_of(torch.optim.Adagrad([theirs], lr=1.0, eps=0.0), theirs, [1e-9])[0] == -1


# Rows


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_dense_gradient_moves_what_a_sparse_one_of_the_same_rows_moves(
    momentum: float, decay: float
) -> None:
    """Small whole numbers, whose sums are exact in any order; row 2 is listed twice, row 1 never."""
    rows, all_rows = [2, 0, 3, 2], [3, 1, 2, 0, 1]
    draw = torch.Generator().manual_seed(0)
    steps = [
        sparse(listed, torch.randint(1, 9, (len(listed), 3), generator=draw).tolist(), 4)
        for listed in (rows, all_rows, rows, rows, all_rows)
    ]
    start = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    found = []
    for gradients in (steps, [step.to_dense() for step in steps]):
        weights = nn.Parameter(start.clone())
        optimiser = Adagrad([weights], lr=0.1, momentum=momentum, weight_decay=decay)
        follow(optimiser, weights, gradients)
        found.append([weights.detach(), *optimiser.state[weights].values()])
    assert len(found[0]) == len(found[1]) == 2 + (momentum > 0)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_a_row_without_a_gradient_keeps_weight_squares_and_momentum(kind: str) -> None:
    weights = nn.Parameter(torch.ones(3, 2, dtype=torch.float64))
    optimiser = Adagrad([weights], lr=0.1, momentum=0.9, weight_decay=0.5)
    of_all = sparse([0, 1, 2], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], 3)
    without_1 = sparse([0, 2], [[1.0, 0.0], [0.0, 6.0]], 3)
    steps = [of_all, without_1] if kind == "sparse" else [of_all.to_dense(), without_1.to_dense()]
    follow(optimiser, weights, steps[:1])
    before = [t.detach().clone() for t in (weights, *optimiser.state[weights].values())]
    assert len(before) == 3
    assert all(t[1].all() for t in before)
    follow(optimiser, weights, steps[1:])
    for old, new in zip(before, (weights, *optimiser.state[weights].values()), strict=True):
        assert torch.equal(old[1], new[1])
        assert (old[[0, 2]] != new[[0, 2]]).all()  # the single zeros as well: their row moves


def test_a_table_of_vectors_is_moved_by_its_first_axis() -> None:
    weights = nn.Parameter(torch.zeros(3, 2, 2))
    gradient = torch.zeros(3, 2, 2)
    gradient[1, 0, 1] = 4.0
    optimiser = Adagrad([weights], lr=0.1, momentum=0.5, weight_decay=1.0)
    weights.data += 1.0
    follow(optimiser, weights, [gradient])
    assert (weights != 1).flatten(1).any(dim=1).tolist() == [False, True, False]
    assert (weights[1] != 1).all()


def test_a_vector_coasts_on_as_a_whole() -> None:
    weights = parameter(1.0, 1.0)
    optimiser = Adagrad([weights], lr=1.0, momentum=0.5)
    follow(optimiser, weights, torch.tensor([[0.75e-3, 0.0], [0.0, 0.0]]).double())
    assert weights.tolist() == pytest.approx([1 - 0.6 - 0.3, 1.0])


def test_an_embedding_learns_the_same_by_sparse_and_dense_gradients() -> None:
    """Through torch's own backward pass, with padding and with nodes that occur twice in a batch."""
    start = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    batches = [[1, 2, 2], [3, 0, 1], [5, 5, 5], [0, 0, 4]]
    found = []
    for is_sparse in (True, False):
        embedding = nn.Embedding(6, 3, padding_idx=0, sparse=is_sparse)
        embedding.weight.data.copy_(start)
        optimiser = Adagrad(embedding.parameters(), lr=0.1, momentum=0.3)
        for batch in batches:
            optimiser.zero_grad()
            embedding(torch.tensor(batch)).pow(2).sum().backward()
            assert embedding.weight.grad is not None
            assert embedding.weight.grad.is_sparse is is_sparse
            optimiser.step()
        found.append(embedding.weight.detach())
    torch.testing.assert_close(found[0], found[1])
    assert torch.equal(found[0][0], start[0])
    assert (found[0][1:] != start[1:]).all()


def test_a_parameter_without_a_gradient_has_no_state_and_stays() -> None:
    used, unused = parameter(1.0), parameter(1.0)
    optimiser = Adagrad([used, unused], lr=0.1)
    path_of(optimiser, used, [1.0])
    assert unused.item() == 1
    assert unused not in optimiser.state


def test_a_closure_computes_loss_and_gradient_before_the_step() -> None:
    weights = parameter(3.0)
    optimiser = Adagrad([weights], lr=0.5)

    def closure() -> float:
        optimiser.zero_grad()
        loss = (weights**2).sum()
        loss.backward()
        return loss.item()

    assert optimiser.step(closure) == 9
    assert weights.item() == pytest.approx(2.5)


# Minima


def bowl(weights: Tensor) -> Tensor:
    """A quadratic with its minimum at (1, 2), fifty times as steep one way as the other."""
    return 25 * (weights[0] - 1) ** 2 + 0.5 * (weights[1] - 2) ** 2


def valley(weights: Tensor) -> Tensor:
    """A bent valley after Rosenbrock, with its minimum at (1, 1)."""
    return (1 - weights[0]) ** 2 + 10 * (weights[1] - weights[0] ** 2) ** 2


SETTINGS: dict[str, tuple[str, dict[str, float]]] = {
    "adam": ("adam", {"learning_rate": 0.05}),
    "adamw": ("adamw", {"learning_rate": 0.05}),
    "adagrad": ("adagrad", {"learning_rate": 0.5}),
    "adagrad with momentum": ("adagrad", {"learning_rate": 0.2, "momentum": 0.8}),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("surface", "minimum"), [(bowl, (1.0, 2.0)), (valley, (1.0, 1.0))])
def test_every_optimiser_comes_to_the_minimum(
    setting: str, surface: Callable[[Tensor], Tensor], minimum: tuple[float, float]
) -> None:
    name, chosen = SETTINGS[setting]
    weights = parameter(-1.0, 1.5)
    optimiser = make_optimiser([weights], Optimisation(optimiser=name, **chosen))
    for _ in range(1500):
        optimiser.zero_grad()
        surface(weights).backward()
        optimiser.step()
    assert weights.tolist() == pytest.approx(minimum, abs=1e-2)
    assert surface(weights).item() < 1e-4


def test_the_minima_are_tried_with_every_optimiser() -> None:
    assert {name for name, _ in SETTINGS.values()} == set(NAMES)


# Going on later


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_goes_on_from_a_saved_state_goes_on_the_same(setting: str) -> None:
    name, chosen = SETTINGS[setting]
    options = Optimisation(optimiser=name, weight_decay=0.01, **chosen)
    draw = torch.Generator().manual_seed(0)
    steps = list(torch.randn(6, 4, 3, generator=draw))
    steps[4][1] = 0
    whole, part = (nn.Parameter(torch.ones(4, 3)) for _ in range(2))
    optimiser = make_optimiser([whole], options)
    follow(optimiser, whole, steps)

    stopped = make_optimiser([part], options)
    follow(stopped, part, steps[:3])
    saved = copy.deepcopy(stopped.state_dict())
    tensors = [t for state in saved["state"].values() for t in state.values()]
    assert tensors
    assert all(isinstance(t, Tensor) for t in tensors)
    fresh = nn.Parameter(part.detach().clone())
    resumed = make_optimiser([fresh], options)
    resumed.load_state_dict(saved)
    follow(resumed, fresh, steps[3:])
    assert torch.equal(fresh, whole)

    forgetful = nn.Parameter(part.detach().clone())
    follow(make_optimiser([forgetful], options), forgetful, steps[3:])
    assert not torch.equal(forgetful, whole), "the state makes no difference: nothing was shown"


def test_steps_shrink_with_the_root_of_their_number() -> None:
    """A constant gradient makes Adagrad's steps lr / sqrt(t)."""
    weights = parameter(0.0)
    path = [0.0, *path_of(Adagrad([weights], lr=1.0), weights, [100.0] * 50)]
    steps = [before - after for before, after in pairwise(path)]
    assert steps == pytest.approx([1 / math.sqrt(t) for t in range(1, 51)], rel=1e-9)
