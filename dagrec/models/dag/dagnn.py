"""DAGNN: a recurrent network over a DAG (Thost and Chen, ICLR 2021, arXiv 2101.07965).

    h_v^0 = drop_e(E[v]);  in layer l, level by level, with P(v) the parents of v:
    m_v = sum_{u in P(v)} a_vu h_u^l,  a_vu = softmax_{u in P(v)} (w_q . h_v^{l-1} + w_k . h_u^l)
    h_v^l = GRU(input h_v^{l-1}, hidden m_v);  m = 0 at a source
    z = [h_f^0 ; ... ; h_f^L] + sum_{c in children} B[c],  s(y) = w_y . drop(z) + b_y

A message combines states of the same layer, so the levels of a DAG are processed in order. The input of
the GRU is the node's state in the layer below, and its hidden state is the message from the parents. On
a chain, a layer is a GRU.

w_q . h_v is the same for all parents of v, so it cancels in the softmax: the additive attention of the
paper does not depend on the query, and w_q is omitted here. With ``attention="multiplicative"`` the
weights depend on the query: a_vu = softmax (W_q h_v^{l-1} . W_k h_u^l / sqrt(H)), a variant from the
authors' code, here with scaling.

``reverse`` adds the second direction of the paper: layers with separate weights pass messages against
the links, from the frontier to the sources. The states of the frontier's sources in all layers are
max-pooled and concatenated to z. The paper also max-pools the sinks of the forward direction; an
upstream DAG has only one, the frontier. Edge attributes are omitted, because links of compositions have
none. Dropout is an addition.

In: DAGs. Out: scores [R, C].
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Vocabulary
from dagrec.models.attention import Attention
from dagrec.models.base import Traits
from dagrec.models.dag.attention import GraphAttentionNetwork, PairWeights, context_attention
from dagrec.models.dag.graphs import (
    GraphInputs,
    GraphOptions,
    GraphRecommender,
    Readout,
    softmax_over,
)
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, NodeEmbedding


class DAGNNConfig(GraphOptions):
    """Hyperparameters of the network and of training."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    layers: int = Field(2, ge=1, description="number of layers")
    attention: Literal["additive", "multiplicative"] = Field(
        "additive",
        description="additive: as in the paper; multiplicative: weights also depend on the node",
    )
    reverse: bool = Field(
        False, description="also pass messages against the links and pool the states of the sources"
    )
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="dropout of embeddings")
    hidden_dropout: float = Field(0.4, ge=0, lt=1, description="dropout of the state before the head")


class MessageOrder(NamedTuple):
    """An order in which each node comes after the senders of its messages.

    sizes: number of nodes of each level, by which the nodes are sorted; senders, receivers: [E] node
    indices of the links, sorted by the level of the receiver; link_sizes: number of links into each
    level.
    """

    sizes: tuple[int, ...]
    senders: Tensor
    receivers: Tensor
    link_sizes: tuple[int, ...]


class Layer(nn.Module):
    """One layer of message passing in one direction."""

    def __init__(self, width: int, attention: str) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, width)
        self.query: nn.Linear | None = None
        if attention == "additive":
            self.key = nn.Linear(width, 1, bias=False)
        else:
            self.query = nn.Linear(width, width, bias=False)
            self.key = nn.Linear(width, width, bias=False)

    def forward(self, below: Tensor, order: MessageOrder) -> tuple[Tensor, Tensor]:
        """Return the states [N, H] and the attention weights [E].

        below: [N, H] states of the layer below; all states are in the order ``order``.
        """
        h, all_weights = below[:0], []
        for x, senders, receivers in zip(
            below.split(order.sizes),
            order.senders.split(order.link_sizes),
            order.receivers.split(order.link_sizes),
            strict=True,
        ):
            # The first level has no links; its messages are empty sums, which are 0.
            sent, rows = h[senders], receivers - len(h)
            weights = softmax_over(self._logits(x, sent, rows), rows, len(x))
            weighted = weights[:, None] * sent
            messages = weighted.new_zeros(x.shape).index_add(0, rows, weighted)
            h = torch.cat([h, self.cell(x, messages)])
            all_weights.append(weights)
        return h, torch.cat(all_weights)

    def _logits(self, x: Tensor, sent: Tensor, rows: Tensor) -> Tensor:
        """Return the attention logits [E] of the sent states [E, H] at the rows [E] of x [N, H]."""
        keys: Tensor = self.key(sent)
        if self.query is None:
            return keys.flatten()
        queries: Tensor = self.query(x)
        return (queries[rows] * keys).sum(dim=1) / math.sqrt(x.shape[1])


