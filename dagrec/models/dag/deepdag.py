"""DeepDAG: depth-aware attention over parents or ancestors. No paper of that name was found.

    h_v^0 = drop_e(E[v] + D[depth(v)]),  depth(v) = links of the longest path from a source to v
    A(v) = {v} and its ancestors within r links;  in each of L layers, with H heads:
    a_vu = softmax_{u in A(v)} (q_v . k_u / sqrt(d) + b[depth(v) - depth(u)])
    h_v <- LayerNorm(h_v + drop(W_o concat over heads of sum_u drop(a_vu) v_u))
    h_v <- LayerNorm(h_v + drop(W_2 drop(GELU(W_1 h_v))))
    s(y) = w_y . drop(h_f + sum_{c in children} B[c]) + b_y

Reports on workflow recommendation mention "DeepDAG (2022)" as depth-aware attention over the parents of
a node. This file defines such a model, with post-norm blocks. ``reach`` is r: 1 for parents only, as
reported; null, the default, for all ancestors, so that one layer covers the whole DAG; it predicts
held-out compositions better. Depth is used twice: as an embedding D, and as a learned scalar b per head
and difference of depths; both are initialised to 0, and all depths above ``depths`` - 1 share the last
entry. A node also attends to itself, so no softmax is empty; a source attends only to itself. With L
layers, a state depends on nodes up to L r links away.

In: DAGs. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Vocabulary
from dagrec.models.attention import Attention, AttentionSizes
from dagrec.models.base import Traits
from dagrec.models.dag.attention import (
    GraphAttentionNetwork,
    PairAttention,
    PairWeights,
    context_attention,
    with_self,
)
from dagrec.models.dag.graphs import GraphInputs, GraphOptions, GraphRecommender, Readout
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, NodeEmbedding


class DeepDAGConfig(AttentionSizes, GraphOptions):
    """Hyperparameters of the network and of training."""

    reach: int | None = Field(
        None,
        ge=1,
        description="maximum distance of the ancestors a node attends to; 1: parents; null: no limit",
    )
    depths: int = Field(
        16, ge=1, description="number of depth embeddings; larger depths share the last"
    )
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="dropout of embeddings")
    hidden_dropout: float = Field(
        0.4,
        ge=0,
        lt=1,
        description="dropout of attention weights, sublayer outputs and the state before the head",
    )


class Layer(nn.Module):
    """A post-norm block: attention between pairs of nodes, then a feed-forward network."""

    def __init__(self, config: DeepDAGConfig) -> None:
        super().__init__()
        width, inner = config.width, config.width * config.expansion
        self.attend = PairAttention(width, config.heads, config.hidden_dropout)
        self.depth_bias = nn.Parameter(torch.zeros(config.depths, config.heads))
        self.norm_attention = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner),
            nn.GELU(),
            nn.Dropout(config.hidden_dropout),
            nn.Linear(inner, width),
        )
        self.norm_feed = nn.LayerNorm(width)
        self.drop = nn.Dropout(config.hidden_dropout)

    def forward(
        self, h: Tensor, queries: Tensor, keys: Tensor, depth_differences: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the states [N, H] and the weights [Q, heads]; depth_differences: [Q]."""
        attended, weights = self.attend(h, queries, keys, self.depth_bias[depth_differences])
        h = self.norm_attention(h + self.drop(attended))
        return self.norm_feed(h + self.drop(self.feed(h))), weights


class DeepDAGNetwork(GraphAttentionNetwork):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: DeepDAGConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.reach = config.reach
        self.embed = NodeEmbedding(nodes, config.width)
        self.depth = nn.Parameter(torch.zeros(config.depths, config.width))
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.readout = Readout(nodes, config.width)
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(config.width, services)

    def attend(self, inputs: GraphInputs) -> tuple[Tensor, PairWeights]:
        max_depth = len(self.depth) - 1
        depths = inputs.levels.clamp(max=max_depth)
        h = self.drop_embedding(self.embed(inputs.nodes) + self.depth[depths])
        queries, keys = inputs.descendants, inputs.ancestors
        if self.reach is not None:
            near = inputs.distances <= self.reach
            queries, keys = queries[near], keys[near]
        queries, keys = with_self(queries, keys, len(h))
        differences = (inputs.levels[queries] - inputs.levels[keys]).clamp(max=max_depth)
        layer_weights = []
        for layer in self.layers:
            h, weights = layer(h, queries, keys, differences)
            layer_weights.append(weights)
        return h, PairWeights(queries, keys, layer_weights)

    def states(self, inputs: GraphInputs) -> Tensor:
        h, _ = self.attend(inputs)
        states: Tensor = self.drop_hidden(self.readout(h, inputs))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class DeepDAG(GraphRecommender):
    """Depth-aware attention of each node over its parents or ancestors.

    Use it where attention should follow the links and depend on the depth of nodes.
    """

    name = "deepdag"
    paper = "none known under this name; defined in its file"
    Config = DeepDAGConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DeepDAGConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DeepDAGNetwork:
        return DeepDAGNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def attention(self, context: Context) -> Attention:
        """Return the weights of each node over itself and its ancestors, per layer and head."""
        return context_attention(self, self._fitted(self._network), context)
