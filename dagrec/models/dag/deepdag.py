"""DeepDAG: attention over parents or ancestors that knows depths. No paper of that name was found.

    h_v^0 = drop_e(E[v] + D[depth(v)]),  depth(v) = links of the longest path from a source to v
    A(v) = {v} and its ancestors within r links;  in each of L layers, with H heads:
    a_vu = softmax_{u in A(v)} (q_v . k_u / sqrt(d) + b[depth(v) - depth(u)])
    h_v <- LayerNorm(h_v + drop(W_o concat over heads of sum_u drop(a_vu) v_u))
    h_v <- LayerNorm(h_v + drop(W_2 drop(GELU(W_1 h_v))))
    s(y) = w_y . drop(h_f + sum_{c in children} B[c]) + b_y

"DeepDAG (2022)" stands in reports on workflow recommendation, as depth-aware attention over the parents
of a node; a paper of that name was not found. This is the model they describe, made definite: post-norm
blocks. ``reach`` is r: 1 for parents alone, as reported; null, the default, for all ancestors, with
which one layer sees the whole DAG, and which predicts held-out compositions better. Depth enters twice:
as an embedding D, and as a learned number b for each head and difference of depths; both start at 0,
and depths from ``depths`` on are not told apart. A node is among what it looks at, so that no softmax
is empty; a source looks at itself alone. L layers see L r links back.

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
    AttendingNetwork,
    Looks,
    PairAttention,
    attention_of,
    with_self,
)
from dagrec.models.dag.graphs import GraphInputs, GraphOptions, GraphRecommender, Readout
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, NodeEmbedding


class DeepDAGConfig(AttentionSizes, GraphOptions):
    """Hyperparameters of the network; those of the optimisation come with them."""

    reach: int | None = Field(
        None,
        ge=1,
        description="links back that a node looks in one layer; 1: parents; null: all ancestors",
    )
    depths: int = Field(16, ge=1, description="depths that are told apart")
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="on embeddings")
    hidden_dropout: float = Field(
        0.4, ge=0, lt=1, description="on attention weights, on what a layer adds, before the head"
    )


class Layer(nn.Module):
    """Attention among pairs of nodes, then a feed-forward net; both added and normed."""

    def __init__(self, config: DeepDAGConfig) -> None:
        super().__init__()
        width, inner = config.width, config.width * config.expansion
        self.attend = PairAttention(width, config.heads, config.hidden_dropout)
        self.steps = nn.Parameter(torch.zeros(config.depths, config.heads))
        self.norm_attention = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner),
            nn.GELU(),
            nn.Dropout(config.hidden_dropout),
            nn.Linear(inner, width),
        )
        self.norm_feed = nn.LayerNorm(width)
        self.drop = nn.Dropout(config.hidden_dropout)

    def forward(self, h: Tensor, queries: Tensor, keys: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
        """steps: [Q] differences of depth. Returns the states [N, H] and the weights [Q, heads]."""
        seen, weights = self.attend(h, queries, keys, self.steps[steps])
        h = self.norm_attention(h + self.drop(seen))
        return self.norm_feed(h + self.drop(self.feed(h))), weights


class DeepDAGNetwork(AttendingNetwork):
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

    def attend(self, inputs: GraphInputs) -> tuple[Tensor, Looks]:
        most = len(self.depth) - 1
        h = self.drop_embedding(self.embed(inputs.nodes) + self.depth[inputs.levels.clamp(max=most)])
        queries, keys = inputs.descendants, inputs.ancestors
        if self.reach is not None:
            near = inputs.distances <= self.reach
            queries, keys = queries[near], keys[near]
        queries, keys = with_self(queries, keys, len(h))
        steps = (inputs.levels[queries] - inputs.levels[keys]).clamp(max=most)
        found = []
        for layer in self.layers:
            h, weights = layer(h, queries, keys, steps)
            found.append(weights)
        return h, Looks(queries, keys, found)

    def states(self, inputs: GraphInputs) -> Tensor:
        h, _ = self.attend(inputs)
        states: Tensor = self.drop_hidden(self.readout(h, inputs))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class DeepDAG(GraphRecommender):
    """Depth-aware attention along a DAG, and a linear score for each service."""

    name = "deepdag"
    paper = "none found of that name; defined in its file"
    Config = DeepDAGConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DeepDAGConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DeepDAGNetwork:
        return DeepDAGNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def attention(self, context: Context) -> Attention:
        """What each node took from itself and its ancestors, layer by layer."""
        return attention_of(self, self._fitted(self._network), context)
