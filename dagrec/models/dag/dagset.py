"""DAG-set: sets of nodes around the frontier and one hidden layer. There is no paper.

    x = [E[f] ; sum_{a at 1 link} E[a] ; sum_{a at 2} E[a] ; sum_{a further} E[a] ; sum_{c child} E[c] ;
         F[level of f]]
    s(y) = w_y . drop(relu(W drop(x) + b)) + v_y . drop(E[f]) + b_y

f is the frontier, a are its ancestors grouped by distance (in links), and c are its children. Within a
set the order of nodes is ignored: distance is the only order that all ancestors of a frontier have. The
second term depends only on the last node, as in a Markov chain. All sets share one embedding; W has
separate columns for each set. In training each node of a set is dropped with probability
``node_dropout``, which limits the influence of single rare nodes.

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
"""All ancestors at this distance or further form one set."""


class DagSetConfig(GraphOptions):
    """Hyperparameters of the network and of training."""

    epochs: int = Field(30, ge=1, description="maximum number of epochs")
    min_steps: int = Field(
        300, ge=0, description="on small data, epochs are added until there are this many steps"
    )
    batch_size: int = Field(128, ge=1, description="contexts per step")
    schedule: ScheduleName = Field("warmup-cosine", description="schedule of the learning rate")
    embedding: int = Field(128, ge=1, description="width of node embeddings")
    hidden: int = Field(256, ge=1, description="width of the hidden layer")
    levels: int = Field(
        12, ge=1, description="number of level embeddings; higher levels share the last"
    )
    node_dropout: float = Field(
        0.2, ge=0, lt=1, description="share of the nodes of a set that is dropped in training"
    )
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="dropout of the sums")
    hidden_dropout: float = Field(0.4, ge=0, lt=1, description="dropout of the hidden layer")


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
            # If no training context has children, the children of a request have no effect.
            self.hidden.weight[:, -2 * width : -width] = 0
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(config.hidden + width, services)

    def states(self, inputs: GraphInputs) -> Tensor:
        last = self.embed(inputs.nodes[inputs.frontiers])  # [R, D]
        parts = [last]
        for distance in range(1, MAX_DISTANCE + 1):
            at = inputs.hops == distance if distance < MAX_DISTANCE else inputs.hops >= MAX_DISTANCE
            parts.append(self._sums(inputs.nodes[at], inputs.graph[at], last))
        parts.append(self._sums(inputs.children, inputs.child_rows, last))
        level = inputs.levels[inputs.frontiers].clamp(max=self.levels.num_embeddings - 1)
        parts.append(self.levels(level))
        x = self.drop(torch.cat(parts, dim=1))  # [R, 6 D]
        hidden = self.drop_hidden(torch.relu(self.hidden(x)))
        return torch.cat([hidden, self.drop(last)], dim=1)

    def _sums(self, nodes: Tensor, rows: Tensor, like: Tensor) -> Tensor:
        """Return the sums [R, D] of the embeddings of the nodes [X] of each row; like: [R, D]."""
        if self.training and self.node_dropout:
            keep = torch.rand(len(nodes), device=nodes.device) >= self.node_dropout
            nodes, rows = nodes[keep], rows[keep]
        return torch.zeros_like(like).index_add(0, rows, self.embed(nodes))

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class DagSet(GraphRecommender):
    """A small feed-forward network over sets of ancestors and children of the frontier.

    Use it as the first DAG network to try: it is small, quick to train and a good member of blends.
    """

    name = "dagset"
    paper = "none; defined in its file"
    Config = DagSetConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DagSetConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DagSetNetwork:
        return DagSetNetwork(self.config, len(vocabulary), len(vocabulary.services))