class DAGNNNetwork(GraphAttentionNetwork):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: DAGNNConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.embed = NodeEmbedding(nodes, config.width)
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        self.forward_layers = self._layers(config)
        self.backward_layers = self._layers(config) if config.reverse else None
        self.state_width = (config.layers + 1) * config.width
        self.readout = Readout(nodes, self.state_width)
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(self.state_width * (1 + config.reverse), services)

    @staticmethod
    def _layers(config: DAGNNConfig) -> nn.ModuleList:
        return nn.ModuleList(Layer(config.width, config.attention) for _ in range(config.layers))

    def attend(self, inputs: GraphInputs) -> tuple[Tensor, PairWeights]:
        """Return the states of all layers, forward before backward, and the attention weights."""
        x = self.drop_embedding(self.embed(inputs.nodes))
        order = MessageOrder(inputs.level_sizes, inputs.sources, inputs.targets, inputs.link_sizes)
        states, weights = _run(self.forward_layers, x, order)
        pairs = PairWeights(inputs.targets, inputs.sources, [w[:, None] for w in weights])
        if self.backward_layers is not None:
            nodes, order = reverse_order(inputs)
            backward, backward_weights = _run(self.backward_layers, x[nodes], order)
            states = torch.cat([states, backward[nodes.argsort()]], dim=1)
            pairs = _with_layers(pairs, nodes[order.receivers], nodes[order.senders], backward_weights)
        return states, pairs

    def states(self, inputs: GraphInputs) -> Tensor:
        h, _ = self.attend(inputs)
        z = self.readout(h[:, : self.state_width], inputs)
        if self.backward_layers is not None:
            z = torch.cat([z, pool_sources(h[:, self.state_width :], inputs)], dim=1)
        states: Tensor = self.drop_hidden(z)
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


def _run(layers: nn.ModuleList, x: Tensor, order: MessageOrder) -> tuple[Tensor, list[Tensor]]:
    """Return x and the states of all layers [N, (L + 1) H], and the weights [E] of each layer."""
    states: list[Tensor] = [x]
    layer_weights: list[Tensor] = []
    for layer in layers:
        h, weights = layer(states[-1], order)
        states.append(h)
        layer_weights.append(weights)
    return torch.cat(states, dim=1), layer_weights


def reverse_order(inputs: GraphInputs) -> tuple[Tensor, MessageOrder]:
    """Return the nodes [N] sorted by the longest path to a sink, and the order of reverse messages."""
    height = torch.zeros_like(inputs.levels)
    links = zip(
        inputs.sources.split(inputs.link_sizes), inputs.targets.split(inputs.link_sizes), strict=True
    )
    for sources, targets in reversed(list(links)):
        height = height.scatter_reduce(0, sources, height[targets] + 1, "amax")
    nodes = height.argsort(stable=True)
    rank_of = nodes.argsort()
    by_level = height[inputs.sources].argsort(stable=True)
    sizes = torch.bincount(height)
    link_sizes = torch.bincount(height[inputs.sources], minlength=len(sizes))
    return nodes, MessageOrder(
        tuple(sizes.tolist()),
        rank_of[inputs.targets[by_level]],
        rank_of[inputs.sources[by_level]],
        tuple(link_sizes.tolist()),
    )


def pool_sources(h: Tensor, inputs: GraphInputs) -> Tensor:
    """Return the maximum [R, H] of the states h [N, H] of each frontier's sources.

    A frontier without ancestors is its own source.
    """
    is_frontier = torch.zeros_like(inputs.levels, dtype=torch.bool)
    is_frontier[inputs.frontiers] = True
    is_source = inputs.levels == 0
    pairs = is_source[inputs.ancestors] & is_frontier[inputs.descendants]
    both = (is_source & is_frontier).nonzero().flatten()
    frontiers = torch.cat([inputs.descendants[pairs], both])[:, None].expand(-1, h.shape[1])
    values = h[torch.cat([inputs.ancestors[pairs], both])]
    pooled = torch.zeros_like(h).scatter_reduce(0, frontiers, values, "amax", include_self=False)
    return pooled[inputs.frontiers]


def _with_layers(
    pairs: PairWeights, queries: Tensor, keys: Tensor, weights: list[Tensor]
) -> PairWeights:
    """Append layers with other pairs, whose weights are [E] each."""
    zeros = torch.zeros_like(weights[0])[:, None]
    return PairWeights(
        torch.cat([pairs.queries, queries]),
        torch.cat([pairs.keys, keys]),
        [torch.cat([layer, zeros]) for layer in pairs.weights]
        + [torch.cat([zeros, layer[:, None]]) for layer in weights],
    )


class DAGNN(GraphRecommender):
    """A recurrent network that processes the upstream DAG level by level with attention over parents.

    Use it where the order and the branches of the DAG both matter.
    """

    name = "dagnn"
    paper = "Thost and Chen 2021, arXiv 2101.07965"
    Config = DAGNNConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DAGNNConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DAGNNNetwork:
        return DAGNNNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def attention(self, context: Context) -> Attention:
        """Return the weights of each node over its parents, one matrix per layer; 0 for sources.

        With ``reverse``, the backward layers follow the forward layers.
        """
        return context_attention(self, self._fitted(self._network), context)
