from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from dagrec.training.options import TrainingOptions
from dagrec.training.trainer import make_optimiser

NAMES = get_args(TrainingOptions.model_fields["optimiser"].annotation)


class Weights(nn.Module):
    """A network with a single parameter."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(values.clone())


def apply_steps(
    optimiser: torch.optim.Optimizer, network: Weights, gradients: Iterable[Tensor]
) -> None:
    """Take a step with each of these gradients."""
    for gradient in gradients:
        network.weights.grad = gradient.clone()
        optimiser.step()


def test_make_optimiser_uses_options() -> None:
    classes = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    assert set(classes) == set(NAMES)
    for name, class_ in classes.items():
        network = Weights(torch.ones(1))
        options = TrainingOptions(optimiser=name, learning_rate=0.3, weight_decay=0.2)
        optimiser = make_optimiser(network, options)
        (group,) = optimiser.param_groups
        assert type(optimiser) is class_
        assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)
        assert len(group["params"]) == 1
        assert group["params"][0] is network.weights


def test_first_steps_of_adam_and_adamw_by_hand() -> None:
    """The first step of Adam is lr times the sign of the gradient, including weight decay."""
    for name, expected in (("adam", 2 - 0.1), ("adamw", 2 * (1 - 0.1 * 0.5) - 0.1)):
        network = Weights(torch.tensor([2.0], dtype=torch.float64))
        options = TrainingOptions(optimiser=name, learning_rate=0.1, weight_decay=0.5)
        apply_steps(make_optimiser(network, options), network, [torch.tensor([3.0]).double()])
        assert network.weights.item() == pytest.approx(expected)


# Convergence


def bowl(weights: Tensor) -> Tensor:
    """A quadratic function with its minimum at (1, 2) and condition number 50."""
    return 25 * (weights[0] - 1) ** 2 + 0.5 * (weights[1] - 2) ** 2


def valley(weights: Tensor) -> Tensor:
    """A Rosenbrock function with its minimum at (1, 1)."""
    return (1 - weights[0]) ** 2 + 10 * (weights[1] - weights[0] ** 2) ** 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("surface", "minimum"), [(bowl, (1.0, 2.0)), (valley, (1.0, 1.0))])
def test_optimiser_converges_to_minimum(
    name: str, surface: Callable[[Tensor], Tensor], minimum: tuple[float, float]
) -> None:
    network = Weights(torch.tensor([-1.0, 1.5], dtype=torch.float64))
    optimiser = make_optimiser(network, TrainingOptions(optimiser=name, learning_rate=0.05))
    for _ in range(1500):
        optimiser.zero_grad()
        surface(network.weights).backward()
        optimiser.step()
    assert network.weights.tolist() == pytest.approx(minimum, abs=1e-2)
    assert surface(network.weights).item() < 1e-4


# Saved states


@pytest.mark.parametrize("name", NAMES)
def test_optimiser_can_be_resumed_from_saved_state(name: str) -> None:
    options = TrainingOptions(optimiser=name, weight_decay=0.01, learning_rate=0.05)
    steps = list(torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0)))
    whole, part = Weights(torch.ones(4, 3)), Weights(torch.ones(4, 3))
    apply_steps(make_optimiser(whole, options), whole, steps)

    stopped = make_optimiser(part, options)
    apply_steps(stopped, part, steps[:3])
    saved = copy.deepcopy(stopped.state_dict())
    tensors = [t for state in saved["state"].values() for t in state.values()]
    assert tensors
    assert all(isinstance(t, Tensor) for t in tensors)
    resumed = Weights(part.weights.detach())
    optimiser = make_optimiser(resumed, options)
    optimiser.load_state_dict(saved)
    apply_steps(optimiser, resumed, steps[3:])
    assert torch.equal(resumed.weights, whole.weights)

    without_state = Weights(part.weights.detach())
    apply_steps(make_optimiser(without_state, options), without_state, steps[3:])
    assert not torch.equal(without_state.weights, whole.weights)
