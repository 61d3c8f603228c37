"""Simple networks, for tests of training."""

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
NO_DROPOUT = {"embedding_dropout": 0.0, "hidden_dropout": 0.0}
SMALL = {"embedding": 8, "hidden": 8, "layers": 1}


class LastInputs(NamedTuple):
    """last: [R] last node of each context."""

    last: Tensor


@dataclass(frozen=True)
class LastNodeUnits:
    """Units of one context each, of which only the last node is read."""

    contexts: Contexts

    @property
    def sizes(self) -> Ids:
        return self.contexts.lengths

    def take(self, units: Ids) -> tuple[LastInputs, Ids]:
        return LastInputs(torch.from_numpy(self.contexts.last[units])), units


class TableNetwork(Network):
    """A table with one score for each last node and service."""

    def __init__(self, nodes: int, services: int, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((nodes, services), start))

    def states(self, inputs: LastInputs) -> Tensor:
        return self.weight[inputs.last]

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        return states if columns is None else states[:, columns]


class TableConfig(TrainingOptions):
    """Hyperparameters of a table."""

    start: float = Field(0.0, description="initial value of all scores")


class Table(NetworkRecommender):
    """A recommender that only uses the last node of a context."""

    name = "table"
    paper = "none"
    Config = TableConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: TableConfig
    network: ClassVar[type[TableNetwork]] = TableNetwork

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> TableNetwork:  # noqa: ARG002
        return self.network(len(vocabulary), len(vocabulary.services), self.config.start)

    def units(self, contexts: Contexts, *, training: bool) -> LastNodeUnits:  # noqa: ARG002
        return LastNodeUnits(contexts)


class FaultyGRU4Rec(GRU4Rec):
    """A GRU4Rec with a fault just before forward pass number ``pass_`` (from 0) in some processes.

    The fault ``fill`` sets weights to NaN, and ``raise`` raises an exception.
    """

    pass_: int
    fault: Literal["fill", "raise"]
    ranks: tuple[int, ...]
    build_seed = -1
    """The seed of torch's generator when the network was built."""

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> GRUNetwork:
        self.build_seed = torch.initial_seed()
        network = super().build(vocabulary, data)
        passes = count()

        def inject_fault(*_: object) -> None:
            if next(passes) != self.pass_ or RANK not in self.ranks:
                return
            if self.fault == "raise":
                raise RuntimeError(f"the network of process {RANK} is broken")
            with torch.no_grad():
                network.embed.weight.fill_(torch.nan)

        network.embed.register_forward_pre_hook(inject_fault)
        return network


def table(*, seed: int = 0, **options: Any) -> Table:
    return Table(TableConfig(**options), seed=seed)


def gru(*, seed: int = 0, **options: Any) -> GRU4Rec:
    return GRU4Rec(GRU4RecConfig(**{**SMALL, **options}), seed=seed)


def faulty_gru(
    pass_: int,
    fault: Literal["fill", "raise"],
    *,
    ranks: tuple[int, ...] = (0, 1),
    seed: int = 0,
    **options: Any,
) -> FaultyGRU4Rec:
    learner = FaultyGRU4Rec(GRU4RecConfig(**{**SMALL, **options}), seed=seed)
    learner.pass_, learner.fault, learner.ranks = pass_, fault, ranks
    return learner


def on_cpu(**options: Any) -> AbstractContextManager[Runtime]:
    """A runtime on one thread of the CPU without progress, with other ``options`` if given."""
    return use_runtime(Runtime(**{"device": "cpu", "progress": None, **options}))


def fitted(learner: NetworkRecommender, data: TrainingData) -> NetworkRecommender:
    return learner.fit(data)


def network_of(learner: NetworkRecommender) -> Network:
    """The trained network of a recommender."""
    network = learner._network
    assert network is not None
    return network


def mean_loss(learner: NetworkRecommender, data: TrainingData) -> float:
    """The mean negative log-likelihood of the examples, by PyTorch's cross-entropy."""
    scores = torch.from_numpy(learner.score(data.contexts)[data.rows])
    return nn.functional.cross_entropy(scores, torch.from_numpy(data.targets)).item()


def weight_vector(learner: NetworkRecommender) -> Floats:
    """All weights of the trained network as one vector."""
    state = learner.state()
    return np.concatenate([state[name].ravel() for name in sorted(state)]).astype(np.float64)
