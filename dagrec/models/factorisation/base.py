"""The base of factorisation and graph recommenders: sets of nodes are the users, services the items.

    s(y) = < z_x, z_y > + < L_f, T_y > + b_y

z_x is the vector of the set x and z_y that of service y; a subclass computes both. A set at serving
time does not occur in training, so it has no row in an embedding table. Its vector is computed from the
vectors of its nodes, in training and at serving alike (fold-in as in FISM). The second term (with
``last = true``) is a factorised Markov chain, because a set does not contain which node f is the last.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE, Contexts
from dagrec.models.interactions import SetOptions, Sets, set_key
from dagrec.models.network import NetworkRecommender
from dagrec.training.network import Network, NodeEmbedding
from dagrec.training.options import PairwiseOptions
from dagrec.types import Ids

INITIAL_STD = 0.1
"""Standard deviation of initial vectors; it is small, so that initial scores are close to 0."""


class FactorOptions(SetOptions, PairwiseOptions):
    """Hyperparameters of factorisation and of training."""

    width: int = Field(64, ge=1, description="width of the vectors")
    dropout: float = Field(0.4, ge=0, lt=1, description="dropout of the context's vectors")
    l2: float = Field(
        1e-4, ge=0, description="L2 regularisation of the vectors of each pair and of a negative"
    )
    min_steps: int = Field(
        600, ge=0, description="on small data, epochs are added until there are this many steps"
    )


class SetInputs(NamedTuple):
    """R sets of nodes in flat tensors.

    nodes: [X] node ids, set by set; rows: [X] number of the set of each node; sizes: [R] number of
    nodes of each set, at least 1; last: [R] node id of the frontier.
    """

    nodes: Tensor
    rows: Tensor
    sizes: Tensor
    last: Tensor


@dataclass(frozen=True)
class SetUnits:
    """One unit per context: its set."""

    sets: Sets

    @property
    def sizes(self) -> Ids:
        return self.sets.rows.lengths

    def take(self, units: Ids) -> tuple[SetInputs, Ids]:
        positions, rows = self.sets.rows.take(units)
        inputs = SetInputs(
            torch.from_numpy(self.sets.nodes[positions]),
            torch.from_numpy(rows),
            torch.from_numpy(self.sizes[units].clip(min=1)),
            torch.from_numpy(self.sets.last[units]),
        )
        return inputs, units


class SetRecommender(NetworkRecommender):
    """A network recommender whose inputs are sets of nodes."""

    config: FactorOptions

    def key(self, context: Context) -> Hashable:
        return set_key(context, self.config.read)

    def units(self, contexts: Contexts, *, training: bool) -> SetUnits:
        return SetUnits(Sets.of(contexts, self.graph.vocabulary, self.config.read))


def small_embedding(nodes: int, width: int) -> NodeEmbedding:
    """Return an embedding of node ids with small random vectors."""
    embedding = NodeEmbedding(nodes, width)
    with torch.no_grad():
        embedding.weight.normal_(std=INITIAL_STD)
        embedding.weight[0] = 0
    return embedding


def sum_per_set(values: Tensor, inputs: SetInputs) -> Tensor:
    """Return the sums [R, D] of ``values`` [X, D] over the nodes of each set."""
    sums = values.new_zeros(len(inputs.last), values.shape[1])
    return sums.index_add(0, inputs.rows, values)


class LastNodeTerm(nn.Module):
    """The terms < L_f, T_y > + b_y of the scores; only b_y without ``last``."""

    def __init__(self, nodes: int, services: int, width: int, *, last: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(services))
        self.embed = small_embedding(nodes, width) if last else None
        if last:
            self.weight = nn.Parameter(torch.randn(services, width) * INITIAL_STD)

    def states(self, last: Tensor) -> Tensor:
        """Return L_f [R, D], or [R, 0] without ``last``; last: [R] node ids."""
        if self.embed is None:
            return self.bias.new_zeros(len(last), 0)
        states: Tensor = self.embed(last)
        return states

    def forward(self, states: Tensor, columns: Tensor | None) -> Tensor:
        """Return the terms [R, K] for the services ``columns`` [K], or [R, C] for all services."""
        bias = self.bias if columns is None else self.bias[columns]
        if self.embed is None:
            return bias.expand(len(states), -1)
        weight = self.weight if columns is None else self.weight[columns]
        return nn.functional.linear(states, weight, bias)


class FactorNetwork(Network):
    """Sets -> scores [R, C]; a state is [z_x ; L_f].

    With ``l2``, the loss of a pair (x, y) has the term l2 (|E_x|^2 + |E_y|^2 + mean over all services
    |E|^2). E are the embedding vectors, before any computation, and E_x is their mean over the set.
    This is the regularisation of BPR's triples; the negative's term is its expectation over uniform
    draws.
    """

    transient: ClassVar[tuple[str, ...]] = ("_service_factors",)
    """Attributes that are computed from the parameters; they are not pickled."""
    has_embedding: ClassVar[bool] = True
    """Whether nodes have embedding vectors E; otherwise a subclass overrides ``context_vectors`` and
    ``service_vectors``."""
    _service_factors: tuple[Tensor, ...] = ()

    def __init__(self, config: FactorOptions, nodes: int, services: int) -> None:
        super().__init__()
        self.node_count = nodes
        self.services = services
        self.l2 = config.l2
        if self.has_embedding:
            self.embed = small_embedding(nodes, config.width)
        self.last = LastNodeTerm(nodes, services, config.width, last=config.last)
        self.drop = nn.Dropout(config.dropout)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self.transient}

    def context_vectors(self, inputs: SetInputs) -> Tensor:
        """Return E_x: the means [R, D] of the vectors of each set's nodes."""
        return sum_per_set(self.embed(inputs.nodes), inputs) / inputs.sizes[:, None]

    def service_vectors(self) -> Tensor:
        """Return E_y: the vectors [C, D] of the services."""
        return self.embed.weight[FIRST_SERVICE : FIRST_SERVICE + self.services]

    @abstractmethod
    def factors(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        """Return z of the contexts [R, D] and of all services [C, D]."""

    def embeddings(self) -> dict[str, Tensor]:
        """Return z: nodes: [V, D] of contexts with a single node; services: [C, D]."""
        nodes = torch.arange(self.node_count)
        single = SetInputs(nodes, nodes, torch.ones_like(nodes), nodes)
        return dict(zip(("nodes", "services"), self.factors(single), strict=True))

    def states(self, inputs: SetInputs) -> Tensor:
        z_x, z_y = self.factors(inputs)
        # A graph network computes z_x and z_y in one pass, so `scores` uses z_y of the latest `states`.
        # The tuple prevents torch from storing the tensor as part of the module.
        self._service_factors = (z_y,)
        states: Tensor = self.drop(torch.cat([z_x, self.last.states(inputs.last)], dim=1))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        (z_y,) = self._service_factors
        z_y = z_y if columns is None else z_y[columns]
        width = z_y.shape[1]
        last: Tensor = self.last(states[:, width:], columns)
        return states[:, :width] @ z_y.T + last

    def penalty(
        self, inputs: SetInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        if not self.l2:
            return None
        context = self.context_vectors(inputs).square().sum(dim=1)
        service = self.service_vectors().square().sum(dim=1)
        return self.l2 * (context[rows] + service[columns] + service.mean())
