"""Sets of node ids for networks that read sets."""

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
"""Paths of distinct nodes; the last of each is its frontier."""


def inputs(paths: Sequence[Sequence[int]] = PATHS) -> SetInputs:
    """The sets of these paths, as the units of a recommender lay them out."""
    sets = [sorted(set(path)) for path in paths]
    nodes = np.array([node for own in sets for node in own], dtype=np.int64)
    last = np.array([path[-1] for path in paths], dtype=np.int64)
    units = SetUnits(Sets(Ragged.of([len(own) for own in sets]), nodes, last))
    return units.take(np.arange(len(paths)))[0]


def values(network: nn.Module) -> dict[str, Floats]:
    """Its parameters, exactly."""
    return {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}


def set_biases(bias: Tensor) -> None:
    """Biases of services start at 0, where no error would show."""
    with torch.no_grad():
        bias.copy_(torch.linspace(-1, 1, len(bias)))
