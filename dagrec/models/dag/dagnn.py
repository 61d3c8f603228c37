"""DAGNN: a recurrent network along a DAG (Thost and Chen, ICLR 2021, arXiv 2101.07965).

    h_v^0 = drop_e(E[v]);  in layer l, level by level, with P(v) the parents of v:
    m_v = sum_{u in P(v)} a_vu h_u^l,  a_vu = softmax_{u in P(v)} (w_q . h_v^{l-1} + w_k . h_u^l)
    h_v^l = GRU(input h_v^{l-1}, hidden m_v);  m = 0 at a source
    z = [h_f^0 ; ... ; h_f^L] + sum_{c in children} B[c],  s(y) = w_y . drop(z) + b_y

A message is made of states of the same layer, which is why levels follow each other; a node's own state
of the layer below is the GRU's input, and what its parents say is its memory. On a chain, a layer is a
GRU.

w_q . h_v is the same for all parents of v, so the softmax cancels it: the additive attention of the
paper does not depend on who asks, and w_q is left out here. ``attention="multiplicative"`` does depend
on it: a_vu = softmax (W_q h_v^{l-1} . W_k h_u^l / sqrt(H)), a variant of the authors' code (scaled by
us).

``reverse`` adds the paper's second direction: other weights run against the links, from the frontier to
the sources; the states of the sources above the frontier, all layers, are pooled by their maximum and
put beside z. The paper pools the sinks of the forward direction likewise; an upstream DAG has one, the
frontier. There are no edge attributes: links of compositions have none. Dropout is ours.

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
from dagrec.models.dag.attention import AttendingNetwork, Looks, attention_of
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
    """Hyperparameters of the network; those of the optimisation come with them."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    layers: int = Field(2, ge=1, description="layers")
    attention: Literal["additive", "multiplicative"] = Field(
        "additive", description="additive: the paper's; multiplicative: depends on who asks"
    )
    reverse: bool = Field(
        False, description="also go against the links, and read what arrives at the sources"
    )
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="on embeddings")
    hidden_dropout: float = Field(0.4, ge=0, lt=1, description="before the head")


class Walk(NamedTuple):
    """An order in which each node comes after all that it hears.

    sizes: nodes of each level, by which the nodes are sorted; speakers, listeners: [E] places of the
    links' ends, by level of the listener; link_sizes: links into each level.
    """

    sizes: tuple[int, ...]
    speakers: Tensor
    listeners: Tensor
    link_sizes: tuple[int, ...]


class Layer(nn.Module):
    """One layer in one direction."""

    def __init__(self, width: int, attention: str) -> None:
        super().__init__()
        self.cell = nn.GRUCell(width, width)
        self.query: nn.Linear | None = None
        if attention == "additive":
            self.key = nn.Linear(width, 1, bias=False)
        else:
            self.query = nn.Linear(width, width, bias=False)
            self.key = nn.Linear(width, width, bias=False)

    def forward(self, below: Tensor, walk: Walk) -> tuple[Tensor, Tensor]:
        """below: [N, H] in the order of the walk. Returns the states [N, H] and the weights [E]."""
        known, taken = below[:0], []
        for own, speakers, listeners in zip(
            below.split(walk.sizes),
            walk.speakers.split(walk.link_sizes),
            walk.listeners.split(walk.link_sizes),
            strict=True,
        ):
            # The first level has no links, and goes the same way: its sums of nothing are 0.
            said, who = known[speakers], listeners - len(known)
            logits = self._logits(own, said, who)
            weights = softmax_over(logits, who, len(own))
            heard = weights[:, None] * said
            message = heard.new_zeros(own.shape).index_add(0, who, heard)
            known = torch.cat([known, self.cell(own, message)])
            taken.append(weights)
        return known, torch.cat(taken)

    def _logits(self, own: Tensor, said: Tensor, who: Tensor) -> Tensor:
        keys: Tensor = self.key(said)
        if self.query is None:
            return keys.flatten()
        queries: Tensor = self.query(own)
        return (queries[who] * keys).sum(dim=1) / math.sqrt(own.shape[1])


