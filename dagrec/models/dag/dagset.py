"""DAG-set: what lies around the frontier, as sets of nodes, and one hidden layer. Ours; no paper.

    x = [E_0[f] ; sum_{a at 1 link} E_1[a] ; sum_{a at 2} E_2[a] ; sum_{a further} E_3[a] ;
         sum_{c child} E_4[c] ; E_5[level of f]]
    s(y) = w_y . drop(relu(W drop(x) + b)) + v_y . E_0[f] + b_y

f is the frontier, a its ancestors by the number of links between them, c the nodes it feeds already. Sums
over sets know no order but that of distance, which is what a frontier of a DAG has: its ancestors are
ordered in part only. The second term lets the last node speak for itself, as in a Markov chain.

In: upstream DAGs. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import Vocabulary
from dagrec.models.base import Traits
from dagrec.models.dag.graphs import GraphInputs, GraphOptions, GraphRecommender
from dagrec.models.network import Head, Network, NodeEmbedding
from dagrec.models.training_data import TrainingData

FURTHEST = 3
"""Links from which on distances are no longer told apart."""


class DagSetConfig(GraphOptions):
    """Hyperparameters of the network; those of the optimisation come with them."""

    embedding: int = Field(64, ge=1, description="width of a node's embedding in each set")
    hidden: int = Field(256, ge=1, description="width of the hidden layer")
    levels: int = Field(12, ge=1, description="levels of the frontier that are told apart")
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="on the sums")
    hidden_dropout: float = Field(0.4, ge=0, lt=1, description="on the hidden layer")


class DagSetNetwork(Network):
    """Upstream DAGs -> scores [R, C]."""

    def __init__(self, config: DagSetConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.embedding
        self.frontier = NodeEmbedding(nodes, width)
        self.ancestors = nn.ModuleList(NodeEmbedding(nodes, width) for _ in range(FURTHEST))
        self.beside = NodeEmbedding(nodes, width)
        self.levels = nn.Embedding(config.levels, width)
        self.drop = nn.Dropout(config.embedding_dropout)
        self.hidden = nn.Linear((3 + FURTHEST) * width, config.hidden)
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(config.hidden + width, services)

    def states(self, inputs: GraphInputs) -> Tensor:
        last = self.frontier(inputs.nodes[inputs.frontiers])  # [R, D]
        parts = [last]
        for far, embed in enumerate(self.ancestors, start=1):
            own = inputs.hops == far if far < FURTHEST else inputs.hops >= FURTHEST
            parts.append(_sums(embed(inputs.nodes[own]), inputs.graph[own], last))
        parts.append(_sums(self.beside(inputs.children), inputs.child_rows, last))
        level = inputs.levels[inputs.frontiers].clamp(max=self.levels.num_embeddings - 1)
        parts.append(self.levels(level))
        x = self.drop(torch.cat(parts, dim=1))
        hidden = self.drop_hidden(torch.relu(self.hidden(x)))
        return torch.cat([hidden, self.drop(last)], dim=1)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


def _sums(values: Tensor, rows: Tensor, like: Tensor) -> Tensor:
    """[R, D] sum of the values [X, D] of each row."""
    return torch.zeros_like(like).index_add(0, rows, values)


class DagSet(GraphRecommender):
    """Sets of nodes around the frontier, one hidden layer."""

    name = "dagset"
    paper = "none; defined in its file"
    Config = DagSetConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DagSetConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DagSetNetwork:
        return DagSetNetwork(self.config, len(vocabulary), len(vocabulary.services))
