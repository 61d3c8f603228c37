"""DAG-set: what lies around the frontier, as sets of nodes, and one hidden layer. Ours; no paper.

    x = [E[f] ; sum_{a at 1 link} E[a] ; sum_{a at 2} E[a] ; sum_{a further} E[a] ; sum_{c child} E[c] ;
         F[level of f]]
    s(y) = w_y . drop(relu(W drop(x) + b)) + v_y . drop(E[f]) + b_y

f is the frontier, a its ancestors by the number of links between them, c the nodes it feeds already.
Sums over sets know no order but that of distance, which is all the order that the ancestors of a
frontier have in common. The second term lets the last node speak for itself, as in a Markov chain. One
embedding serves all sets: W tells their places apart. In training each node of a set is left out with
probability ``node_dropout``, so that no rare neighbour alone decides.

In: upstream DAGs. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import Vocabulary
from dagrec.models.base import Traits
from dagrec.models.dag.graphs import GraphInputs, GraphOptions, GraphRecommender
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, Network, NodeEmbedding
from dagrec.training.options import ScheduleName

MAX_DISTANCE = 3
"""Links from which on distances are no longer told apart."""


class DagSetConfig(GraphOptions):
    """Hyperparameters of the network; those of the optimisation come with them."""

    epochs: int = Field(30, ge=1, description="passes over the contexts, at most")
    min_steps: int = Field(300, ge=0, description="on small data, more epochs until there are so many")
    batch_size: int = Field(128, ge=1, description="contexts a step")
    schedule: ScheduleName = Field("warmup-cosine", description="of the step size")
    embedding: int = Field(128, ge=1, description="width of a node's embedding")
    hidden: int = Field(256, ge=1, description="width of the hidden layer")
    levels: int = Field(12, ge=1, description="levels of the frontier that are told apart")
    node_dropout: float = Field(0.2, ge=0, lt=1, description="nodes of a set that are left out")
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="on the sums")
    hidden_dropout: float = Field(0.4, ge=0, lt=1, description="on the hidden layer")


class DagSetNetwork(Network):
    """Upstream DAGs -> scores [R, C]."""

    def __init__(self, config: DagSetConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.embedding
        self.embed = NodeEmbedding(nodes, width)
        self.levels = nn.Embedding(config.levels, width)
        self.node_dropout = config.node_dropout
        self.drop = nn.Dropout(config.embedding_dropout)
        self.hidden = nn.Linear((MAX_DISTANCE + 3) * width, config.hidden)
        with torch.no_grad():
            # Where no training context has children, those of a request must not move its answer.
            self.hidden.weight[:, -2 * width : -width] = 0
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(config.hidden + width, services)

    def states(self, inputs: GraphInputs) -> Tensor:
        last = self.embed(inputs.nodes[inputs.frontiers])  # [R, D]
        parts = [last]
        for far in range(1, MAX_DISTANCE + 1):
            own = inputs.hops == far if far < MAX_DISTANCE else inputs.hops >= MAX_DISTANCE
            parts.append(self._sums(inputs.nodes[own], inputs.graph[own], last))
        parts.append(self._sums(inputs.children, inputs.child_rows, last))
        level = inputs.levels[inputs.frontiers].clamp(max=self.levels.num_embeddings - 1)
        parts.append(self.levels(level))
        x = self.drop(torch.cat(parts, dim=1))  # [R, 6 D]
        hidden = self.drop_hidden(torch.relu(self.hidden(x)))
        return torch.cat([hidden, self.drop(last)], dim=1)

    def _sums(self, nodes: Tensor, rows: Tensor, like: Tensor) -> Tensor:
        """[R, D] sum over the nodes [X] of each row."""
        if self.training and self.node_dropout:
            kept = torch.rand(len(nodes), device=nodes.device) >= self.node_dropout
            nodes, rows = nodes[kept], rows[kept]
        return torch.zeros_like(like).index_add(0, rows, self.embed(nodes))

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class DagSet(GraphRecommender):
    """Sets of nodes around the frontier, one hidden layer."""

    name = "dagset"
    paper = "none; defined in its file"
    Config = DagSetConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DagSetConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DagSetNetwork:
        return DagSetNetwork(self.config, len(vocabulary), len(vocabulary.services))
