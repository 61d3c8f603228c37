"""DAGformer: attention between nodes that are connected by a directed path (Luo, Thost and Shi,
NeurIPS 2023, arXiv 2210.13148).

    h_v = sqrt(H) E[v] + PE(depth(v)),  depth(v) = links of the longest path from a source to v
    PE(d)_2i = sin(d / 10000^(2i / H)),  PE(d)_2i+1 = cos(d / 10000^(2i / H))
    N(v) = {v} and all u that reach v, or are reached by v, within k links;  in each of L blocks:
    a_vu = softmax_{u in N(v)} (q_v . k_u / sqrt(d))
    h_v <- LayerNorm(h_v + drop(W_o concat over heads of sum_u drop(a_vu) v_u))
    h_v <- LayerNorm(h_v + drop(W_2 drop(relu(W_1 h_v))))
    s(y) = w_y . drop(h_f + sum_{c child of f} B[c]) + b_y

On a chain, all nodes are connected and the model is a plain transformer with depths as positions. Nodes
that are not connected by a directed path do not attend to each other. As published, the blocks are
post-norm, k is unlimited (``reach`` null) and attention runs in both directions. The released code
excludes v from N(v), so the softmax of an isolated node is empty; here v is included. With
``direction="ancestors"`` nodes attend only to themselves and their ancestors, so a state does not
depend on later nodes. Neither direction leaks the target, because the upstream DAG contains no node
after the frontier f. Additions: the linear score w_y (the paper classifies graphs and nodes; with
``tied``, w_y is the embedding of y), and B, which is initially 0.

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
    GraphAttentionNetwork,
    PairAttention,
    PairWeights,
    context_attention,
    with_self,
)
from dagrec.models.dag.graphs import GraphInputs, GraphOptions, GraphRecommender, Readout
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, NodeEmbedding


class DAGformerConfig(AttentionSizes, GraphOptions):
    """Hyperparameters of the network and of training."""

    reach: int | None = Field(
        None, ge=1, description="maximum distance of nodes that attend to each other; null: no limit"
    )
    direction: Literal["both", "ancestors"] = Field(
        "both", description="both: attend to ancestors and descendants; ancestors: only to ancestors"
    )
    dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="dropout of embeddings, attention weights, sublayer outputs and the final state",
    )
    tied: bool = Field(False, description="use the embeddings of the services as output weights")


def depth_encoding(depths: Tensor, width: int) -> Tensor:
    """Return the sinusoidal encodings [N, width] of depths [N]."""
    even = torch.arange(0, width, 2, device=depths.device)
    angles = depths[:, None] * 10000.0 ** (-even / width)
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]


class Block(nn.Module):
    """A post-norm block: attention between pairs of nodes, then a feed-forward network."""

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
        """Return the new states [N, H] and the attention weights [Q, heads]."""
        attended, weights = self.attend(h, queries, keys)
        h = self.norm_attention(h + self.drop(attended))
        return self.norm_feed(h + self.drop(self.feed(h))), weights


class DAGformerNetwork(GraphAttentionNetwork):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: DAGformerConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.width
        self.reach, self.direction = config.reach, config.direction
        self.scale = width**0.5
        self.embed = NodeEmbedding(nodes, width)
        with torch.no_grad():
            # The input sqrt(width) E[v] has unit variance; the output weights are small.
            self.embed.weight *= width**-0.5
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.readout = Readout(nodes, width)
        self.head = Head(width, services, self.embed if config.tied else None)

    def attend(self, inputs: GraphInputs) -> tuple[Tensor, PairWeights]:
        h = self.embed(inputs.nodes) * self.scale
        h = self.drop(h + depth_encoding(inputs.levels, h.shape[1]))
        queries, keys = self._pairs(inputs)
        block_weights = []
        for block in self.blocks:
            h, weights = block(h, queries, keys)
            block_weights.append(weights)
        return h, PairWeights(queries, keys, block_weights)

    def _pairs(self, inputs: GraphInputs) -> tuple[Tensor, Tensor]:
        """Return the queries and keys [Q] of attention."""
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
    """A transformer over the upstream DAG that restricts attention to ancestors and descendants.

    Use it for DAGs with independent branches, where attention between branches would add noise.
    """

    name = "dagformer"
    paper = "Luo, Thost and Shi 2023, arXiv 2210.13148"
    Config = DAGformerConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DAGformerConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DAGformerNetwork:
        return DAGformerNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def attention(self, context: Context) -> Attention:
        """Return the weights of each node over its ancestors and descendants, per block and head."""
        return context_attention(self, self._fitted(self._network), context)
