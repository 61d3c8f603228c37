"""LightGCN: linear propagation over the bipartite graph (He et al., SIGIR 2020).

    e^(k+1) = A e^(k),   z = 1 / (K + 1) sum_{k=0..K} e^(k)
    s(y) = < z_x, z_y > + < L_f, T_y > + b_y

With K = 0 it is BPR-MF, step by step. The loss is BPR with an L2 term on the ego vectors E of the
batch; a weight decay would also shrink vectors that are not in the batch.

``dagrec.models.bipartite.graph`` defines the graph, A, and how a new context is folded in.
In: sets of nodes and their last nodes. Out: scores [R, C].
"""

from __future__ import annotations

from torch import Tensor

from dagrec.models.base import Traits
from dagrec.models.bipartite.graph import (
    BipartiteNetwork,
    BipartiteOptions,
    BipartiteRecommender,
    LayerInputs,
)


class LightGCNConfig(BipartiteOptions):
    """LightGCN has only the hyperparameters of all bipartite networks."""


class LightGCNNetwork(BipartiteNetwork):
    """Propagation in which a layer is the aggregated vectors; z is the mean of all layers."""

    def layer(self, number: int, rows: LayerInputs, summary: Tensor | None) -> Tensor:
        return rows.aggregated


class LightGCN(BipartiteRecommender):
    """Matrix factorisation with vectors smoothed over the graph of compositions and nodes.

    Use it as the baseline for graph recommenders; it has the fewest hyperparameters of them.
    """

    name = "lightgcn"
    paper = "He et al. 2020, arXiv 2002.02126"
    Config = LightGCNConfig
    network = LightGCNNetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: LightGCNConfig
