"""DA-GCN as adapted for workflow recommendation: mean edge vectors and attention over ancestors.

    h_v^0 = drop(E[v]);  in each of L layers, for every link u -> v:
    e_uv = (W_s h_u + W_t h_v) log(1 + max(count(u, v), 1)),  g_v = mean_{u -> v} e_uv
    a_vu = softmax_{u in {v} and its ancestors} (q(h_v) . k(g_u) / sqrt(d))
    h_v <- LayerNorm(h_v + drop(W_o concat over heads of sum_u drop(a_vu) v(g_u)))
    h_v <- LayerNorm(h_v + drop(W_2 drop(GELU(W_1 h_v))))
    z = sum_l softmax_l (w . h_f^l) h_f^l + sum_{c child of f} B[c],  s(y) = w_y . drop(z) + b_y

count(u, v) is the number of training examples in which v directly follows u. From the adaptation come
the edge vectors, computed from both end nodes and the count; their mean over incoming links; attention
with nodes as queries and these means as keys and values; and attention over layers. Two things are
corrected: a node attends to itself and its ancestors in the upstream DAG (in the adaptation to all
nodes, so that the DAG had no effect), and counts are damped by a logarithm (raw counts made the scale
of a state depend on popularity). Counts are at least 1, because every link occurs in some composition:
a link that is not in the training data has the same weight as one that occurs once.

DA-GCN (Zhu et al., ACM TOIS 2024) shares only the name: it recommends items to users from several kinds
of behaviour (view, cart, buy), and its DAG is a DAG of behaviours.

In: DAGs. Out: scores [R, C].
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE, Vocabulary
from dagrec.graph.service_graph import Successors
from dagrec.models.attention import Attention, AttentionSizes
from dagrec.models.base import Traits
from dagrec.models.dag.attention import (
    GraphAttentionNetwork,
    PairAttention,
    PairWeights,
    context_attention,
    with_self,
)
from dagrec.models.dag.graphs import (
    GraphInputs,
    GraphOptions,
    GraphRecommender,
    Readout,
    mean_over,
)
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, NodeEmbedding


class DAGCNConfig(AttentionSizes, GraphOptions):
    """Hyperparameters of the network and of training."""

    dropout: float = Field(
        0.4,
        ge=0,
        lt=1,
        description="dropout of embeddings, attention weights, sublayer outputs and the final state",
    )


class LinkWeights(nn.Module):
    """log(1 + max(count, 1)) of each link; neither learned nor stored, the graph holds the counts."""

    codes: Tensor
    counts: Tensor

    def __init__(self, observed: Successors) -> None:
        super().__init__()
        self.nodes = len(observed.degrees)
        sources = np.repeat(np.arange(self.nodes), observed.degrees)
        codes = sources * self.nodes + observed.services + FIRST_SERVICE  # ascending
        self.register_buffer("codes", torch.from_numpy(codes), persistent=False)
        counts = torch.from_numpy(observed.counts).float()
        self.register_buffer("counts", counts, persistent=False)

    def forward(self, sources: Tensor, targets: Tensor) -> Tensor:
        """Return the weights [E] of links between node ids [E] and [E]."""
        codes = sources * self.nodes + targets
        index = torch.searchsorted(self.codes, codes).clamp(max=len(self.codes) - 1)
        counts = torch.where(self.codes[index] == codes, self.counts[index], 1.0)
        return counts.log1p()


class Layer(nn.Module):
    """Mean edge vectors, attention over those of the ancestors, and a feed-forward network."""

    def __init__(self, config: DAGCNConfig) -> None:
        super().__init__()
        width, inner = config.width, config.width * config.expansion
        self.source = nn.Linear(width, width)
        self.target = nn.Linear(width, width)
        self.attend = PairAttention(width, config.heads, config.dropout)
        self.norm_attention = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(inner, width)
        )
        self.norm_feed = nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self, h: Tensor, inputs: GraphInputs, links: Tensor, queries: Tensor, keys: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the states [N, H] and the attention weights [Q, heads]; links: [E] link weights."""
        edges = self.source(h)[inputs.sources] + self.target(h)[inputs.targets]
        means = mean_over(edges * links[:, None], inputs.targets, len(h))
        # Queries are states and keys are means; PairAttention takes both as one list.
        attended, weights = self.attend(torch.cat([h, means]), queries, keys + len(h))
        h = self.norm_attention(h + self.drop(attended[: len(h)]))
        return self.norm_feed(h + self.drop(self.feed(h))), weights


class DAGCNNetwork(GraphAttentionNetwork):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: DAGCNConfig, nodes: int, services: int, observed: Successors) -> None:
        super().__init__()
        width = config.width
        self.links = LinkWeights(observed)
        self.embed = NodeEmbedding(nodes, width)
        self.drop = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.layer_score = nn.Linear(width, 1, bias=False)
        self.readout = Readout(nodes, width)
        self.head = Head(width, services)

    def attend(self, inputs: GraphInputs) -> tuple[Tensor, PairWeights]:
        h = self.drop(self.embed(inputs.nodes))
        links = self.links(inputs.nodes[inputs.sources], inputs.nodes[inputs.targets])
        queries, keys = with_self(inputs.descendants, inputs.ancestors, len(h))
        states, layer_weights = [h], []
        for layer in self.layers:
            h, weights = layer(h, inputs, links, queries, keys)
            states.append(h)
            layer_weights.append(weights)
        layers = torch.stack(states)  # [L + 1, N, H]
        share = self.layer_score(layers).softmax(dim=0)
        return (share * layers).sum(dim=0), PairWeights(queries, keys, layer_weights)

    def states(self, inputs: GraphInputs) -> Tensor:
        h, _ = self.attend(inputs)
        states: Tensor = self.drop(self.readout(h, inputs))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class DAGCN(GraphRecommender):
    """Attention over the mean edge vectors of a node's ancestors, weighted by how often links were
    seen.

    Use it to compare with published workflow recommenders that carry the name DA-GCN.
    """

    name = "dagcn"
    paper = "none for this form; shares only its name with Zhu et al. 2024"
    Config = DAGCNConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DAGCNConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DAGCNNetwork:
        services = len(vocabulary.services)
        return DAGCNNetwork(self.config, len(vocabulary), services, self.graph.observed)

    def attention(self, context: Context) -> Attention:
        """Return the weights of each node over itself and its ancestors, per layer and head."""
        return context_attention(self, self._fitted(self._network), context)
