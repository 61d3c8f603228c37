"""GCNII: graph convolutions with initial residual and identity mapping (Chen et al., ICML 2020).

    H^(l) = act(((1 - alpha) P H^(l-1) + alpha H^(0)) ((1 - beta_l) I + beta_l W_l)),   l = 1..L
    beta_l = log(theta / l + 1),   H^(0) = ReLU(drop(X) W_0),   z = H^(L)
    s(y) = < z_x, z_y > + < L_f, T_y > + b_y

P is A with self-loops: D~^-1/2 (A + I) D~^-1/2. alpha is the weight of layer 0 in each layer, and theta
(lambda in the paper) bounds the transformation of a layer, which decreases with depth. X are the
vectors of items, and the means of these vectors for users and contexts.

act is ReLU, except in the last layer, which has no activation: products of nonnegative vectors could
not lower the score of a service. W_0 and all W_l have no bias, because the rows of merged users are
multiples, which each layer must preserve. W_0 has He initialisation, which preserves the length of
vectors; with the default initialisation of torch, initial products would be a sixth of those of
LightGCN. The paper ends with a linear classifier; here vectors are matched instead.

``dagrec.models.bipartite.graph`` defines the graph and how a new context is folded in.
In: sets of nodes and their last nodes. Out: scores [R, C].
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
    LayerInputs,
)
from dagrec.models.interactions import Interactions


class GCNIIConfig(BipartiteOptions):
    """Hyperparameters of the convolutions, of factorisation and of training."""

    layers: int = Field(2, ge=1, le=64, description="number of graph convolutions")
    alpha: float = Field(
        0.1, ge=0, le=1, description="weight of layer 0 in each layer; 1: the graph is not used"
    )
    theta: float = Field(
        0.5,
        ge=0,
        le=1.7,
        description="layer l is transformed with weight log(theta / l + 1); 0: no transformation",
    )
    embedding_dropout: float = Field(0.0, ge=0, lt=1, description="dropout of embeddings")


class GCNIINetwork(BipartiteNetwork):
    """Propagation with a weight matrix for each layer; z is the last layer."""

    self_loops: ClassVar[bool] = True

    def __init__(self, config: GCNIIConfig, interactions: Interactions, services: int) -> None:
        super().__init__(config, interactions, services)
        self.alpha, self.theta = config.alpha, config.theta
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        self.input_projection = nn.Linear(config.width, config.width, bias=False)
        nn.init.kaiming_normal_(self.input_projection.weight, nonlinearity="relu")
        self.weights = nn.ParameterList(
            nn.init.uniform_(
                torch.empty(config.width, config.width), -(config.width**-0.5), config.width**-0.5
            )
            for _ in range(config.layers)
        )

    def ego_layer(self, vectors: Tensor) -> Tensor:
        projected: Tensor = self.input_projection(self.drop_embedding(vectors))
        return projected.relu()

    def layer(self, number: int, rows: LayerInputs, summary: Tensor | None) -> Tensor:
        beta = log(self.theta / (number + 1) + 1)
        residual = (1 - self.alpha) * rows.aggregated + self.alpha * rows.ego
        weight: Tensor = self.weights[number]
        h = (1 - beta) * residual + beta * (residual @ weight)
        return h if number + 1 == self.depth else h.relu()

    def readout(self, layers: list[Tensor]) -> Tensor:
        return layers[-1]


class GCNII(BipartiteRecommender):
    """Graph convolutions with weights and nonlinearities, stable in deep networks.

    Use it if linear propagation (LightGCN) is not expressive enough.
    """

    name = "gcnii"
    paper = "Chen et al. 2020, arXiv 2007.02133"
    Config = GCNIIConfig
    network = GCNIINetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: GCNIIConfig
