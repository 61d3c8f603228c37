"""What factorisation and graph recommenders share: a set of nodes plays the user, services are the
items.

    s(y) = < z_x, z_y > + < L_f, T_y > + b_y

z_x is computed from the set x by a subclass, z_y is service y's. A set at serving time is nobody's: no
row of a table stands for it. What stands for it is made of its nodes' vectors, in training and in
serving alike (FISM's fold-in). The second term (``last = true``) is a factorised Markov chain beside
it, for what a set cannot tell: which node f is the last.
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

INIT = 0.1
"""Standard deviation of first vectors: small enough that first scores are near 0."""


class FactorOptions(SetOptions, PairwiseOptions):
    """Widths, regularisation, and the optimisation of these recommenders."""

    width: int = Field(64, ge=1, description="width of the vectors")
    dropout: float = Field(0.4, ge=0, lt=1, description="on what stands for the context")
    l2: float = Field(
        1e-4, ge=0, description="weight of the squared vectors of a pair and of a service beside it"
    )
    min_steps: int = Field(600, ge=0, description="on small data, more epochs until there are so many")


class SetInputs(NamedTuple):
    """nodes: [X] node ids of R sets, one set behind the other; rows: [X] set of each; sizes: [R] nodes
    of each, at least 1; last: [R] node id of the frontier."""

    nodes: Tensor
    rows: Tensor
    sizes: Tensor
    last: Tensor


@dataclass(frozen=True)
class SetUnits:
    """One set a context."""

    sets: Sets

    @property
    def sizes(self) -> Ids:
        return self.sets.rows.lengths

    def take(self, units: Ids) -> tuple[SetInputs, Ids]:
        places, rows = self.sets.rows.take(units)
        inputs = SetInputs(
            torch.from_numpy(self.sets.nodes[places]),
            torch.from_numpy(rows),
            torch.from_numpy(self.sizes[units].clip(min=1)),
            torch.from_numpy(self.sets.last[units]),
        )
        return inputs, units


class SetRecommender(NetworkRecommender):
    """A network recommender that reads sets."""

    config: FactorOptions

    def key(self, context: Context) -> Hashable:
        return set_key(context, self.config.read)

    def units(self, contexts: Contexts, *, training: bool) -> SetUnits:
        return SetUnits(Sets.of(contexts, self.graph.vocabulary, self.config.read))


def vectors(nodes: int, width: int) -> NodeEmbedding:
    """A small random vector for each node id."""
    found = NodeEmbedding(nodes, width)
    with torch.no_grad():
        found.weight.normal_(std=INIT)
        found.weight[0] = 0
    return found


def set_sums(values: Tensor, inputs: SetInputs) -> Tensor:
    """[R, D], the sum of ``values`` [X, D] over the nodes of each set."""
    sums = values.new_zeros(len(inputs.last), values.shape[1])
    return sums.index_add(0, inputs.rows, values)


class LastNode(nn.Module):
    """< L_f, T_y > + b_y; the bias alone with ``last = false``."""

    def __init__(self, nodes: int, services: int, width: int, *, last: bool) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(services))
        self.embed = vectors(nodes, width) if last else None
        if last:
            self.weight = nn.Parameter(torch.randn(services, width) * INIT)

    def states(self, last: Tensor) -> Tensor:
        """last: [R] node ids. Returns [R, D], or [R, 0]."""
        if self.embed is None:
            return self.bias.new_zeros(len(last), 0)
        states: Tensor = self.embed(last)
        return states

    def forward(self, states: Tensor, columns: Tensor | None) -> Tensor:
        """[R, K] of the states and ``columns`` [K], or all services."""
        bias = self.bias if columns is None else self.bias[columns]
        if self.embed is None:
            return bias.expand(len(states), -1)
        weight = self.weight if columns is None else self.weight[columns]
        return nn.functional.linear(states, weight, bias)


class FactorNetwork(Network):
    """Sets -> scores [R, C]; a state is z_x and L_f, side by side.

    With ``l2``, the loss of a pair (x, y) gets l2 (|E_x|^2 + |E_y|^2 + mean over all services |E|^2),
    where E are the vectors before anything is computed from them and E_x is the mean over the set: the
    regularisation of BPR's triples, with the negative's term in expectation over uniform draws.
    """

    computed: ClassVar[tuple[str, ...]] = ("_items",)
    embeds: ClassVar[bool] = True
    """Whether nodes have learned vectors E; else a subclass has ``own`` and ``own_services``."""
    _items: tuple[Tensor, ...] = ()

    def __init__(self, config: FactorOptions, nodes: int, services: int) -> None:
        super().__init__()
        self.node_count = nodes
        self.services = services
        self.l2 = config.l2
        if self.embeds:
            self.embed = vectors(nodes, config.width)
        self.last = LastNode(nodes, services, config.width, last=config.last)
        self.drop = nn.Dropout(config.dropout)

    def __getstate__(self) -> dict[str, Any]:
        # What was computed from the parameters is no part of the network.
        return {name: value for name, value in self.__dict__.items() if name not in self.computed}

    @abstractmethod
    def match(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        """z of the contexts [R, D] and of all services [C, D]."""

    def own(self, inputs: SetInputs) -> Tensor:
        """[R, D], the mean of the vectors of each set's nodes."""
        return set_sums(self.embed(inputs.nodes), inputs) / inputs.sizes[:, None]

    def own_services(self) -> Tensor:
        """[C, D], the vectors of the services."""
        return self.embed.weight[FIRST_SERVICE : FIRST_SERVICE + self.services]

    def embeddings(self) -> dict[str, Tensor]:
        """nodes: [V, D], z of a context of each node alone; services: [C, D], z of each."""
        nodes = torch.arange(self.node_count)
        alone = SetInputs(nodes, nodes, torch.ones_like(nodes), nodes)
        return dict(zip(("nodes", "services"), self.match(alone), strict=True))

    def states(self, inputs: SetInputs) -> Tensor:
        z, items = self.match(inputs)
        # Both sides come from one pass over a graph: `scores` belongs to the newest `states`. In a
        # tuple, since torch would store a bare tensor as its own.
        self._items = (items,)
        states: Tensor = self.drop(torch.cat([z, self.last.states(inputs.last)], dim=1))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        (items,) = self._items
        items = items if columns is None else items[columns]
        width = items.shape[1]
        last: Tensor = self.last(states[:, width:], columns)
        return states[:, :width] @ items.T + last

    def penalty(
        self, inputs: SetInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        if not self.l2:
            return None
        context = self.own(inputs).square().sum(dim=1)
        service = self.own_services().square().sum(dim=1)
        return self.l2 * (context[rows] + service[columns] + service.mean())
