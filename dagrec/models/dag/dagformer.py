"""DAGformer: attention among nodes of which one reaches the other (Luo, Thost and Shi, NeurIPS 2023,
arXiv 2210.13148).

    h_v = sqrt(H) E[v] + PE(depth(v)),  depth(v) = links of the longest path from a source to v
    PE(d)_2i = sin(d / 10000^(2i / H)),  PE(d)_2i+1 = cos(d / 10000^(2i / H))
    N(v) = {v} and all u that reach v, or are reached by v, within k links;  in each of L blocks:
    a_vu = softmax_{u in N(v)} (q_v . k_u / sqrt(d))
    h_v <- LayerNorm(h_v + drop(W_o concat over heads of sum_u drop(a_vu) v_u))
    h_v <- LayerNorm(h_v + drop(W_2 drop(relu(W_1 h_v))))
    s(y) = w_y . drop(h_f + sum_{c child of f} B[c]) + b_y

On a chain all nodes reach each other, and it is a plain transformer with depths as positions. Nodes
that do not reach each other exchange nothing within one block. As published: post-norm blocks, no limit
k (``reach`` null), both directions. The released code leaves v itself out of N(v), so that an isolated
node has an empty softmax; here it is in. ``direction="ancestors"`` lets nodes look upstream alone: the
state of a node then depends on nothing that follows it. With both, nothing leaks either: downstream of
the frontier f nothing is read. Ours: the linear score w_y (the paper classifies graphs and nodes, and
ties nothing; ``tied`` makes w_y the embedding of y), and B, 0 at first.

In: DAGs. Out: scores [R, C].
"""

from __future__ import annotations

from typing import Literal

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


class DAGformerConfig(AttentionSizes, GraphOptions):
    """Hyperparameters of the network; those of the optimisation come with them."""

    reach: int | None = Field(
        None, ge=1, description="links over which nodes look at each other; null: any number"
    )
    direction: Literal["both", "ancestors"] = Field(
        "both", description="ancestors: no node looks at what follows it"
    )
    dropout: float = Field(
        0.3, ge=0, lt=1, description="on embeddings, attention weights, what a block adds and the state"
    )
    tied: bool = Field(False, description="use the services' embeddings as output weights")


def depth_encoding(depths: Tensor, width: int) -> Tensor:
    """[N, width] sines and cosines of depths [N], from short waves to long ones."""
    even = torch.arange(0, width, 2, device=depths.device)
    angles = depths[:, None] * 10000.0 ** (-even / width)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


class Block(nn.Module):
    """Attention among pairs of nodes, then a feed-forward net; both added and normed."""

    def __init__(self, config: DAGformerConfig) -> None:
        super().__init__()
        width, inner = config.width, config.width * config.expansion
        self.attend = PairAttention(width, config.heads, config.dropout)
        self.norm_attention = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner), nn.ReLU(), nn.Dropout(config.dropout), nn.Linear(inner, width)
        )
        self.norm_feed = nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The states [N, H] and the weights [Q, heads]."""
        seen, weights = self.attend(h, queries, keys)
        h = self.norm_attention(h + self.drop(seen))
        return self.norm_feed(h + self.drop(self.feed(h))), weights


class DAGformerNetwork(AttendingNetwork):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: DAGformerConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.width
        self.reach, self.direction = config.reach, config.direction
        self.scale = width**0.5
        self.embed = NodeEmbedding(nodes, width)
        with torch.no_grad():
            # Scaled up, a node enters with unit variance; as output weights they start small.
            self.embed.weight *= width**-0.5
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.readout = Readout(nodes, width)
        self.head = Head(width, services, self.embed if config.tied else None)

    def attend(self, inputs: GraphInputs) -> tuple[Tensor, Looks]:
        h = self.embed(inputs.nodes) * self.scale
        h = self.drop(h + depth_encoding(inputs.levels, h.shape[1]))
        queries, keys = self._pairs(inputs)
        found = []
        for block in self.blocks:
            h, weights = block(h, queries, keys)
            found.append(weights)
        return h, Looks(queries, keys, found)

    def _pairs(self, inputs: GraphInputs) -> tuple[Tensor, Tensor]:
        """Who looks, and at whom."""
        up, down = inputs.ancestors, inputs.descendants
        if self.reach is not None:
            near = inputs.distances <= self.reach
            up, down = up[near], down[near]
        queries, keys = down, up
        if self.direction == "both":
            queries, keys = torch.cat([down, up]), torch.cat([up, down])
        return with_self(queries, keys, len(inputs.nodes))

    def states(self, inputs: GraphInputs) -> Tensor:
        h, _ = self.attend(inputs)
        states: Tensor = self.drop(self.readout(h, inputs))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class DAGformer(GraphRecommender):
    """Attention along reachability, read at the frontier."""

    name = "dagformer"
    paper = "Luo, Thost and Shi 2023, arXiv 2210.13148"
    Config = DAGformerConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DAGformerConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DAGformerNetwork:
        return DAGformerNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def attention(self, context: Context) -> Attention:
        """What each node took from those that reach it or are reached by it, block by block."""
        return attention_of(self, self._fitted(self._network), context)
