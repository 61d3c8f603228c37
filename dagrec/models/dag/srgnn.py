"""SR-GNN: gated message passing along links and a soft-attention readout (Wu et al., AAAI 2019, arXiv
1811.00855).

    a_v = [mean_{u -> v} (W_in h_u + b_in) + c_in ; mean_{v -> w} (W_out h_w + b_out) + c_out]
    h_v <- GRU(a_v, h_v), ``steps`` times, from h_v = E[v]
    alpha_v = q . sigmoid(W_1 h_f + W_2 h_v),  s_g = sum_v alpha_v h_v        (no softmax, as published)
    s = W_3 [s_g ; h_f + sum_{c child of f} B[c]],  s(y) = E[y] . s + b_y

The paper makes a graph of a session by linking clicks that follow each other, and merges equal items.
Here the graph is the DAG upstream of the frontier f with its real links, "last" is f itself (not the
end of some topological order), and a service used twice is two nodes: their places differ. A mean over
no links is 0, so rows of A_in and A_out sum to 1 or to 0. Ours: the frontier's children B (0 at first),
the bias b_y and dropout. The sum goes over f and its ancestors, which is all of an upstream DAG; so f's
state from the global graph is well defined too. All weights start uniform in +-1/sqrt(width), as
published; ``weight_decay`` 1e-5 and a falling learning rate are the paper's, and left to the
configuration.

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
    """Hyperparameters of the network; those of the optimisation come with them."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    steps: int = Field(1, ge=1, description="rounds of messages; each brings nodes one link closer")
    dropout: float = Field(
        0.3, ge=0, lt=1, description="on embeddings and on the state before the head"
    )


class SRGNNNetwork(Network):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: SRGNNConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.width
        self.steps = config.steps
        self.embed = NodeEmbedding(nodes, width)
        self.along = nn.Linear(width, width)
        self.against = nn.Linear(width, width)
        self.shift = nn.Parameter(torch.empty(2 * width))
        self.cell = nn.GRUCell(2 * width, width)
        self.look = nn.Linear(width, width, bias=False)
        self.seen = nn.Linear(width, width)
        self.weigh = nn.Linear(width, 1, bias=False)
        self.join = nn.Linear(2 * width, width, bias=False)
        self.drop = nn.Dropout(config.dropout)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)
        with torch.no_grad():
            self.embed.weight[PADDING] = 0
        self.readout = Readout(nodes, width)
        self.head = Head(width, services, self.embed)

    def states(self, inputs: GraphInputs) -> Tensor:
        h = self.drop(self.embed(inputs.nodes))  # [N, D]
        for _ in range(self.steps):
            h = self.cell(self.messages(h, inputs), h)
        whole = self.pool(h, inputs)[inputs.frontiers]
        states: Tensor = self.drop(self.join(torch.cat([whole, self.readout(h, inputs)], dim=1)))
        return states

    def messages(self, h: Tensor, inputs: GraphInputs) -> Tensor:
        """[N, 2D] what reaches each node along its links, then what reaches it against them."""
        along = mean_over(self.along(h)[inputs.sources], inputs.targets, len(h))
        against = mean_over(self.against(h)[inputs.targets], inputs.sources, len(h))
        return torch.cat([along, against], dim=1) + self.shift

    def pool(self, h: Tensor, inputs: GraphInputs) -> Tensor:
        """[N, D] s_g of each node that is asked about, over its ancestors and itself; 0 of others."""
        asked = torch.zeros(len(h), dtype=torch.bool, device=h.device)
        asked[inputs.frontiers] = True
        own = asked.nonzero().squeeze(1)
        upstream = asked[inputs.descendants]
        last = torch.cat([inputs.descendants[upstream], own])
        node = torch.cat([inputs.ancestors[upstream], own])
        alpha = self.weigh(torch.sigmoid(self.look(h)[last] + self.seen(h)[node]))  # [Q, 1]
        seen: Tensor = alpha * h[node]
        return seen.new_zeros(h.shape).index_add(0, last, seen)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class SRGNN(GraphRecommender):
    """A gated graph network over the DAG, read at the frontier."""

    name = "srgnn"
    paper = "Wu et al. 2019, arXiv 1811.00855"
    Config = SRGNNConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: SRGNNConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> SRGNNNetwork:
        return SRGNNNetwork(self.config, len(vocabulary), len(vocabulary.services))
