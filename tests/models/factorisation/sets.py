"""Sets of node ids for tests of set networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from dagrec.models.factorisation.base import SetInputs, SetUnits
from dagrec.models.interactions import Sets
from dagrec.types import Floats, Ragged

NODES, SERVICES = 12, 7
PATHS = [[2, 3, 4], [5], [6, 2], [3, 4, 8, 2]]
"""Paths of distinct node ids; the last node of each is the frontier."""


def inputs(paths: Sequence[Sequence[int]] = PATHS) -> SetInputs:
    """Return the sets of these paths as network inputs."""
    sets = [sorted(set(path)) for path in paths]
    nodes = np.array([node for set_ in sets for node in set_], dtype=np.int64)
    last = np.array([path[-1] for path in paths], dtype=np.int64)
    units = SetUnits(Sets(Ragged.of([len(set_) for set_ in sets]), nodes, last))
    return units.take(np.arange(len(paths)))[0]


def parameters_of(network: nn.Module) -> dict[str, Floats]:
    """Return all parameters in double precision."""
    return {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}


def fill_bias(bias: Tensor) -> None:
    """Set distinct biases; the initial value 0 would hide errors."""
    with torch.no_grad():
        bias.copy_(torch.linspace(-1, 1, len(bias)))
