"""MLP: a tower of ReLU layers in place of a product (He et al., Neural Collaborative Filtering).

    a_1 = relu(W_p p_x + W_l l_f + W_q q_y + c),   a_i = relu(W_i a_(i-1) + c_i),   s(y) = h . a_n + b_y

p_x is the mean of P_v over the nodes v of the context, l_f a vector of its last node f (with ``last``),
q_y one of service y: three tables. Vectors have the width D; so has a_1, and each layer after it has
half as many units as the one before: with D = 32 and 3 layers the 64-32-16-8 of the paper, 64 being
[p ; q]. Nothing bounds h . a_n from below. The output has a bias for each service, in the paper one.

W [p ; l ; q] is computed in parts: W_p p + W_l l once a context and W_q q once a service. R C vectors
a_1 are then a sum each, and only the layers from the second on are computed R C times, some rows at a
time. ``dropout`` falls on W_p p + W_l l. Loss and negatives are those of ``gmf``.

In: sets of nodes and their last. Out: scores [R, C].
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dagrec.data.vocabulary import Vocabulary
from dagrec.models.base import Traits
from dagrec.models.factorisation.base import INIT, FactorNetwork, SetInputs, SetRecommender, vectors
from dagrec.models.factorisation.gmf import GMFConfig
from dagrec.training.data import TrainingData

AT_ONCE = 2**20
"""Numbers in the first layer of so many rows as are computed in one pass, roughly."""


class MLPConfig(GMFConfig):
    """Hyperparameters of the tower; those of factorisation come with them."""

    layers: int = Field(
        3, ge=1, le=16, description="hidden layers; the first is as wide as a vector, each next half"
    )


class MLPNetwork(FactorNetwork):
    """z are the two halves of the first layer: what the context and what a service adds to it."""

    def __init__(self, config: MLPConfig, nodes: int, services: int) -> None:
        # The last node is read by the tower; it has no term of its own beside it.
        super().__init__(config.model_copy(update={"last": False}), nodes, services)
        width = config.width
        self.frontier = vectors(nodes, width) if config.last else None
        self.items = nn.Parameter(torch.randn(services, width) * INIT)
        widths = [max(1, width >> layer) for layer in range(config.layers)]
        self.first = nn.Linear((2 + config.last) * width, width)
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], 1, bias=False)
        for layer in (self.first, *self.rest):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def own_services(self) -> Tensor:
        return self.items

    def match(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        context = self.own(inputs)
        if self.frontier is not None:
            context = torch.cat([context, self.frontier(inputs.last)], dim=1)
        of_context, of_service = self.first.weight.tensor_split([context.shape[1]], dim=1)
        # The bias is on the side that has no dropout.
        service = functional.linear(self.items, of_service, self.first.bias)
        return functional.linear(context, of_context), service

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        (items,) = self._items
        items = items if columns is None else items[columns]
        rows = max(1, AT_ONCE // max(1, items.numel()))
        found = [self.tower(torch.relu(part[:, None] + items)) for part in states.split(rows)]
        scores: Tensor = torch.cat(found) + self.last(states, columns)
        return scores

    def tower(self, hidden: Tensor) -> Tensor:
        """hidden: [R, K, H] the first layer. Returns [R, K]."""
        for layer in self.rest:
            hidden = torch.relu(layer(hidden))
        found: Tensor = self.out(hidden).squeeze(2)
        return found


class MLP(SetRecommender):
    """A small network asked about each service."""

    name = "mlp"
    paper = "He et al. 2017, arXiv 1708.05031"
    Config = MLPConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: MLPConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> MLPNetwork:
        return MLPNetwork(self.config, len(vocabulary), len(vocabulary.services))
