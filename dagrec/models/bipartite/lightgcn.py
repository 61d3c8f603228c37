"""LightGCN: propagation over the bipartite graph, and nothing else (He et al., SIGIR 2020).

    e^(k+1) = A e^(k),   z = 1 / (K + 1) sum_{k=0..K} e^(k)
    s(y) = < z_x, z_y > + < L_f, T_y > + b_y

With K = 0 it is BPR-MF, step by step. The loss is BPR with an L2 term on the ego vectors E of what is
in the batch alone, not a weight decay, which would shrink what is not.

The graph, A, and how a context that is no user of it is folded in: ``dagrec.models.bipartite.graph``.
In: sets of nodes and their last. Out: scores [R, C].
"""

from __future__ import annotations

from torch import Tensor

from dagrec.models.base import Traits
from dagrec.models.bipartite.graph import (
    BipartiteNetwork,
    BipartiteOptions,
    BipartiteRecommender,
    Rows,
)


class LightGCNConfig(BipartiteOptions):
    """LightGCN has nothing to choose beyond the options of all bipartite networks."""


class LightGCNNetwork(BipartiteNetwork):
    """The next layer is what is heard, and the vector the mean of all layers."""

    def layer(self, number: int, rows: Rows, summary: Tensor | None) -> Tensor:
        return rows.heard


class LightGCN(BipartiteRecommender):
    """Linear propagation, mean of the layers."""

    name = "lightgcn"
    paper = "He et al. 2020, arXiv 2002.02126"
    Config = LightGCNConfig
    network = LightGCNNetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: LightGCNConfig
