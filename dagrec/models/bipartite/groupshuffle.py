"""GroupShuffle: LightGCN with a structured orthogonal matrix in each layer.

    e^(k+1) = (1 - r) (A e^(k)) Q_k + r e^(0),   z = 1 / (K + 1) sum_{k=0..K} e^(k)
    Q = R P L P^T,   s(y) = < z_x, z_y > + < L_f, T_y > + b_y

R and L are block-diagonal [D, D]. Their blocks exp(X - X^T) are orthogonal for every X, and P is the
perfect shuffle, which distributes the coordinates of each group over all groups. R mixes coordinates
within groups and L across groups, with 2 D b parameters instead of D^2; every coordinate affects every
other if a block is at least as long as the number of groups, b^2 >= D. This is the group-and-shuffle
class of Gorbunov et al. (NeurIPS 2024), designed for orthogonal fine-tuning. A student project
(timur1arkhipov/gnn-recommendations) used one block-diagonal factor and a random permutation in a
recommender; here it is the class as published, with a separate matrix for each layer. Because of P^T, Q
is the identity for X = 0, and the network is then LightGCN with a residual.

An orthogonal matrix preserves all products within a layer: with r = 0, each single layer ranks as that
of LightGCN. Q changes the products between different layers, which occur in the mean and the residual.

``dagrec.models.bipartite.graph`` defines the graph, A, and how a new context is folded in.
In: sets of nodes and their last nodes. Out: scores [R, C].
"""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dagrec.models.base import Traits
from dagrec.models.bipartite.graph import (
    BipartiteNetwork,
    BipartiteOptions,
    BipartiteRecommender,
    LayerInputs,
)
from dagrec.models.factorisation.base import INITIAL_STD
from dagrec.models.interactions import Interactions


class GroupShuffleConfig(BipartiteOptions):
    """Hyperparameters of the matrices and the residual, of factorisation and of training."""

    block: int = Field(8, ge=1, description="width of a block; it must divide width")
    residual: float = Field(
        0.1, ge=0, le=1, description="weight of layer 0 in each layer; 1: the graph is not used"
    )

    @model_validator(mode="after")
    def _block_divides_width(self) -> Self:
        if self.width % self.block:
            raise ValueError(
                f"width must be a multiple of block, found width {self.width} and block {self.block}"
            )
        return self


class GroupShuffleMatrix(nn.Module):
    """An orthogonal matrix Q: rows [n, D] -> rows Q [n, D].

    skew: [2, D / b, b, b], X of the blocks of R and of L.
    """

    def __init__(self, width: int, block: int) -> None:
        super().__init__()
        self.skew = nn.Parameter(torch.randn(2, width // block, block, block) * INITIAL_STD)

    def blocks(self) -> tuple[Tensor, Tensor]:
        """Return the orthogonal blocks of R and of L: [D / b, b, b] each."""
        within, across = torch.linalg.matrix_exp(self.skew - self.skew.mT)
        return within, across

    def forward(self, rows: Tensor) -> Tensor:
        within, across = self.blocks()
        groups, block, _ = within.shape
        # A row is a matrix of D / b groups by b coordinates; P is its transposition.
        x = torch.einsum("ngb,gbc->ngc", rows.reshape(-1, groups, block), within)
        x = x.mT.reshape(-1, groups, block)
        x = torch.einsum("ngb,gbc->ngc", x, across)
        return x.reshape(-1, block, groups).mT.reshape(rows.shape)


class GroupShuffleNetwork(BipartiteNetwork):
    """Propagation with an orthogonal matrix in each layer; z is the mean of all layers."""

    def __init__(self, config: GroupShuffleConfig, interactions: Interactions, services: int) -> None:
        super().__init__(config, interactions, services)
        self.residual = config.residual
        self.rotations = nn.ModuleList(
            GroupShuffleMatrix(config.width, config.block) for _ in range(config.layers)
        )

    def layer(self, number: int, rows: LayerInputs, summary: Tensor | None) -> Tensor:
        rotated: Tensor = self.rotations[number](rows.aggregated)
        return (1 - self.residual) * rotated + self.residual * rows.ego


class GroupShuffle(BipartiteRecommender):
    """LightGCN with learned rotations of the vectors between layers.

    Use it in experiments on over-smoothing: the rotations keep layers distinct with few parameters.
    """

    name = "groupshuffle"
    paper = "Gorbunov et al. 2024, arXiv 2406.10019"
    Config = GroupShuffleConfig
    network = GroupShuffleNetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: GroupShuffleConfig
