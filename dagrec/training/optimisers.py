"""The optimisers of the options, and the Adagrad of GRU4Rec, which torch does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

from dagrec.models.optimisation import Optimisation

EPSILON = 1e-6
"""Under the root of :class:`Adagrad`, as in GRU4Rec."""


def make_optimiser(parameters: Iterable[nn.Parameter], options: Optimisation) -> torch.optim.Optimizer:
    """The optimiser that ``options`` name, at their highest learning rate.

    adam: Kingma & Ba 2015, ``weight_decay`` added to the gradient; adamw: Loshchilov & Hutter 2019,
    ``weight_decay`` apart from it; adagrad: :class:`Adagrad`.
    """
    rate, decay = options.learning_rate, options.weight_decay
    if options.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    if options.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    return Adagrad(parameters, lr=rate, momentum=options.momentum, weight_decay=decay)


class Adagrad(torch.optim.Optimizer):
    """Adagrad (Duchi et al. 2011) with momentum on its steps, as GRU4Rec (Hidasi et al. 2016) has it.

        g <- g + weight_decay p
        G <- G + g^2
        m <- momentum m - lr g / sqrt(G + 1e-6)
        p <- p + m

    This is heavy-ball momentum of steps that are scaled already, and the constant is inside the root.

    A row without a gradient stays as it is, and so do its G and m: an embedding whose node is not in
    the batch does not coast on. Of a sparse gradient these are the rows that it does not list; of a
    dense gradient with two axes or more, the rows that are all zero. Vectors always move as a whole.

    ``state[p]`` holds the tensors ``squares`` (G) and, with momentum, ``velocity`` (m), each of the
    shape of p.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step by the gradients at hand; ``closure`` computes the loss and them again before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move(parameter, parameter.grad, group)
        return loss

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Change a parameter and its state, in place and only where there is a gradient."""
        state = self.state[parameter]
        for name in ("squares", "velocity") if group["momentum"] > 0 else ("squares",):
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        kept = [parameter, *(state[name] for name in ("squares", "velocity") if name in state)]
        if gradient.is_sparse:
            gradient = gradient.coalesce()  # a node that occurs twice has one gradient, their sum
            rows = tuple(gradient.indices())
            news = _moved(gradient.values(), [tensor[rows] for tensor in kept], group)
            for tensor, new in zip(kept, news, strict=True):
                tensor[rows] = new
            return
        news = _moved(gradient, kept, group)
        # Without momentum and weight decay, a gradient of 0 moves nothing anyway.
        if gradient.dim() >= 2 and (group["momentum"] or group["weight_decay"]):
            has_gradient = gradient.flatten(1).any(dim=1).view(-1, *[1] * (gradient.dim() - 1))
            news = [torch.where(has_gradient, new, old) for new, old in zip(news, kept, strict=True)]
        for tensor, new in zip(kept, news, strict=True):
            tensor.copy_(new)


def _moved(gradient: Tensor, kept: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """Weights, squares and, where it is kept, velocity after a step; all of one shape."""
    weights, squares, *velocity = kept
    if group["weight_decay"]:
        gradient = gradient + group["weight_decay"] * weights
    squares = squares + gradient**2
    change = -group["lr"] * gradient / torch.sqrt(squares + EPSILON)
    if velocity:
        change = group["momentum"] * velocity[0] + change
        return [weights + change, squares, change]
    return [weights + change, squares]
