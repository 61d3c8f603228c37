"""DAG-GNN: messages from parents, children and the node itself. It shares only its name with a paper.

    h^0 = drop_e(E[v])
    o_v = W_self h_v + mean_{p in parents(v)} W_par h_p + mean_{c in children(v)} W_chi h_c
    h_v <- LayerNorm(h_v + drop(GELU(o_v))),  in each of L layers with separate weights
    s(y) = w_y . drop(h_f + sum_{c in children} B[c]) + b_y

DAG-GNN by Yu, Chen, Gao and Yu (ICML 2019, arXiv 1904.10098) is a different model: a variational
autoencoder that learns the structure of a DAG from samples. Work on workflow recommendation uses the
name for the network above, which has no paper of its own and is defined here.

Messages from children could leak the target, because in a finished composition the target is a child of
the frontier. Here messages are passed only within the upstream DAG, in which the frontier has no
children; they carry information about the other nodes between an ancestor and the frontier. With
``graph="global"`` messages follow the links of the training data. The mean over no parents or no
children is 0. With L layers, a state depends on nodes up to L links away in both directions.

In: DAGs. Out: scores [R, C].
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import Vocabulary
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


class DagGnnConfig(GraphOptions):
    """Hyperparameters of the network and of training."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    layers: int = Field(
        3, ge=1, description="number of layers; n layers reach nodes up to n links away"
    )
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="dropout of embeddings")
    hidden_dropout: float = Field(
        0.4, ge=0, lt=1, description="dropout of messages and of the state before the head"
    )


class Layer(nn.Module):
    """One layer: states h [N, H] -> the same shape."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.from_self = nn.Linear(width, width, bias=False)
        self.from_parents = nn.Linear(width, width, bias=False)
        self.from_children = nn.Linear(width, width, bias=False)
        self.drop = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, h: Tensor, sources: Tensor, targets: Tensor) -> Tensor:
        """Return the new states; sources, targets: [E] node indices of the links."""
        parents = mean_over(self.from_parents(h)[sources], targets, len(h))
        children = mean_over(self.from_children(h)[targets], sources, len(h))
        out = nn.functional.gelu(self.from_self(h) + parents + children)
        normed: Tensor = self.norm(h + self.drop(out))
        return normed


class DagGnnNetwork(Network):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: DagGnnConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.embed = NodeEmbedding(nodes, config.width)
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(
            Layer(config.width, config.hidden_dropout) for _ in range(config.layers)
        )
        self.readout = Readout(nodes, config.width)
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(config.width, services)

    def node_states(self, inputs: GraphInputs) -> Tensor:
        """Return the states [N, H] of all nodes."""
        h: Tensor = self.drop_embedding(self.embed(inputs.nodes))
        for layer in self.layers:
            h = layer(h, inputs.sources, inputs.targets)
        return h

    def states(self, inputs: GraphInputs) -> Tensor:
        states: Tensor = self.drop_hidden(self.readout(self.node_states(inputs), inputs))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class DagGnn(GraphRecommender):
    """Message passing along links in both directions of the upstream DAG.

    Use it as a plain graph neural network to compare with attention-based DAG recommenders.
    """

    name = "dag_gnn"
    paper = "none; defined in its file (shares only the name with Yu et al. 2019, arXiv 1904.10098)"
    Config = DagGnnConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DagGnnConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> DagGnnNetwork:
        return DagGnnNetwork(self.config, len(vocabulary), len(vocabulary.services))
