"""PinSage: vectors from content and from neighbourhoods by random walks (Ying et al., KDD 2018).

    n_v = sum_{u in N(v)} alpha_vu relu(Q h_u + q)          importance pooling
    h'_v = relu(W [h_v ; n_v] + w), to length 1             once a layer; h = x, the features, at first
    z_v = (x_v + P x_v + g G_2 relu(G_1 h_v + g_1)), to length 1
    z_c = (m + A m + z_f + B z_f, to length 1),  m = mean of z_v over the nodes v of the context
    s(y) = scale < z_c, z_y > + b_y
    L = mean over negatives n of max(0, margin - s(y) + s(n))

N(v) are the nodes nearest to v by personalised PageRank, alpha_v their shares of it
(``dagrec.models.bipartite.pagerank``). In the paper, a query is an item and z has no residual, no P, A
and B. Here a context is the query, f its last node, and it starts from the ranking of raw features:

- P, A, B, b and the gate g are 0 at first, so that z_v = x_v / |x_v|: all services are ranked by the
  cosine of their features with those of the context, as they are. Training cannot start worse; with
  ``patience`` it does not end worse on held-out compositions either, since what it starts from is epoch
  0 of what is compared there. ``epochs = 0`` serves that ranking itself, by the same scorer.
- A cosine is symmetric, and what is most like a context is the context: A and B tell a direction.
- A node without compositions hears nobody; g has no part in it, and its vector is that of its features.
- Hard negatives are from the middle of the ranking of services by PageRank from f, without all that
  followed f in training: none in the first epoch, then one more each epoch, up to ``hard_negatives``.
- The link to its own target is in the graph of each training context, but not of one that is asked
  about. ``neighbour_dropout`` leaves out neighbours by chance, so that none is relied upon.

Features, neighbourhoods and the band of hard negatives: ``dagrec.models.bipartite.tables``.
In: sets of nodes and their last. Out: scores [R, C].
"""

from __future__ import annotations

from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import normalize

from dagrec.data.vocabulary import FIRST_SERVICE, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import State, Traits
from dagrec.models.bipartite.tables import TableOptions, Tables
from dagrec.models.factorisation.base import FactorOptions, SetInputs, SetRecommender, set_sums
from dagrec.training.data import TrainingData
from dagrec.training.network import Network
from dagrec.training.options import LossName


class PinSageConfig(TableOptions, FactorOptions):
    """Layers and hard negatives; features, neighbourhoods and the optimisation come with them."""

    epochs: int = Field(
        60, ge=0, description="passes over the contexts, at most; 0: the features rank as they are"
    )
    layers: int = Field(1, ge=1, le=4, description="times that neighbours are heard")
    hard_negatives: int = Field(
        5,
        ge=0,
        description="beside those drawn, at most: none in the first epoch, one more in each after it",
    )
    neighbour_dropout: float = Field(
        0.3, ge=0, lt=1, description="neighbours that are left out, by chance in each step"
    )
    scale: float = Field(10.0, gt=0, description="of scores: cosines are multiplied by it")
    loss: LossName = Field("hinge", description="what is minimised; hinge is that of the paper")
    margin: float = Field(
        2.0, gt=0, description="hinge: by how much the target must lead; of cosines, 1 / scale of it"
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="on what stands for the context")
    l2: float = Field(
        1e-4, ge=0, description="weight of the squared projections P, A and B: of leaving the features"
    )

    @model_validator(mode="after")
    def _draws(self) -> Self:
        drawn = self.loss in ("gbce", "sampled-softmax") and self.negatives is not None
        if self.hard_negatives and drawn:
            raise ValueError(
                f"{self.loss} is corrected by the probability of its negatives, and hard negatives "
                f"have none: it needs hard_negatives 0, found {self.hard_negatives}"
            )
        return self


