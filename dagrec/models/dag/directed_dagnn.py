"""Directed DAGNN: adaptive propagation along directed links (after Liu, Gao and Ji, KDD 2020,
arXiv 2007.09296).

    h^0 = W_2 relu(W_1 drop(E[v]) + b_1) + b_2
    h^k = (1 - a) P h^{k-1} + a h^0,  k = 1 .. K
    t_vk = w . h_v^k + b;  g_vk = sigmoid(t_vk), or softmax over k of t_vk
    out_v = sum_k g_vk h_v^k;  s(y) = w_y . drop(out_f + sum_{c in children} B[c]) + b_y

The paper's DAGNN (Deep Adaptive Graph Neural Network, not related to DAGs) first transforms the
features, then propagates them without weights, and each node weights its hops. The paper uses sigmoids,
so each hop is weighted independently; some re-implementations use a softmax over hops, which is
available as an option.

Differences: P is directed, P_vu = 1 / (number of parents of v) for a parent u of v, so each row sums to
1, or to 0 at a source; the symmetric matrix of the paper would also propagate from children to parents.
``self_loops`` adds each node to its own parents, as A + I does in the paper. ``teleport`` is the a of
APPNP (Gasteiger et al., ICLR 2019, arXiv 1810.05997); the paper has a = 0. The paper propagates class
scores; here states of width H are propagated before the head. Both are linear, so only the input of w
differs.

Without self loops P^k = 0 on a DAG once k exceeds the longest path, and from there on h^K is exactly
the limit a (I - (1 - a) P)^-1 h^0. With ``hops`` null, K is therefore chosen by node: the length of the
longest path that leads to the node, plus one.

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
    """Hyperparameters of the network and of training."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    hops: int | None = Field(
        None,
        ge=1,
        description="number of hops; null: the length of the longest path to each node, plus one",
    )
    teleport: float = Field(0.1, ge=0, le=1, description="weight of the initial state at each hop")
    self_loops: bool = Field(True, description="add each node to its own parents")
    hop_weights: Literal["sigmoid", "softmax"] = Field(
        "sigmoid",
        description="sigmoid: independent weights, as in the paper; softmax: weights sum to 1",
    )
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="dropout of embeddings")
    hidden_dropout: float = Field(0.4, ge=0, lt=1, description="dropout of the state before the head")


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
        # A bias would cancel in a softmax.
        self.retain = nn.Linear(width, 1, bias=config.hop_weights == "sigmoid")
        self.readout = Readout(nodes, width)
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(width, services)

    def hop_states(self, inputs: GraphInputs) -> Tensor:
        """Return the states [N, K + 1, H] of all nodes after 0 .. K hops."""
        start = self.transform(self.embed(inputs.nodes))
        targets, sources = inputs.targets, inputs.sources
        if self.config.self_loops:
            targets, sources = with_self(targets, sources, len(start))
        teleport = self.config.teleport
        states = [start]
        for _ in range(self.config.hops or len(inputs.level_sizes)):
            propagated = mean_over(states[-1][sources], targets, len(start))
            states.append((1 - teleport) * propagated + teleport * start)
        return torch.stack(states, dim=1)

    def hop_weights(self, hops: Tensor, inputs: GraphInputs) -> Tensor:
        """Return the weights [N, K + 1] of the hops [N, K + 1, H] of each node."""
        logits: Tensor = self.retain(hops).squeeze(2)
        if self.config.hops is None:
            # The weights of a node must not depend on longer paths elsewhere in the batch.
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
    """Propagation along directed links with learned weights for each number of hops.

    Use it as a small graph network: propagation itself has no weights.
    """

    name = "directed_dagnn"
    paper = "Liu, Gao and Ji 2020, arXiv 2007.09296, along directed links"
    Config = DirectedDAGNNConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DirectedDAGNNConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DirectedDAGNNNetwork:
        return DirectedDAGNNNetwork(self.config, len(vocabulary), len(vocabulary.services))
