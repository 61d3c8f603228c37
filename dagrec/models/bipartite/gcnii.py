"""GCNII: graph convolutions with an initial residual and an identity mapping (Chen et al., ICML 2020).

    H^(l) = act(((1 - alpha) P H^(l-1) + alpha H^(0)) ((1 - beta_l) I + beta_l W_l)),   l = 1..L
    beta_l = log(theta / l + 1),   H^(0) = ReLU(drop(X) W_0),   z = H^(L)
    s(y) = < z_x, z_y > + < L_f, T_y > + b_y

P is A with a link of each row to itself: D~^-1/2 (A + I) D~^-1/2. alpha keeps each row near its first
layer, theta (lambda in the paper) says how much a layer may transform at all, less the deeper it is. X
are the vectors of items, and the means of these for users and contexts.

act is ReLU, but in the last layer nothing: products of vectors that are nowhere negative could not
push a service away. W_0 has no bias, as all W_l: the rows of merged users are multiples, which each
layer must keep. W_0 starts as He's, which keeps the length of vectors: with torch's own first weights,
products would start at a sixth of those of LightGCN. The paper ends with a linear classifier; here
vectors are matched, and there is none.

The graph, and how a context is folded in: ``dagrec.models.bipartite.graph``.
In: sets of nodes and their last. Out: scores [R, C].
"""

from __future__ import annotations

from math import log
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.models.base import Traits
from dagrec.models.bipartite.graph import (
    BipartiteNetwork,
    BipartiteOptions,
    BipartiteRecommender,
    Rows,
)
from dagrec.models.interactions import Interactions


class GCNIIConfig(BipartiteOptions):
    """Depth, residual and mapping, beside the options of factorisation."""

    layers: int = Field(2, ge=1, le=64, description="graph convolutions")
    alpha: float = Field(0.1, ge=0, le=1, description="share of the first layer in each; 1: no graph")
    theta: float = Field(
        0.5, ge=0, le=1.7, description="layer l transforms by a share of log(theta / l + 1); 0: none"
    )
    embedding_dropout: float = Field(0.0, ge=0, lt=1, description="on vectors before the first layer")


class GCNIINetwork(BipartiteNetwork):
    """A weight for each layer, the last layer as the vector."""

    loops: ClassVar[bool] = True

    def __init__(self, config: GCNIIConfig, interactions: Interactions, services: int) -> None:
        super().__init__(config, interactions, services)
        self.alpha, self.theta = config.alpha, config.theta
        self.drop_vectors = nn.Dropout(config.embedding_dropout)
        self.enter = nn.Linear(config.width, config.width, bias=False)
        nn.init.kaiming_normal_(self.enter.weight, nonlinearity="relu")
        self.weights = nn.ParameterList(
            nn.init.uniform_(
                torch.empty(config.width, config.width), -(config.width**-0.5), config.width**-0.5
            )
            for _ in range(config.layers)
        )

    def first(self, vectors: Tensor) -> Tensor:
        entered: Tensor = self.enter(self.drop_vectors(vectors))
        return entered.relu()

    def layer(self, number: int, rows: Rows, summary: Tensor | None) -> Tensor:
        beta = log(self.theta / (number + 1) + 1)
        mixed = (1 - self.alpha) * rows.heard + self.alpha * rows.ego
        weight: Tensor = self.weights[number]
        mapped = (1 - beta) * mixed + beta * (mixed @ weight)
        return mapped if number + 1 == self.depth else mapped.relu()

    def readout(self, layers: list[Tensor]) -> Tensor:
        return layers[-1]


class GCNII(BipartiteRecommender):
    """Deep convolutions that keep the first layer in sight."""

    name = "gcnii"
    paper = "Chen et al. 2020, arXiv 2007.02133"
    Config = GCNIIConfig
    network = GCNIINetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: GCNIIConfig
