"""GRU4Rec with branches: a GRU along the links of a DAG that joins the states of several parents.

    h_v = GRU(drop_e(E[v]), join_{u -> v} h_u),  join over no links = 0,  s(y) = w_y . drop_h(z_f) + b_y
    z_f = h_f + sum_{c child of f} B[c]

There is no paper; the model extends GRU4Rec (Hidasi et al., ICLR 2016, arXiv 1511.06939), whose cell,
embeddings and dropout it uses, and on a chain it is GRU4Rec. A path is only one of the branches of a
DAG; here the state of the frontier f depends on all branches upstream. ``join`` is the mean of the
parents' states, so that equal branches count once; their element-wise maximum; or attention with
weights softmax_u (W_q x_v . h_u / sqrt(H)). B is the embedding of the frontier's children, initially 0.

DAGNN (Thost and Chen, ICLR 2021) also uses the joined states of the parents as the hidden state of a
GRU. It differs in that it always joins by attention, whose weights do not depend on the node, and in
that its readout concatenates the states of all layers. Here the readout uses the last layer, and
dropout is applied between layers and before the head, not to the recurrent state, as in GRU4Rec.

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
    """Hyperparameters of the network and of training."""

    embedding: int = Field(64, ge=1, description="width of node embeddings")
    hidden: int = Field(128, ge=1, description="width of hidden states")
    layers: int = Field(2, ge=1, description="number of GRU layers")
    join: Literal["mean", "max", "attention"] = Field(
        "mean", description="how the states of several parents are combined"
    )
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="dropout of embeddings")
    hidden_dropout: float = Field(
        0.4, ge=0, lt=1, description="dropout of the states between layers and before the head"
    )
    tied: bool = Field(False, description="use the embeddings of the services as output weights")


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
            # A linear map projects the state to the width of the embedding.
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
        """Return the states [N, H] of one layer for inputs x [N, D] or [N, H]."""
        queries = self.queries[layer](x) if self.join == "attention" else None
        h = x.new_zeros(0, self.hidden)
        for level_x, sources, targets in zip(
            x.split(inputs.level_sizes),
            inputs.sources.split(inputs.link_sizes),
            inputs.targets.split(inputs.link_sizes),
            strict=True,
        ):
            query = None if queries is None else queries[targets]
            hidden = self._join_states(h[sources], targets - len(h), len(level_x), query)
            h = torch.cat([h, self.cells[layer](level_x, hidden)])
        return h

    def _join_states(self, h: Tensor, groups: Tensor, size: int, query: Tensor | None) -> Tensor:
        """Return one state per group [size, H], 0 for an empty group.

        h: [E, H] states; groups: [E]; query: [E, H] for attention, otherwise None.
        """
        if query is not None:
            weights = softmax_over((query * h).sum(dim=1) * h.shape[1] ** -0.5, groups, size)
            weighted = weights[:, None] * h
            return weighted.new_zeros(size, h.shape[1]).index_add(0, groups, weighted)
        if self.join == "max":
            index = groups[:, None].expand_as(h)
            return h.new_zeros(size, h.shape[1]).scatter_reduce(0, index, h, "amax", include_self=False)
        return mean_over(h, groups, size)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class GRU4RecBranches(GraphRecommender):
    """GRU4Rec on the upstream DAG: the recurrent state joins all branches that lead to the frontier.

    Use it instead of GRU4Rec if compositions have branches that meet.
    """

    name = "gru4rec_branches"
    paper = "none; after Hidasi et al. 2016, arXiv 1511.06939"
    Config = BranchesConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: BranchesConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> BranchesNetwork:
        return BranchesNetwork(self.config, len(vocabulary), len(vocabulary.services))
