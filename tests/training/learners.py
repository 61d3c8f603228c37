"""The simplest networks that can be trained, for tests of what trains them."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.network import NetworkRecommender
from dagrec.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig, GRUNetwork
from dagrec.training.data import TrainingData
from dagrec.training.network import Network
from dagrec.training.options import TrainingOptions
from dagrec.training.runtime import Runtime, use_runtime
from dagrec.types import Floats, Ids

RANK = int(os.environ.get("RANK", "0"))
STILL = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
SMALL = {"embedding": 8, "hidden": 8, "layers": 1}


class LastInputs(NamedTuple):
    """last: [R] the last node of each context."""

    last: Tensor


@dataclass(frozen=True)
class Lasts:
    """Each context a unit of its own, of which the last node is all that is read."""

    contexts: Contexts

    @property
    def sizes(self) -> Ids:
        return self.contexts.lengths

    def take(self, units: Ids) -> tuple[LastInputs, Ids]:
        return LastInputs(torch.from_numpy(self.contexts.last[units])), units


class TableNetwork(Network):
    """One score for each service and last node: the simplest network that can learn transitions."""

    def __init__(self, nodes: int, services: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((nodes, services), start))

    def states(self, inputs: LastInputs) -> Tensor:
        return self.weight[inputs.last]

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        return states if columns is None else states[:, columns]


class TableConfig(TrainingOptions):
    """A table, and how it is trained."""

    start: float = Field(0.0, description="every score before training")


class Table(NetworkRecommender):
    """A recommender that knows the last node of a context."""

    name = "table"
    paper = "none"
    Config = TableConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: TableConfig
    network: ClassVar[type[TableNetwork]] = TableNetwork

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> TableNetwork:  # noqa: ARG002
        return self.network(len(vocabulary), len(vocabulary.services), self.config.start)

    def units(self, contexts: Contexts, *, training: bool) -> Lasts:  # noqa: ARG002
        return Lasts(contexts)


class Spoiled(GRU4Rec):
    """A GRU4Rec to which something happens, in some processes, just before the pass number ``pass_``.

    Passes are counted from 0. ``fill`` makes its weights NaN; ``raise`` raises.
    """

    pass_: int
    what: Literal["fill", "raise"]
    ranks: tuple[int, ...]
    seed_inside = -1
    """What torch's generator was seeded with when the network was built."""

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> GRUNetwork:
        self.seed_inside = torch.initial_seed()
        network = super().build(vocabulary, data)
        passes = count()

        def happen(*_: object) -> None:
            if next(passes) != self.pass_ or RANK not in self.ranks:
                return
            if self.what == "raise":
                raise RuntimeError(f"the network of process {RANK} is broken")
            with torch.no_grad():
                network.embed.weight.fill_(torch.nan)

        network.embed.register_forward_pre_hook(happen)
        return network


def table(*, seed: int = 0, **options: Any) -> Table:
    return Table(TableConfig(**options), seed=seed)


def gru(*, seed: int = 0, **options: Any) -> GRU4Rec:
    return GRU4Rec(GRU4RecConfig(**{**SMALL, **options}), seed=seed)


def spoiled(
    pass_: int,
    what: Literal["fill", "raise"],
    *,
    ranks: tuple[int, ...] = (0, 1),
    seed: int = 0,
    **options: Any,
) -> Spoiled:
    learner = Spoiled(GRU4RecConfig(**{**SMALL, **options}), seed=seed)
    learner.pass_, learner.what, learner.ranks = pass_, what, ranks
    return learner


def on_cpu(**options: Any) -> AbstractContextManager[Runtime]:
    """What is fitted inside is trained on one thread of the CPU and in silence, but for ``options``."""
    return use_runtime(Runtime(**{"device": "cpu", "progress": None, **options}))


def fitted(learner: NetworkRecommender, data: TrainingData) -> NetworkRecommender:
    return learner.fit(data)


def network_of(learner: NetworkRecommender) -> Network:
    """The trained network itself, which no caller of a recommender needs."""
    network = learner._network
    assert network is not None
    return network


def mean_loss(learner: NetworkRecommender, data: TrainingData) -> float:
    """Mean negative log-likelihood of single examples, by PyTorch's own cross-entropy."""
    scores = torch.from_numpy(learner.score(data.contexts)[data.rows])
    return nn.functional.cross_entropy(scores, torch.from_numpy(data.targets)).item()


def vector(learner: NetworkRecommender) -> Floats:
    """All weights of the trained network in a row."""
    state = learner.state()
    return np.concatenate([state[name].ravel() for name in sorted(state)]).astype(np.float64)
