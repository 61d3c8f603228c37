"""LayerGCN: layers weighted by their similarity to the ego layer (Zhou et al., ICDE 2023).

    e^(l) = cos(A e^(l-1), e^(0)) A e^(l-1),   l = 1..L,   one cosine for each row
    z = sum_{l=1..L} e^(l)
    s(y) = < z_x, z_y > + < L_f, T_y > + b_y

The gate is signed: an aggregated vector that points away from the ego vector is reversed. The ego layer
is used only in the gates.

In training, A is that of a pruned graph with its own degrees. Each epoch uses (1 - pruned_share) m of
the m links, drawn without replacement with weights p: p = 1 / sqrt(d_u d_i) in even epochs (from 0), so
that links between rows of high degree are pruned most often, and p = 1 in odd epochs. The links with
the largest log p + Gumbel noise are such a sample, for any number of links. An item that has lost all
its links is isolated for an epoch. After training, A is that of the whole graph.

The link of merged users is kept or pruned as one, because users that lose different links are no longer
equal.

``dagrec.models.bipartite.graph`` defines the graph and how a new context is folded in.
In: sets of nodes and their last nodes. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.models.base import Traits
from dagrec.models.bipartite.graph import (
    Adjacency,
    BipartiteNetwork,
    BipartiteOptions,
    BipartiteRecommender,
    LayerInputs,
)
from dagrec.models.interactions import Interactions


class LayerGCNConfig(BipartiteOptions):
    """Hyperparameters of propagation and pruning, of factorisation and of training."""

    layers: int = Field(4, ge=1, le=16, description="number of propagation layers, which are summed")
    pruned_share: float = Field(
        0.1, ge=0, lt=1, description="share of the links that are left out in each epoch"
    )


class LayerGCNNetwork(BipartiteNetwork):
    """Gated propagation over the links of the current epoch."""

    transient = (*BipartiteNetwork.transient, "_epoch_links")
    _epoch_links: Tensor | None = None

    def __init__(self, config: LayerGCNConfig, interactions: Interactions, services: int) -> None:
        super().__init__(config, interactions, services)
        self.pruned_share = config.pruned_share

    def begin_epoch(self, number: int) -> None:
        users, items = self.graph.users, self.graph.items
        num_pruned = int(self.pruned_share * len(users))
        self._epoch_links = None
        if not num_pruned:
            return
        keys = -torch.empty(len(users), device=users.device).exponential_().log()
        if number % 2 == 0:
            degrees = self.graph.adjacency().degrees
            keys -= (degrees[self.graph.nodes + users] * degrees[items]).log() / 2
        self._epoch_links = keys.topk(len(users) - num_pruned).indices

    def adjacency(self) -> Adjacency:
        return self.graph.adjacency(self._epoch_links if self.training else None)

    def layer(self, number: int, rows: LayerInputs, summary: Tensor | None) -> Tensor:
        gates = nn.functional.cosine_similarity(rows.aggregated, rows.ego, dim=1)
        return gates[:, None] * rows.aggregated

    def readout(self, layers: list[Tensor]) -> Tensor:
        return torch.stack(layers[1:]).sum(dim=0)


class LayerGCN(BipartiteRecommender):
    """LightGCN with a gate on each layer and random pruning of links in training.

    Use it instead of LightGCN if more layers reduce the accuracy of LightGCN (over-smoothing).
    """

    name = "layergcn"
    paper = "Zhou et al. 2023, arXiv 2207.11088"
    Config = LayerGCNConfig
    network = LayerGCNNetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: LayerGCNConfig