class DAGNNNetwork(AttendingNetwork):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: DAGNNConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.embed = NodeEmbedding(nodes, config.width)
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        self.along = self._layers(config)
        self.against = self._layers(config) if config.reverse else None
        self.read = (config.layers + 1) * config.width
        self.readout = Readout(nodes, self.read)
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(self.read * (1 + config.reverse), services)

    @staticmethod
    def _layers(config: DAGNNConfig) -> nn.ModuleList:
        return nn.ModuleList(Layer(config.width, config.attention) for _ in range(config.layers))

    def attend(self, inputs: GraphInputs) -> tuple[Tensor, Looks]:
        """States of all layers beside each other, those against the links last."""
        x = self.drop_embedding(self.embed(inputs.nodes))
        walk = Walk(inputs.level_sizes, inputs.sources, inputs.targets, inputs.link_sizes)
        states, weights = _run(self.along, x, walk)
        looks = Looks(inputs.targets, inputs.sources, [w[:, None] for w in weights])
        if self.against is not None:
            order, walk = reverse_walk(inputs)
            back, back_weights = _run(self.against, x[order], walk)
            states = torch.cat([states, back[order.argsort()]], dim=1)
            looks = _both(looks, order[walk.listeners], order[walk.speakers], back_weights)
        return states, looks

    def states(self, inputs: GraphInputs) -> Tensor:
        h, _ = self.attend(inputs)
        z = self.readout(h[:, : self.read], inputs)
        if self.against is not None:
            z = torch.cat([z, pool_sources(h[:, self.read :], inputs)], dim=1)
        states: Tensor = self.drop_hidden(z)
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


def _run(layers: nn.ModuleList, x: Tensor, walk: Walk) -> tuple[Tensor, list[Tensor]]:
    """States of all layers [N, (L + 1) H], x among them, and the weights [E] of each layer."""
    states: list[Tensor] = [x]
    found: list[Tensor] = []
    for layer in layers:
        h, weights = layer(states[-1], walk)
        states.append(h)
        found.append(weights)
    return torch.cat(states, dim=1), found


def reverse_walk(inputs: GraphInputs) -> tuple[Tensor, Walk]:
    """The walk against the links, and the nodes [N] in its order: by the longest path to a sink."""
    height = torch.zeros_like(inputs.levels)
    links = zip(
        inputs.sources.split(inputs.link_sizes), inputs.targets.split(inputs.link_sizes), strict=True
    )
    for sources, targets in reversed(list(links)):
        height = height.scatter_reduce(0, sources, height[targets] + 1, "amax")
    order = height.argsort(stable=True)
    place = order.argsort()
    by_level = height[inputs.sources].argsort(stable=True)
    sizes = torch.bincount(height)
    link_sizes = torch.bincount(height[inputs.sources], minlength=len(sizes))
    return order, Walk(
        tuple(sizes.tolist()),
        place[inputs.targets[by_level]],
        place[inputs.sources[by_level]],
        tuple(link_sizes.tolist()),
    )


def pool_sources(h: Tensor, inputs: GraphInputs) -> Tensor:
    """[R, H] maximum of the states [N, H] of the sources above each frontier, itself if it is one."""
    asked = torch.zeros_like(inputs.levels, dtype=torch.bool)
    asked[inputs.frontiers] = True
    source = inputs.levels == 0
    above = source[inputs.ancestors] & asked[inputs.descendants]
    itself = (source & asked).nonzero().flatten()
    owner = torch.cat([inputs.descendants[above], itself])[:, None].expand(-1, h.shape[1])
    values = h[torch.cat([inputs.ancestors[above], itself])]
    pooled = torch.zeros_like(h).scatter_reduce(0, owner, values, "amax", include_self=False)
    return pooled[inputs.frontiers]


def _both(looks: Looks, queries: Tensor, keys: Tensor, weights: list[Tensor]) -> Looks:
    """The layers of one direction, and after them those [E] of the other."""
    nothing = torch.zeros_like(weights[0])[:, None]
    return Looks(
        torch.cat([looks.queries, queries]),
        torch.cat([looks.keys, keys]),
        [torch.cat([own, nothing]) for own in looks.weights]
        + [torch.cat([nothing, own[:, None]]) for own in weights],
    )


class DAGNN(GraphRecommender):
    """A gated recurrent state of the DAG, and a linear score for each service."""

    name = "dagnn"
    paper = "Thost and Chen 2021, arXiv 2101.07965"
    Config = DAGNNConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DAGNNConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DAGNNNetwork:
        return DAGNNNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def attention(self, context: Context) -> Attention:
        """What each node took from its parents, layer by layer; of a source, the row is 0. With
        ``reverse``, the layers that run against the links come after the others."""
        return attention_of(self, self._fitted(self._network), context)
