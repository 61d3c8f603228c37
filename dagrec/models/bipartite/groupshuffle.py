"""GroupShuffle: LightGCN whose layers are turned by a structured orthogonal matrix.

    e^(k+1) = (1 - r) (A e^(k)) Q_k + r e^(0),   z = 1 / (K + 1) sum_{k=0..K} e^(k)
    Q = R P L P^T,   s(y) = < z_x, z_y > + < L_f, T_y > + b_y

R and L are block-diagonal [D, D], with blocks exp(X - X^T) that are orthogonal for every X, and P is
the perfect shuffle, which deals the coordinates of each group out to all groups. R mixes within groups,
L across them, with 2 D b numbers in place of D^2: every coordinate reaches every other where a block is
at least as long as there are groups, b^2 >= D. This is the group-and-shuffle class of Gorbunov et al.
(NeurIPS 2024), made for orthogonal fine-tuning; a student project (timur1arkhipov/gnn-recommendations)
put one block-diagonal factor and a random permutation into a recommender. Here it is the class as
published, with a matrix of its own for each layer. P^T makes Q the identity where X = 0, and the
network LightGCN with a residual.

An orthogonal matrix keeps all products within a layer: with r = 0, each layer by itself ranks as
LightGCN's. Q acts through what different layers have in common, in the mean and the residual.

The graph, A, and how a context that is no user of it is folded in: ``dagrec.models.bipartite.graph``.
In: sets of nodes and their last. Out: scores [R, C].
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
    Rows,
)
from dagrec.models.factorisation.base import INIT
from dagrec.models.interactions import Interactions


class GroupShuffleConfig(BipartiteOptions):
    """Blocks and residual, beside the options of all bipartite networks."""

    block: int = Field(8, ge=1, description="width of a block; divides width")
    residual: float = Field(
        0.1, ge=0, le=1, description="share of the first layer in each; 1: no graph"
    )

    @model_validator(mode="after")
    def _blocks_fit(self) -> Self:
        if self.width % self.block:
            raise ValueError(
                f"width must be a multiple of block, found width {self.width} and block {self.block}"
            )
        return self


class GroupShuffleMatrix(nn.Module):
    """rows [n, D] -> rows Q [n, D]. skew: [2, D / b, b, b], X of the blocks of R and of L."""

    def __init__(self, width: int, block: int) -> None:
        super().__init__()
        self.skew = nn.Parameter(torch.randn(2, width // block, block, block) * INIT)

    def blocks(self) -> tuple[Tensor, Tensor]:
        """Orthogonal, of R and of L: [D / b, b, b] each."""
        first, second = torch.linalg.matrix_exp(self.skew - self.skew.mT)
        return first, second

    def forward(self, rows: Tensor) -> Tensor:
        first, second = self.blocks()
        groups, block, _ = first.shape
        # A row is an array of D / b groups of b coordinates, which P transposes.
        turned = torch.einsum("ngb,gbc->ngc", rows.reshape(-1, groups, block), first)
        dealt = turned.mT.reshape(-1, groups, block)
        dealt = torch.einsum("ngb,gbc->ngc", dealt, second)
        return dealt.reshape(-1, block, groups).mT.reshape(rows.shape)


class GroupShuffleNetwork(BipartiteNetwork):
    """What is heard, turned; and the mean of all layers."""

    def __init__(self, config: GroupShuffleConfig, interactions: Interactions, services: int) -> None:
        super().__init__(config, interactions, services)
        self.residual = config.residual
        self.turns = nn.ModuleList(
            GroupShuffleMatrix(config.width, config.block) for _ in range(config.layers)
        )

    def layer(self, number: int, rows: Rows, summary: Tensor | None) -> Tensor:
        turned: Tensor = self.turns[number](rows.heard)
        return (1 - self.residual) * turned + self.residual * rows.ego


class GroupShuffle(BipartiteRecommender):
    """Propagation that turns, mean of the layers."""

    name = "groupshuffle"
    paper = "Gorbunov et al. 2024, arXiv 2406.10019"
    Config = GroupShuffleConfig
    network = GroupShuffleNetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: GroupShuffleConfig
