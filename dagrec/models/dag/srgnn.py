"""SR-GNN: gated message passing along links and a soft-attention readout (Wu et al., AAAI 2019, arXiv
1811.00855).

    a_v = [mean_{u -> v} (W_in h_u + b_in) + c_in ; mean_{v -> w} (W_out h_w + b_out) + c_out]
    h_v <- GRU(a_v, h_v), ``rounds`` times, from h_v = E[v]
    alpha_v = q . sigmoid(W_1 h_f + W_2 h_v),  s_g = sum_v alpha_v h_v        (no softmax, as published)
    s = W_3 [s_g ; h_f + sum_{c child of f} B[c]],  s(y) = E[y] . s + b_y

The paper builds the graph of a session by linking consecutive clicks and merges equal items. Here the
graph is the DAG upstream of the frontier f with its real links, the "last" item is f (not the end of a
topological order), and a service that occurs twice is two nodes. The mean over no links is 0, so each
row of A_in and A_out sums to 1 or to 0. The embeddings B of the frontier's children (initially 0), the
bias b_y and dropout are additions. The sum s_g runs over f and its ancestors, which are all nodes of an
upstream DAG; it is therefore also defined for a frontier in the global graph. All weights are
initialised uniformly in +-1/sqrt(width), as published. The paper's ``weight_decay`` of 1e-5 and its
decaying learning rate are options.

In: upstream DAGs. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import PADDING, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.dag.graphs import (
    GraphInputs,
    GraphOptions,
    GraphRecommender,
    Readout,
    mean_over,
)
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, Network, NodeEmbedding


class SRGNNConfig(GraphOptions):
    """Hyperparameters of the network and of training."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    rounds: int = Field(
        1, ge=1, description="rounds of message passing; n rounds reach nodes up to n links away"
    )
    dropout: float = Field(
        0.3, ge=0, lt=1, description="dropout of embeddings and of the state before the head"
    )


class SRGNNNetwork(Network):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: SRGNNConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.width
        self.rounds = config.rounds
        self.embed = NodeEmbedding(nodes, width)
        self.linear_in = nn.Linear(width, width)
        self.linear_out = nn.Linear(width, width)
        self.message_bias = nn.Parameter(torch.empty(2 * width))
        self.cell = nn.GRUCell(2 * width, width)
        self.attention_query = nn.Linear(width, width, bias=False)
        self.attention_key = nn.Linear(width, width)
        self.attention_score = nn.Linear(width, 1, bias=False)
        self.combine = nn.Linear(2 * width, width, bias=False)
        self.drop = nn.Dropout(config.dropout)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)
        with torch.no_grad():
            self.embed.weight[PADDING] = 0
        self.readout = Readout(nodes, width)
        self.head = Head(width, services, self.embed)

    def states(self, inputs: GraphInputs) -> Tensor:
        h = self.drop(self.embed(inputs.nodes))  # [N, D]
        for _ in range(self.rounds):
            h = self.cell(self.messages(h, inputs), h)
        pooled = self.pool(h, inputs)[inputs.frontiers]
        states: Tensor = self.drop(self.combine(torch.cat([pooled, self.readout(h, inputs)], dim=1)))
        return states

    def messages(self, h: Tensor, inputs: GraphInputs) -> Tensor:
        """Return the messages [N, 2D] to each node: those from its parents, then from its children."""
        from_parents = mean_over(self.linear_in(h)[inputs.sources], inputs.targets, len(h))
        from_children = mean_over(self.linear_out(h)[inputs.targets], inputs.sources, len(h))
        return torch.cat([from_parents, from_children], dim=1) + self.message_bias

    def pool(self, h: Tensor, inputs: GraphInputs) -> Tensor:
        """Return s_g [N, D] of each frontier, summed over it and its ancestors; 0 for other nodes."""
        is_frontier = torch.zeros(len(h), dtype=torch.bool, device=h.device)
        is_frontier[inputs.frontiers] = True
        frontiers = is_frontier.nonzero().squeeze(1)
        upstream = is_frontier[inputs.descendants]
        last = torch.cat([inputs.descendants[upstream], frontiers])
        node = torch.cat([inputs.ancestors[upstream], frontiers])
        logits = self.attention_query(h)[last] + self.attention_key(h)[node]
        alpha = self.attention_score(torch.sigmoid(logits))  # [Q, 1]
        weighted: Tensor = alpha * h[node]
        return weighted.new_zeros(h.shape).index_add(0, last, weighted)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class SRGNN(GraphRecommender):
    """A gated graph network over the upstream DAG with an attention readout at the frontier.

    Use it as the DAG version of a well-known session-based baseline.
    """

    name = "srgnn"
    paper = "Wu et al. 2019, arXiv 1811.00855"
    Config = SRGNNConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: SRGNNConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> SRGNNNetwork:
        return SRGNNNetwork(self.config, len(vocabulary), len(vocabulary.services))