class Layer(nn.Module):
    """Hears the neighbours, weighted, and says what comes of it, to length 1: [V, F] -> [V, D]."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.say = nn.Linear(features, width)
        self.join = nn.Linear(features + width, width)

    def forward(self, rows: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
        heard = self.heard(rows, neighbours, weights)
        return normalize(torch.relu(self.join(torch.cat([rows, heard], dim=1))))

    def heard(self, rows: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
        """[V, D], the weighted mean of what the neighbours say."""
        return (torch.relu(self.say(rows))[neighbours] * weights[:, :, None]).sum(dim=1)


class PinSageNetwork(Network):
    """Sets -> scores [R, C]; a state is z of the context, times the scale."""

    has_prior_weights = True
    features: Tensor
    neighbours: Tensor
    weights: Tensor
    hard: Tensor

    def __init__(self, config: PinSageConfig, tables: Tables, services: int) -> None:
        super().__init__()
        self.config = config
        self.services = services
        self.most_hard = 0
        self.register_buffer("features", torch.from_numpy(tables.features).float())
        self.register_buffer("neighbours", torch.from_numpy(tables.neighbours))
        self.register_buffer("weights", torch.from_numpy(tables.weights).float())
        self.register_buffer("hard", torch.from_numpy(tables.hard), persistent=False)
        size, width = tables.features.shape[1], config.width
        widths = [size, *[width] * config.layers]
        self.layers = nn.ModuleList(Layer(a, width) for a in widths[:-1])
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, size, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))
        self.of_node = nn.Parameter(torch.zeros(size, size))
        self.of_set = nn.Parameter(torch.zeros(size, size))
        self.of_last = nn.Parameter(torch.zeros(size, size)) if config.last else None
        self.bias = nn.Parameter(torch.zeros(services))
        self.drop = nn.Dropout(config.dropout)
        # In tuples, since torch would store a bare tensor as its own.
        self._nodes: tuple[Tensor, ...] = ()
        self._items: tuple[Tensor, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # What was computed from the parameters is no part of the network.
        return self.__dict__ | {"_nodes": (), "_items": ()}

    def train(self, mode: bool = True) -> PinSageNetwork:
        self._nodes = ()
        super().train(mode)
        return self

    def begin_epoch(self, number: int) -> None:
        self.most_hard = min(number, self.config.hard_negatives)

    def nodes(self) -> Tensor:
        """[V, F], the z of all nodes. Once the network is trained, they are computed once."""
        if self._nodes and not torch.is_grad_enabled():
            return self._nodes[0]
        z = normalize(self.features + self.features @ self.of_node + self.gate * self.convolved())
        self._nodes = () if self.training or torch.is_grad_enabled() else (z,)
        return z

    def convolved(self) -> Tensor:
        """[V, F], what the neighbourhoods say; 0 where there is none."""
        weights = self.weights
        if self.training and self.config.neighbour_dropout:
            kept = torch.rand_like(weights) >= self.config.neighbour_dropout
            weights = weights * kept
            totals = weights.sum(dim=1, keepdim=True)
            weights = weights / torch.where(totals > 0, totals, 1)
        rows = self.features
        for layer in self.layers:
            rows = layer(rows, self.neighbours, weights)
        found: Tensor = self.outer(torch.relu(self.inner(rows)))
        return found * self.weights.any(dim=1, keepdim=True)

    def states(self, inputs: SetInputs) -> Tensor:
        z = self.nodes()
        mean = set_sums(z[inputs.nodes], inputs) / inputs.sizes[:, None]
        found = mean + mean @ self.of_set
        if self.of_last is not None:
            last = z[inputs.last]
            found = found + last + last @ self.of_last
        # `scores` belongs to the newest `states`: both sides come from one pass.
        self._items = (z[FIRST_SERVICE : FIRST_SERVICE + self.services],)
        return normalize(self.drop(found)) * self.config.scale

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        (items,) = self._items
        if columns is None:
            return nn.functional.linear(states, items, self.bias)
        return nn.functional.linear(states, items[columns], self.bias[columns])

    def hard_negatives(self, inputs: SetInputs) -> Tensor | None:
        """[R, n], drawn from the band of the last node."""
        if not self.training or not self.most_hard or not self.hard.shape[1]:
            return None
        band = self.hard[inputs.last]
        sizes = (band >= 0).sum(dim=1, keepdim=True)
        drawn = torch.rand(len(band), self.most_hard, device=band.device)
        return band.gather(1, (drawn * sizes).long())

    def penalty(
        self, inputs: SetInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        if not self.config.l2:
            return None
        projections = (self.of_node, self.of_set, self.of_last)
        squares = [p.square().sum() for p in projections if p is not None]
        return self.config.l2 * torch.stack(squares).sum()

    def embeddings(self) -> dict[str, Tensor]:
        z = self.nodes()
        return {"nodes": z, "services": z[FIRST_SERVICE : FIRST_SERVICE + self.services]}


class PinSage(SetRecommender):
    """Content features, and what neighbourhoods add to them."""

    name = "pinsage"
    paper = "Ying et al. 2018, arXiv 1806.01973"
    Config = PinSageConfig
    traits = Traits(order_aware=True, graph_aware=True, needs_text=True, gradient_trained=True)
    config: PinSageConfig
    _stored: Tables | None = None

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> PinSageNetwork:
        known = self._stored if data is None else Tables.of(data, self.config, self.seed)
        tables = self._fitted(known)
        return PinSageNetwork(self.config, tables, len(vocabulary.services))

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        self._stored = Tables.stored(state, vocabulary)
        super()._restore(state, vocabulary, graph)
