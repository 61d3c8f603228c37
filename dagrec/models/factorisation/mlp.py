"""MLP: ReLU layers instead of a product of vectors (He et al. 2017, Neural Collaborative Filtering).

    a_1 = relu(W_p p_x + W_l l_f + W_q q_y + c),   a_i = relu(W_i a_(i-1) + c_i),   s(y) = h . a_n + b_y

p_x is the mean of P_v over the nodes v of the context, l_f the vector of its last node f (with
``last``) and q_y the vector of service y: three tables. Vectors have width D, and so has a_1; each
further layer has half the width of the one before. D = 32 and 3 layers give the 64-32-16-8 of the
paper, where 64 is the width of [p ; q]. h . a_n is not bounded below. The output has a bias for each
service; in the paper it has one for all.

W [p ; l ; q] is computed in parts: W_p p + W_l l once per context and W_q q once per service. The R C
vectors a_1 are then sums of two, and only the layers from the second on are computed R C times, in
chunks of rows. ``dropout`` applies to W_p p + W_l l. Loss and negatives are those of ``gmf``.

In: sets of nodes and their last nodes. Out: scores [R, C].
"""

from __future__ import annotations

from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from dagrec.data.vocabulary import Vocabulary
from dagrec.models.base import Traits
from dagrec.models.factorisation.base import (
    INITIAL_STD,
    FactorNetwork,
    SetInputs,
    SetRecommender,
    small_embedding,
)
from dagrec.models.factorisation.gmf import GMFConfig
from dagrec.training.data import TrainingData

ENTRIES_PER_PASS = 2**20
"""Approximate number of entries of a_1 that are computed in one pass; it bounds memory."""


class MLPConfig(GMFConfig):
    """Hyperparameters of the layers, of factorisation and of training."""

    layers: int = Field(
        3,
        ge=1,
        le=16,
        description="number of hidden layers; the first has the width of the vectors, each further one "
        "half the width of the one before",
    )


class MLPNetwork(FactorNetwork):
    """A multilayer perceptron; z_x and z_y are the summands of the first layer."""

    def __init__(self, config: MLPConfig, nodes: int, services: int) -> None:
        # The last node is an input of the first layer instead of a separate term.
        super().__init__(config.model_copy(update={"last": False}), nodes, services)
        width = config.width
        self.frontier = small_embedding(nodes, width) if config.last else None
        self.items = nn.Parameter(torch.randn(services, width) * INITIAL_STD)
        widths = [max(1, width >> layer) for layer in range(config.layers)]
        self.first = nn.Linear((2 + config.last) * width, width)
        self.rest = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out = nn.Linear(widths[-1], 1, bias=False)
        for layer in (self.first, *self.rest):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def service_vectors(self) -> Tensor:
        return self.items

    def factors(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        context = self.context_vectors(inputs)
        if self.frontier is not None:
            context = torch.cat([context, self.frontier(inputs.last)], dim=1)
        context_weight, service_weight = self.first.weight.tensor_split([context.shape[1]], dim=1)
        # The bias is added to z_y, which has no dropout.
        z_y = functional.linear(self.items, service_weight, self.first.bias)
        return functional.linear(context, context_weight), z_y

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        (z_y,) = self._service_factors
        z_y = z_y if columns is None else z_y[columns]
        rows = max(1, ENTRIES_PER_PASS // max(1, z_y.numel()))
        parts = [self.output(torch.relu(part[:, None] + z_y)) for part in states.split(rows)]
        scores: Tensor = torch.cat(parts) + self.last(states, columns)
        return scores

    def output(self, hidden: Tensor) -> Tensor:
        """Return h . a_n [R, K] from the first layer a_1 [R, K, D]."""
        for layer in self.rest:
            hidden = torch.relu(layer(hidden))
        output: Tensor = self.out(hidden).squeeze(2)
        return output


class MLP(SetRecommender):
    """A multilayer perceptron over the vectors of a context and of each service.

    Use it to compare with the neural collaborative filtering paper; scoring is slower than with a
    product of vectors.
    """

    name = "mlp"
    paper = "He et al. 2017, arXiv 1708.05031"
    Config = MLPConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: MLPConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> MLPNetwork:
        return MLPNetwork(self.config, len(vocabulary), len(vocabulary.services))
