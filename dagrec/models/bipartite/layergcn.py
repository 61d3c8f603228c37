"""LayerGCN: layers refined by their likeness to the ego layer (Zhou et al., ICDE 2023).

    e^(l) = cos(A e^(l-1), e^(0)) A e^(l-1),   l = 1..L,   one cosine for each row
    z = sum_{l=1..L} e^(l)
    s(y) = < z_x, z_y > + < L_f, T_y > + b_y

The gate is signed: what a row hears against its ego vector is turned round. The ego layer takes part
in the gates alone.

In training, A is that of a pruned graph, with its own degrees. Each epoch keeps (1 - pruned) m of the m
links, drawn without replacement: in even epochs (from 0) with probabilities p proportional to
1 / sqrt(d_u d_i), so that links between rows of high degree go first, in odd ones uniformly. Those with
the largest log p + Gumbel noise are such a draw, and there may be any number of links. An item that has
lost all of them is silent for an epoch. What is trained is asked over all links.

The link of a row of merged users is kept or pruned as one: whoever loses different links is no longer
equal.

The graph, and how a context is folded in: ``dagrec.models.bipartite.graph``.
In: sets of nodes and their last. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.models.base import Traits
from dagrec.models.bipartite.graph import (
    BipartiteNetwork,
    BipartiteOptions,
    BipartiteRecommender,
    Links,
    Rows,
)
from dagrec.models.interactions import Interactions


class LayerGCNConfig(BipartiteOptions):
    """Depth and pruning, beside the options of factorisation."""

    layers: int = Field(4, ge=1, le=16, description="times that vectors are propagated, and summed up")
    pruned: float = Field(0.1, ge=0, lt=1, description="share of the links that an epoch goes without")


class LayerGCNNetwork(BipartiteNetwork):
    """Gated propagation over the links of the epoch."""

    computed = (*BipartiteNetwork.computed, "_kept")
    _kept: Tensor | None = None

    def __init__(self, config: LayerGCNConfig, interactions: Interactions, services: int) -> None:
        super().__init__(config, interactions, services)
        self.pruned = config.pruned

    def begin_epoch(self, number: int) -> None:
        users, items = self.graph.users, self.graph.items
        gone = int(self.pruned * len(users))
        self._kept = None
        if not gone:
            return
        keys = -torch.empty(len(users), device=users.device).exponential_().log()
        if number % 2 == 0:
            degrees = self.graph.links().degrees
            keys -= (degrees[self.graph.nodes + users] * degrees[items]).log() / 2
        self._kept = keys.topk(len(users) - gone).indices

    def links(self) -> Links:
        return self.graph.links(self._kept if self.training else None)

    def layer(self, number: int, rows: Rows, summary: Tensor | None) -> Tensor:
        gates = nn.functional.cosine_similarity(rows.heard, rows.ego, dim=1)
        return gates[:, None] * rows.heard

    def readout(self, layers: list[Tensor]) -> Tensor:
        return torch.stack(layers[1:]).sum(dim=0)


class LayerGCN(BipartiteRecommender):
    """Propagation that fades where it leaves the ego vectors."""

    name = "layergcn"
    paper = "Zhou et al. 2023, arXiv 2207.11088"
    Config = LayerGCNConfig
    network = LayerGCNNetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: LayerGCNConfig
