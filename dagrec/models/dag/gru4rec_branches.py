"""GRU4Rec with branches: the recurrent state runs along the links of a DAG and joins where they join.

    h_v = GRU(drop_e(E[v]), join_{u -> v} h_u),  join over no links = 0,  s(y) = w_y . drop_h(z_f) + b_y
    z_f = h_f + sum_{c child of f} B[c]

Ours, after GRU4Rec (Hidasi et al., ICLR 2016, arXiv 1511.06939): its cell, embeddings and dropouts, and
on a chain its scores. A path is one way through a DAG; here every branch that meets upstream of the
frontier f reaches its state. ``join``: the mean of the parents' states, so that equal branches count as
one; the largest value of each component; or attention, with weights softmax_u (W_q x_v . h_u / sqrt(H))
by which a node chooses among its parents. B is the embedding of the nodes that the frontier feeds
already, 0 at first.

DAGNN (Thost and Chen, ICLR 2021) too puts the joined states of the parents in the place of a GRU's
hidden state. It differs from this: it always joins by attention, whose weights do not depend on the
node itself, and it reads the states of all layers. Here the last layer alone is read, and dropout acts
between layers and before the head but not on the state that is handed on along a link, as in GRU4Rec.

In: upstream DAGs, level by level. Out: scores [R, C].
"""

from __future__ import annotations

from typing import Literal

import torch
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
    softmax_over,
)
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, Network, NodeEmbedding


class BranchesConfig(GraphOptions):
    """Hyperparameters of the network; those of the optimisation come with them."""

    embedding: int = Field(64, ge=1, description="width of a node's embedding")
    hidden: int = Field(128, ge=1, description="width of a hidden state")
    layers: int = Field(2, ge=1, description="GRU layers")
    join: Literal["mean", "max", "attention"] = Field(
        "mean", description="how the states of several parents become one"
    )
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="on embeddings")
    hidden_dropout: float = Field(
        0.4, ge=0, lt=1, description="on the states between layers and before the head"
    )
    tied: bool = Field(False, description="use the services' embeddings as output weights")


class BranchesNetwork(Network):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: BranchesConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.join = config.join
        self.hidden = config.hidden
        self.embed = NodeEmbedding(nodes, config.embedding)
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        widths = [config.embedding, *[config.hidden] * (config.layers - 1)]
        self.cells = nn.ModuleList(nn.GRUCell(width, config.hidden) for width in widths)
        self.queries = nn.ModuleList(
            nn.Linear(width, config.hidden) for width in widths if config.join == "attention"
        )
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.readout = Readout(nodes, config.hidden)
        self.project: nn.Module = nn.Identity()
        width = config.hidden
        if config.tied and config.hidden != config.embedding:
            # A linear map brings the state to the embedding's width where the two differ.
            self.project = nn.Linear(config.hidden, config.embedding)
            width = config.embedding
        self.head = Head(width, services, self.embed if config.tied else None)

    def states(self, inputs: GraphInputs) -> Tensor:
        x = self.drop_embedding(self.embed(inputs.nodes))  # [N, D]
        for layer in range(len(self.cells)):
            x = self.drop_hidden(self._layer(layer, x, inputs))  # [N, H]
        states: Tensor = self.project(self.readout(x, inputs))
        return states

    def _layer(self, layer: int, x: Tensor, inputs: GraphInputs) -> Tensor:
        """[N, H] states of one layer; x: [N, D] or [N, H]."""
        query = self.queries[layer](x) if self.join == "attention" else None
        h = x.new_zeros(0, self.hidden)
        for own, sources, targets in zip(
            x.split(inputs.level_sizes),
            inputs.sources.split(inputs.link_sizes),
            inputs.targets.split(inputs.link_sizes),
            strict=True,
        ):
            asked = None if query is None else query[targets]
            before = self._joined(h[sources], targets - len(h), len(own), asked)
            h = torch.cat([h, self.cells[layer](own, before)])
        return h

    def _joined(self, h: Tensor, groups: Tensor, size: int, query: Tensor | None) -> Tensor:
        """[size, H] one state for each group of states [E, H], 0 for an empty one; query: [E, H]."""
        if query is not None:
            weights = softmax_over((query * h).sum(dim=1) * h.shape[1] ** -0.5, groups, size)
            seen = weights[:, None] * h
            return seen.new_zeros(size, h.shape[1]).index_add(0, groups, seen)
        if self.join == "max":
            index = groups[:, None].expand_as(h)
            return h.new_zeros(size, h.shape[1]).scatter_reduce(0, index, h, "amax", include_self=False)
        return mean_over(h, groups, size)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class GRU4RecBranches(GraphRecommender):
    """A recurrent state along all branches upstream of the frontier."""

    name = "gru4rec_branches"
    paper = "none; after Hidasi et al. 2016, arXiv 1511.06939"
    Config = BranchesConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: BranchesConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> BranchesNetwork:
        return BranchesNetwork(self.config, len(vocabulary), len(vocabulary.services))
