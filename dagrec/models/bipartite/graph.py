"""The bipartite graph of training compositions and nodes, and networks that propagate over it.

U users (training compositions; those with equal sets are merged) and V items (node ids) have one vector
each. In layer 0 the vector of an item is learned, E_i; the vector of a user, or of a context to score,
is the mean of its items' vectors (FISM). In each further layer, every row aggregates its neighbours:

    user or context u:  a_u = sum_{i in u} e_i / sqrt(d_u d_i)
    item i:             a_i = sum_{u with i} e_u / sqrt(d_u d_i)

which is A e with A = D^-1/2 [[0, R], [R^T, 0]] D^-1/2. A context aggregates the items' layers, but no
item aggregates a context: it is folded in by the same rule as a user of the graph, in training and at
serving alike, with the items' degrees in the training graph. A subclass defines the next layer from the
aggregated vectors (``layer``) and one vector from all layers of a row (``readout``). Everything is
recomputed with gradient in every batch.

n merged users are one row e' = sqrt(n) e, whose links have weight sqrt(n). The matrix stays symmetric
and keeps its spectrum, and items aggregate the same vectors as from n rows. This requires that layers
are homogeneous: layer(c row) = c layer(row) for c > 0.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import FIRST_SERVICE, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import State
from dagrec.models.factorisation.base import (
    FactorNetwork,
    FactorOptions,
    SetInputs,
    SetRecommender,
    sum_per_set,
)
from dagrec.models.interactions import Interactions
from dagrec.training.data import TrainingData
from dagrec.types import Ragged


class BipartiteOptions(FactorOptions):
    """Hyperparameters of propagation, of factorisation and of training."""

    layers: int = Field(2, ge=0, le=16, description="number of propagation layers")


class Adjacency(NamedTuple):
    """The sparse matrix A.

    sources, targets, values: [L] column, row and value of each entry; degrees: [V + U]. The degree of
    an item is its number of compositions, that of a user its number of nodes; a self-loop adds one.
    """

    sources: Tensor
    targets: Tensor
    values: Tensor
    degrees: Tensor

    def aggregate(self, rows: Tensor) -> Tensor:
        """Return A e [V + U, D] for e [V + U, D]."""
        messages = rows[self.sources] * self.values[:, None]
        return messages.new_zeros(rows.shape).index_add(0, self.targets, messages)


class BipartiteGraph(nn.Module):
    """The graph as buffers. Rows 0 .. V - 1 of all matrices are items, followed by the users.

    users, items: [m] ends of the links; weights: [U] number of compositions of each user. With
    ``self_loops`` every row has a link to itself.
    """

    users: Tensor
    items: Tensor
    weights: Tensor

    def __init__(self, interactions: Interactions, *, self_loops: bool = False) -> None:
        super().__init__()
        self.nodes = interactions.size
        self.self_loops = self_loops
        self.register_buffer("users", torch.from_numpy(interactions.users))
        self.register_buffer("items", torch.from_numpy(interactions.items))
        self.register_buffer("weights", torch.from_numpy(interactions.weights.astype(np.float32)))

    def adjacency(self, links: Tensor | None = None) -> Adjacency:
        """Return A of the whole graph, or of the subgraph of the links ``links`` [k]."""
        users, items = self.users, self.items
        if links is not None:
            users, items = users[links], items[links]
        weights = self.weights[users]
        degrees = self.weights.new_zeros(self.nodes + len(self.weights))
        degrees = degrees.index_add(0, items, weights)
        user_rows = self.nodes + users
        degrees = degrees.index_add(0, user_rows, torch.ones_like(weights)) + self.self_loops
        values = (weights / (degrees[user_rows] * degrees[items])).sqrt()
        loops = torch.arange(len(degrees) * self.self_loops, device=users.device)
        return Adjacency(
            torch.cat([user_rows, items, loops]),
            torch.cat([items, user_rows, loops]),
            torch.cat([values, values, 1 / degrees[loops]]),
            degrees,
        )

    def with_user_means(self, items: Tensor) -> Tensor:
        """Return the vectors [V + U, D] of items [V, D] and, for each user, the mean of its items."""
        sums = items.new_zeros(len(self.weights), items.shape[1])
        sums = sums.index_add(0, self.users, items[self.items])
        sizes = torch.bincount(self.users, minlength=len(self.weights)).clamp(min=1)
        return torch.cat([items, sums / sizes[:, None]])

    def scales(self) -> Tensor:
        """Return the factors [V + U, 1] of the rows: sqrt(n) for n merged users, 1 for items."""
        return torch.cat([self.weights.new_ones(self.nodes), self.weights.sqrt()])[:, None]


class LayerInputs(NamedTuple):
    """The inputs of a layer for n rows.

    aggregated: [n, D] A e of the layer below; ego: [n, D] layer 0; sqrt_degrees: [n, 1] square roots of
    the rows' degrees (for merged users, of their total degree).
    """

    aggregated: Tensor
    ego: Tensor
    sqrt_degrees: Tensor


class Propagation(NamedTuple):
    """The layers [V + U, D] of the graph, layer 0 first, the summary of each step, and the degrees."""

    layers: list[Tensor]
    summaries: list[Tensor | None]
    degrees: Tensor


class BipartiteNetwork(FactorNetwork):
    """Sets -> scores [R, C], with vectors from propagation over the graph."""

    self_loops: ClassVar[bool] = False
    """Whether each row also aggregates itself."""
    transient: ClassVar[tuple[str, ...]] = ("_service_factors", "_propagation")
    _propagation: Propagation | None = None

    def __init__(self, config: BipartiteOptions, interactions: Interactions, services: int) -> None:
        super().__init__(config, interactions.size, services)
        self.depth = config.layers
        self.graph = BipartiteGraph(interactions, self_loops=self.self_loops)

    @abstractmethod
    def layer(self, number: int, rows: LayerInputs, summary: Tensor | None) -> Tensor:
        """Return the next layer of n rows [n, D]; ``number`` counts from 0."""

    def readout(self, layers: list[Tensor]) -> Tensor:
        """Return z [n, D] from all layers, the ego layer first: their mean, as in LightGCN."""
        return torch.stack(layers).mean(dim=0)

    def ego_layer(self, vectors: Tensor) -> Tensor:
        """Return layer 0 [n, D] of rows with these vectors, or means of vectors."""
        return vectors

    def summary(self, aggregated: Tensor, sqrt_degrees: Tensor) -> Tensor | None:
        """Return what a layer needs of the whole graph, from all its rows [V + U, D]."""
        return None

    def adjacency(self) -> Adjacency:
        """Return A for the current pass."""
        return self.graph.adjacency()

    def train(self, mode: bool = True) -> BipartiteNetwork:
        self._propagation = None
        super().train(mode)
        return self

    def propagate(self) -> Propagation:
        """Return all layers of the graph; after training they are computed only once."""
        if self._propagation is not None:
            return self._propagation
        adjacency, scales = self.adjacency(), self.graph.scales()
        sqrt_degrees = scales * adjacency.degrees.sqrt()[:, None]
        ego = self.ego_layer(self.graph.with_user_means(self.embed.weight)) * scales
        layers, summaries = [ego], []
        for number in range(self.depth):
            aggregated = adjacency.aggregate(layers[-1])
            summaries.append(self.summary(aggregated, sqrt_degrees))
            rows = LayerInputs(aggregated, ego, sqrt_degrees)
            layers.append(self.layer(number, rows, summaries[-1]))
        propagation = Propagation(layers, summaries, adjacency.degrees)
        if not self.training and not torch.is_grad_enabled():
            self._propagation = propagation
        return propagation

    def fold_in(self, graph: Propagation, inputs: SetInputs) -> list[Tensor]:
        """Return all layers of the contexts: [R, D] each."""
        degrees = inputs.sizes[:, None] + float(self.self_loops)
        item_degrees = graph.degrees[inputs.nodes].clamp(min=1)[:, None]
        values = (degrees[inputs.rows] * item_degrees).rsqrt()
        layers = [self.ego_layer(self.context_vectors(inputs))]
        for number, summary in enumerate(graph.summaries):
            aggregated = sum_per_set(graph.layers[number][inputs.nodes] * values, inputs)
            if self.self_loops:
                aggregated = aggregated + layers[-1] / degrees
            rows = LayerInputs(aggregated, layers[0], degrees.sqrt())
            layers.append(self.layer(number, rows, summary))
        return layers

    def embeddings(self) -> dict[str, Tensor]:
        """Return z: nodes: [V, D] as items of the graph; services: [C, D], the same vectors."""
        nodes = [layer[: self.graph.nodes] for layer in self.propagate().layers]
        return super().embeddings() | {"nodes": self.readout(nodes)}

    def factors(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        graph = self.propagate()
        services = slice(FIRST_SERVICE, FIRST_SERVICE + self.services)
        z_y = self.readout([layer[services] for layer in graph.layers])
        return self.readout(self.fold_in(graph, inputs)), z_y


class BipartiteRecommender(SetRecommender):
    """A set recommender whose network contains the graph of the training compositions."""

    config: BipartiteOptions
    network: ClassVar[type[BipartiteNetwork]]
    _stored_graph: Interactions | None = None

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> BipartiteNetwork:
        rows = self._fitted(self._stored_graph) if data is None else Interactions.of_compositions(data)
        return self.network(self.config, rows, len(vocabulary.services))

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        users, weights = state["graph.users"], state["graph.weights"]
        lengths = np.bincount(users, minlength=len(weights))
        rows = Interactions(
            Ragged.of(lengths), state["graph.items"].astype(np.int64), weights.astype(np.float64),
            len(vocabulary),
        )  # fmt: skip
        if not rows.is_valid() or not np.array_equal(rows.users, users):
            raise ValueError("links that do not belong to the vocabulary")
        self._stored_graph = rows
        super()._restore(state, vocabulary, graph)
