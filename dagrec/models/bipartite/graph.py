"""The bipartite graph of training compositions and nodes, and networks that propagate over it.

U users (training compositions, those with equal sets merged) and V items (node ids) have one vector
each. In layer 0 an item's is learned, E_i; that of a user, or of a context that is asked about, is the
mean of its items' (FISM). Then, layer by layer, each row hears its neighbours:

    user or context u:  heard_u = sum_{i in u} e_i / sqrt(d_u d_i)
    item i:             heard_i = sum_{u holds i} e_u / sqrt(d_u d_i)

which is A e with A = D^-1/2 [[0, R], [R^T, 0]] D^-1/2. A context hears the items' layers and is not
heard itself: it is folded in by the same rule as a user of the graph, in training and in serving alike,
with the items' degrees of the training graph. A subclass says what becomes of what a row hears
(``layer``) and how a row's layers become one vector (``readout``). All of it is computed anew, with
gradient, in every batch.

n merged users are one row e' = sqrt(n) e, whose links have the weight sqrt(n). The matrix stays
symmetric and keeps its spectrum, and items hear exactly what n rows would say. So a layer must be the
same for a row and a positive multiple of it: layer(c row) = c layer(row).
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
    set_sums,
)
from dagrec.models.interactions import Interactions
from dagrec.training.data import TrainingData
from dagrec.types import Ragged


class BipartiteOptions(FactorOptions):
    """Depth, beside the options of factorisation."""

    layers: int = Field(2, ge=0, le=16, description="times that vectors are propagated")


class Links(NamedTuple):
    """The matrix A: values [L] at (targets [L], sources [L]); degrees: [V + U], those of the whole
    graph, in which an item counts compositions and a user its nodes, and a link of a row to itself
    one."""

    sources: Tensor
    targets: Tensor
    values: Tensor
    degrees: Tensor

    def hear(self, rows: Tensor) -> Tensor:
        """A e: [V + U, D]."""
        said = rows[self.sources] * self.values[:, None]
        return said.new_zeros(rows.shape).index_add(0, self.targets, said)


class Bipartite(nn.Module):
    """The graph as buffers. Rows 0 .. V - 1 of what is computed over it are items, then come the users.

    users, items: [m] ends of the links; weights: [U] compositions that each user stands for. With
    ``loops`` every row has a link to itself.
    """

    users: Tensor
    items: Tensor
    weights: Tensor

    def __init__(self, interactions: Interactions, *, loops: bool = False) -> None:
        super().__init__()
        self.nodes = interactions.size
        self.loops = loops
        self.register_buffer("users", torch.from_numpy(interactions.users))
        self.register_buffer("items", torch.from_numpy(interactions.items))
        self.register_buffer("weights", torch.from_numpy(interactions.weights.astype(np.float32)))

    def links(self, kept: Tensor | None = None) -> Links:
        """All links, or those of the graph that has only the links ``kept`` [k]."""
        users, items = self.users, self.items
        if kept is not None:
            users, items = users[kept], items[kept]
        weights = self.weights[users]
        degrees = self.weights.new_zeros(self.nodes + len(self.weights))
        degrees = degrees.index_add(0, items, weights)
        degrees = degrees.index_add(0, self.nodes + users, torch.ones_like(weights)) + self.loops
        users = self.nodes + users
        values = (weights / (degrees[users] * degrees[items])).sqrt()
        # Itself, or nobody.
        own = torch.arange(len(degrees) * self.loops, device=users.device)
        return Links(
            torch.cat([users, items, own]),
            torch.cat([items, users, own]),
            torch.cat([values, values, 1 / degrees[own]]),
            degrees,
        )

    def first(self, items: Tensor) -> Tensor:
        """[V + U, D]: these vectors of the items [V, D], and of each user the mean of its items'."""
        sums = items.new_zeros(len(self.weights), items.shape[1])
        sums = sums.index_add(0, self.users, items[self.items])
        sizes = torch.bincount(self.users, minlength=len(self.weights)).clamp(min=1)
        return torch.cat([items, sums / sizes[:, None]])

    def scales(self) -> Tensor:
        """[V + U, 1]: by how much a row is multiplied for what it stands for; sqrt(n) of n users."""
        return torch.cat([self.weights.new_ones(self.nodes), self.weights.sqrt()])[:, None]


