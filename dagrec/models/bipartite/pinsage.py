"""PinSage: vectors from content features and random-walk neighbourhoods (Ying et al., KDD 2018).

    n_v = sum_{u in N(v)} alpha_vu relu(Q h_u + q)               importance pooling h'_v = relu(W [h_v ;
    n_v] + w), scaled to length 1           in each layer; initially h = x, the features z_v = (x_v + P
    x_v + g G_2 relu(G_1 h_v + g_1)), scaled to length 1 z_c = (m + A m + z_f + B z_f), scaled to length
    1,  m = mean of z_v over the nodes v of the context s(y) = scale < z_c, z_y > + b_y L = mean over
    negatives n of max(0, margin - s(y) + s(n))

N(v) are the nodes nearest to v by personalised PageRank, and alpha_vu their normalised PageRank
(``dagrec.models.bipartite.pagerank``). In the paper a query is an item, and z has no residual and no P,
A and B. Here the context is the query, f is its last node, and training starts from the ranking by raw
features:

- P, A, B, b and the gate g are initially 0, so that z_v = x_v / |x_v|: services are ranked by the
  cosine of their features and those of the context. With ``patience`` this ranking is epoch 0 of early
  stopping, so training does not make the result worse on held-out compositions. With ``epochs = 0`` it
  is the result.
- A cosine is symmetric, and the services most similar to a context are those in it; A and B add a
  direction.
- A node without compositions has no neighbours; its vector depends only on its features, as with g = 0.
- Hard negatives are drawn from the middle of the ranking of services by PageRank from f, without the
  services that followed f in training: none in the first epoch, and one more in each further epoch, up
  to ``hard_negatives``.
- The link to the target of a training context is in the graph, but that of a new context is not.
  ``neighbour_dropout`` drops random neighbours, so that the network does not depend on single links.

``dagrec.models.bipartite.tables`` computes features, neighbourhoods and hard negatives.
In: sets of nodes and their last nodes. Out: scores [R, C].
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
from dagrec.models.factorisation.base import FactorOptions, SetInputs, SetRecommender, sum_per_set
from dagrec.training.data import TrainingData
from dagrec.training.network import Network
from dagrec.training.options import LossName


class PinSageConfig(TableOptions, FactorOptions):
    """Hyperparameters of the network, of features and neighbourhoods, and of training."""

    epochs: int = Field(
        60, ge=0, description="passes over the contexts, at most; 0: rank by raw features"
    )
    layers: int = Field(1, ge=1, le=4, description="number of convolutions over neighbourhoods")
    hard_negatives: int = Field(
        5,
        ge=0,
        description="number of hard negatives per context, at most: none in the first epoch, one more "
        "in each further epoch",
    )
    neighbour_dropout: float = Field(
        0.3, ge=0, lt=1, description="share of the neighbours that are dropped in each step"
    )
    scale: float = Field(10.0, gt=0, description="scores are cosines times this factor")
    loss: LossName = Field("hinge", description="loss; hinge is that of the paper")
    margin: float = Field(
        2.0,
        gt=0,
        description="hinge: required difference of the scores of the target and of a negative",
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="dropout of the context's vector")
    l2: float = Field(1e-4, ge=0, description="L2 regularisation of the projections P, A and B")

    @model_validator(mode="after")
    def _loss_allows_hard_negatives(self) -> Self:
        corrected = self.loss in ("gbce", "sampled-softmax") and self.negatives is not None
        if self.hard_negatives and corrected:
            raise ValueError(
                f"{self.loss} is corrected by the probability of its negatives, and hard negatives "
                f"have none: it needs hard_negatives 0, found {self.hard_negatives}"
            )
        return self


class Layer(nn.Module):
    """A convolution over weighted neighbours: [V, F] -> [V, D], rows of length 1."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.message = nn.Linear(features, width)
        self.update = nn.Linear(features + width, width)

    def forward(self, rows: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
        pooled = self.pool(rows, neighbours, weights)
        return normalize(torch.relu(self.update(torch.cat([rows, pooled], dim=1))))

    def pool(self, rows: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean of the neighbours' messages, n_v: [V, D]."""
        return (torch.relu(self.message(rows))[neighbours] * weights[:, :, None]).sum(dim=1)


class PinSageNetwork(Network):
    """Sets -> scores [R, C]; a state is z_c times the scale."""

    has_prior_weights = True
    features: Tensor
    neighbours: Tensor
    weights: Tensor
    hard: Tensor

    def __init__(self, config: PinSageConfig, tables: Tables, services: int) -> None:
        super().__init__()
        self.config = config
        self.services = services
        self.num_hard = 0
        self.register_buffer("features", torch.from_numpy(tables.features).float())
        self.register_buffer("neighbours", torch.from_numpy(tables.neighbours))
        self.register_buffer("weights", torch.from_numpy(tables.weights).float())
        self.register_buffer("hard", torch.from_numpy(tables.hard), persistent=False)
        size, width = tables.features.shape[1], config.width
        widths = [size, *[width] * config.layers]
        self.layers = nn.ModuleList(Layer(features, width) for features in widths[:-1])
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, size, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))
        self.node_projection = nn.Parameter(torch.zeros(size, size))
        self.set_projection = nn.Parameter(torch.zeros(size, size))
        self.last_projection = nn.Parameter(torch.zeros(size, size)) if config.last else None
        self.bias = nn.Parameter(torch.zeros(services))
        self.drop = nn.Dropout(config.dropout)
        # Tuples prevent torch from storing the tensors as part of the module.
        self._node_vectors: tuple[Tensor, ...] = ()
        self._service_vectors: tuple[Tensor, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # Vectors that are computed from the parameters are not pickled.
        return self.__dict__ | {"_node_vectors": (), "_service_vectors": ()}

    def train(self, mode: bool = True) -> PinSageNetwork:
        self._node_vectors = ()
        super().train(mode)
        return self

    def begin_epoch(self, number: int) -> None:
        self.num_hard = min(number, self.config.hard_negatives)

    def node_vectors(self) -> Tensor:
        """Return z of all nodes [V, F]; after training they are computed only once."""
        if self._node_vectors and not torch.is_grad_enabled():
            return self._node_vectors[0]
        projected = self.features @ self.node_projection
        z = normalize(self.features + projected + self.gate * self.convolution())
        self._node_vectors = () if self.training or torch.is_grad_enabled() else (z,)
        return z

    def convolution(self) -> Tensor:
        """Return G_2 relu(G_1 h_v + g_1) of all nodes [V, F]; 0 for nodes without neighbours."""
        weights = self.weights
        if self.training and self.config.neighbour_dropout:
            kept = torch.rand_like(weights) >= self.config.neighbour_dropout
            weights = weights * kept
            totals = weights.sum(dim=1, keepdim=True)
            weights = weights / torch.where(totals > 0, totals, 1)
        h = self.features
        for layer in self.layers:
            h = layer(h, self.neighbours, weights)
        output: Tensor = self.outer(torch.relu(self.inner(h)))
        return output * self.weights.any(dim=1, keepdim=True)

    def states(self, inputs: SetInputs) -> Tensor:
        z = self.node_vectors()
        mean = sum_per_set(z[inputs.nodes], inputs) / inputs.sizes[:, None]
        z_c = mean + mean @ self.set_projection
        if self.last_projection is not None:
            last = z[inputs.last]
            z_c = z_c + last + last @ self.last_projection
        # Both sides are computed in one pass, so `scores` uses the vectors of the latest `states`.
        self._service_vectors = (z[FIRST_SERVICE : FIRST_SERVICE + self.services],)
        return normalize(self.drop(z_c)) * self.config.scale

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        (z_y,) = self._service_vectors
        if columns is None:
            return nn.functional.linear(states, z_y, self.bias)
        return nn.functional.linear(states, z_y[columns], self.bias[columns])

    def hard_negatives(self, inputs: SetInputs) -> Tensor | None:
        """Return hard negatives [R, n], drawn from the band of the last node; None outside training."""
        if not self.training or not self.num_hard or not self.hard.shape[1]:
            return None
        band = self.hard[inputs.last]
        sizes = (band >= 0).sum(dim=1, keepdim=True)
        drawn = torch.rand(len(band), self.num_hard, device=band.device)
        return band.gather(1, (drawn * sizes).long())

    def penalty(
        self, inputs: SetInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        if not self.config.l2:
            return None
        projections = (self.node_projection, self.set_projection, self.last_projection)
        squares = [p.square().sum() for p in projections if p is not None]
        return self.config.l2 * torch.stack(squares).sum()

    def embeddings(self) -> dict[str, Tensor]:
        z = self.node_vectors()
        return {"nodes": z, "services": z[FIRST_SERVICE : FIRST_SERVICE + self.services]}


class PinSage(SetRecommender):
    """Graph convolutions over content features and neighbourhoods.

    Use it if nodes have informative texts, or if services without training examples must be ranked.
    """

    name = "pinsage"
    paper = "Ying et al. 2018, arXiv 1806.01973"
    Config = PinSageConfig
    traits = Traits(order_aware=True, graph_aware=True, needs_text=True, gradient_trained=True)
    config: PinSageConfig
    _stored_tables: Tables | None = None

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> PinSageNetwork:
        if data is None:
            tables = self._fitted(self._stored_tables)
        else:
            tables = Tables.of(data, self.config, self.seed)
        return PinSageNetwork(self.config, tables, len(vocabulary.services))

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        self._stored_tables = Tables.of_state(state, vocabulary)
        super()._restore(state, vocabulary, graph)
