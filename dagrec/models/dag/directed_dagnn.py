"""Directed DAGNN: adaptive propagation (Liu, Gao and Ji, KDD 2020, arXiv 2007.09296) along links.

    h^0 = W_2 relu(W_1 drop(E[v]) + b_1) + b_2
    h^k = (1 - a) P h^{k-1} + a h^0,  k = 1 .. K
    t_vk = w . h_v^k + b;  g_vk = sigmoid(t_vk), or softmax over k of t_vk
    out_v = sum_k g_vk h_v^k;  s(y) = w_y . drop(out_f + sum_{c in children} B[c]) + b_y

The paper's DAGNN (no DAG in it: Deep Adaptive Graph Neural Network) transforms features first, then
propagates them without weights, and lets each node weigh its hops. Its weights are sigmoids: each hop
is kept or not by itself. A softmax over hops, which re-implementations have, is another model, and an
option.

Chosen here: P is directed, P_vu = 1 / (number of parents of v) for a parent u of v, so that each row
sums to 1, or to 0 at a source; the paper's symmetric matrix would carry children to their parents.
``self_loops`` counts each node among its own parents, as the paper's A + I does. ``teleport`` is the a
of APPNP (Gasteiger et al., ICLR 2019, arXiv 1810.05997); the paper has a = 0. The paper propagates
class scores; here states of width H are propagated and the head follows: the steps between are linear,
so only w reads something else. Without self loops P^k = 0 on a DAG once k exceeds its longest path, and
h^K is the limit a (I - (1 - a) P)^-1 h^0 exactly from there on. So K may be left open (``hops`` null):
a node then has hops up to the longest path that leads to it, and one more; further ones say nothing
new.

In: DAGs. Out: scores [R, C].
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import Vocabulary
from dagrec.models.base import Traits
from dagrec.models.dag.attention import with_self
from dagrec.models.dag.graphs import (
    GraphInputs,
    GraphOptions,
    GraphRecommender,
    Readout,
    mean_over,
)
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, Network, NodeEmbedding


class DirectedDAGNNConfig(GraphOptions):
    """Hyperparameters of the network; those of the optimisation come with them."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    hops: int | None = Field(
        None, ge=1, description="hops of the propagation; null: as many as a node's longest path needs"
    )
    teleport: float = Field(
        0.1, ge=0, le=1, description="share of a node's own state that returns at each hop"
    )
    self_loops: bool = Field(True, description="count each node among its own parents")
    hop_weights: Literal["sigmoid", "softmax"] = Field(
        "sigmoid", description="sigmoid: each hop is kept by itself, the paper's; softmax: they compete"
    )
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="on embeddings")
    hidden_dropout: float = Field(0.4, ge=0, lt=1, description="before the head")


class DirectedDAGNNNetwork(Network):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: DirectedDAGNNConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embed = NodeEmbedding(nodes, width)
        self.transform = nn.Sequential(
            nn.Dropout(config.embedding_dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, width),
        )
        # A constant cancels in a softmax.
        self.retain = nn.Linear(width, 1, bias=config.hop_weights == "sigmoid")
        self.readout = Readout(nodes, width)
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(width, services)

    def hop_states(self, inputs: GraphInputs) -> Tensor:
        """[N, K + 1, H] states of all nodes after 0 .. K hops."""
        start = self.transform(self.embed(inputs.nodes))
        listeners, speakers = inputs.targets, inputs.sources
        if self.config.self_loops:
            listeners, speakers = with_self(listeners, speakers, len(start))
        keep = self.config.teleport
        found = [start]
        for _ in range(self.config.hops or len(inputs.level_sizes)):
            heard = mean_over(found[-1][speakers], listeners, len(start))
            found.append((1 - keep) * heard + keep * start)
        return torch.stack(found, dim=1)

    def hop_weights(self, hops: Tensor, inputs: GraphInputs) -> Tensor:
        """[N, K + 1] how much each node keeps of each of its hops [N, K + 1, H]."""
        logits: Tensor = self.retain(hops).squeeze(2)
        if self.config.hops is None:
            # The longest path of the batch must not matter to the nodes of a shorter one.
            number = torch.arange(hops.shape[1], device=hops.device)
            logits = logits.masked_fill(number > inputs.levels[:, None] + 1, -torch.inf)
        if self.config.hop_weights == "sigmoid":
            return logits.sigmoid()
        return logits.softmax(dim=1)

    def states(self, inputs: GraphInputs) -> Tensor:
        hops = self.hop_states(inputs)
        out = (self.hop_weights(hops, inputs)[:, :, None] * hops).sum(dim=1)
        states: Tensor = self.drop_hidden(self.readout(out, inputs))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class DirectedDAGNN(GraphRecommender):
    """Propagation along links, hops weighed by each node, and a linear score for each service."""

    name = "directed_dagnn"
    paper = "Liu, Gao and Ji 2020, arXiv 2007.09296, along directed links"
    Config = DirectedDAGNNConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DirectedDAGNNConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DirectedDAGNNNetwork:
        return DirectedDAGNNNetwork(self.config, len(vocabulary), len(vocabulary.services))