class Rows(NamedTuple):
    """What a layer sees of n rows: own: [n, D] of the layer before; heard: [n, D]; ego: [n, D], layer
    0; roots: [n, 1], square roots of the rows' degrees (in all, of merged users)."""

    own: Tensor
    heard: Tensor
    ego: Tensor
    roots: Tensor


class Propagated(NamedTuple):
    """layers: [V + U, D] each, layer 0 first; summaries: what ``summary`` said of each step;
    degrees."""

    layers: list[Tensor]
    summaries: list[Tensor | None]
    degrees: Tensor


class BipartiteNetwork(FactorNetwork):
    """Sets -> scores [R, C], by way of the graph."""

    loops: ClassVar[bool] = False
    """Whether each row hears itself, too."""
    computed: ClassVar[tuple[str, ...]] = ("_items", "_propagated")
    _propagated: Propagated | None = None

    def __init__(self, config: BipartiteOptions, interactions: Interactions, services: int) -> None:
        super().__init__(config, interactions.size, services)
        self.depth = config.layers
        self.graph = Bipartite(interactions, loops=self.loops)

    @abstractmethod
    def layer(self, number: int, rows: Rows, summary: Tensor | None) -> Tensor:
        """[n, D], the next layer of these rows; ``number`` counts from 0."""

    def readout(self, layers: list[Tensor]) -> Tensor:
        """[n, D] of a row's layers, the ego layer first: their mean, as in LightGCN."""
        return torch.stack(layers).mean(dim=0)

    def first(self, vectors: Tensor) -> Tensor:
        """Layer 0 of rows whose vectors (or means of them) these are: [n, D]."""
        return vectors

    def summary(self, heard: Tensor, roots: Tensor) -> Tensor | None:
        """What a layer needs to know of the whole graph: of all its rows [V + U, D], with their
        roots."""
        return None

    def links(self) -> Links:
        """The links that are heard over."""
        return self.graph.links()

    def train(self, mode: bool = True) -> BipartiteNetwork:
        self._propagated = None
        super().train(mode)
        return self

    def propagate(self) -> Propagated:
        """All layers of the graph's rows. Once it is trained, they are computed once."""
        if self._propagated is not None:
            return self._propagated
        links, scales = self.links(), self.graph.scales()
        roots = scales * links.degrees.sqrt()[:, None]
        ego = self.first(self.graph.first(self.embed.weight)) * scales
        layers, summaries = [ego], []
        for number in range(self.depth):
            heard = links.hear(layers[-1])
            summaries.append(self.summary(heard, roots))
            rows = Rows(layers[-1], heard, ego, roots)
            layers.append(self.layer(number, rows, summaries[-1]))
        found = Propagated(layers, summaries, links.degrees)
        if not self.training and not torch.is_grad_enabled():
            self._propagated = found
        return found

    def fold(self, graph: Propagated, inputs: SetInputs) -> list[Tensor]:
        """All layers of the contexts: [R, D] each."""
        degrees = inputs.sizes[:, None] + float(self.loops)
        items = graph.degrees[inputs.nodes].clamp(min=1)[:, None]
        values = (degrees[inputs.rows] * items).rsqrt()
        layers = [self.first(self.own(inputs))]
        for number, summary in enumerate(graph.summaries):
            heard = set_sums(graph.layers[number][inputs.nodes] * values, inputs)
            if self.loops:
                heard = heard + layers[-1] / degrees
            rows = Rows(layers[-1], heard, layers[0], degrees.sqrt())
            layers.append(self.layer(number, rows, summary))
        return layers

    def embeddings(self) -> dict[str, Tensor]:
        """nodes: [V, D], z of each as an item of the graph; services: [C, D], the same of these."""
        nodes = [layer[: self.graph.nodes] for layer in self.propagate().layers]
        return super().embeddings() | {"nodes": self.readout(nodes)}

    def match(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        graph = self.propagate()
        services = [layer[FIRST_SERVICE : FIRST_SERVICE + self.services] for layer in graph.layers]
        return self.readout(self.fold(graph, inputs)), self.readout(services)


class BipartiteRecommender(SetRecommender):
    """A set recommender whose network keeps the graph of the training compositions."""

    config: BipartiteOptions
    network: ClassVar[type[BipartiteNetwork]]
    _stored: Interactions | None = None

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> BipartiteNetwork:
        rows = self._fitted(self._stored) if data is None else Interactions.of_compositions(data)
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
        self._stored = rows
        super()._restore(state, vocabulary, graph)
