"""Interfaces of networks that are trained by gradient descent, and of their recommenders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, UNKNOWN, Contexts, Vocabulary
from dagrec.training.augmentation import Augmentation
from dagrec.training.data import TrainingData
from dagrec.training.options import TrainingOptions
from dagrec.types import Ids


class Units(Protocol):
    """Contexts as n units, each of which the network computes in one pass.

    A unit can contain several contexts: a path contains its prefixes, and a DAG its frontiers.
    """

    @property
    def sizes(self) -> Ids:
        """[n] number of nodes of each unit."""

    def take(self, units: Ids) -> tuple[Any, Ids]:
        """The inputs of the network for some units, and the contexts in them.

        The inputs are a tuple with tensors on the CPU. The contexts are [R] numbers, in the order of
        the network's states.
        """


class Network(nn.Module, ABC):
    """A module that computes a state for each context, and scores from states."""

    has_prior_weights: ClassVar[bool] = False
    """Whether the initial weights give useful scores.

    If so, and a part is held out, they are validated as epoch 0 and training must improve on them.
    """

    @abstractmethod
    def states(self, inputs: Any) -> Tensor:
        """[R, H] one state for each context of the inputs.

        It must be computed from the current parameters; values from earlier steps must not be reused.
        """

    @abstractmethod
    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        """[R, C] scores, or [R, K] for some ``columns`` [K] only, at a lower cost."""

    def begin_epoch(self, number: int) -> None:
        """Prepare an epoch of training, counted from 0. Called before each epoch."""

    def hard_negatives(self, inputs: Any) -> Tensor | None:
        """[R, n] additional negatives of each context, -1 for none. Called in training only.

        Random numbers must be drawn from torch's current generator.
        """

    def penalty(self, inputs: Any, states: Tensor, rows: Tensor, columns: Tensor) -> Tensor | None:
        """An additional term of the loss of each example, if any.

        rows, columns: [P] row of the state and service column of each pair of the batch. The result is
        a scalar, or [P] with one value per pair.
        """

    def embeddings(self) -> dict[str, Tensor]:
        """The embeddings of the network, as far as it has them.

        nodes: [V, D], all node embeddings of the network, concatenated; services: [C, H], the weights
        of its heads. Subclasses may compute others.
        """
        parts = list(self.children())
        tables = [part.weight for part in parts if isinstance(part, NodeEmbedding)]
        heads = [part.weights() for part in parts if isinstance(part, Head)]
        nodes = {"nodes": torch.cat(tables, dim=1)} if tables else {}
        services = {"services": torch.cat(heads, dim=1)} if heads else {}
        return nodes | services

    def forward(self, inputs: Any) -> Tensor:
        scores: Tensor = self.scores(self.states(inputs))
        return scores


class NodeEmbedding(nn.Embedding):
    """An embedding of node ids; that of padding is zero."""

    def __init__(self, nodes: int, width: int) -> None:
        super().__init__(nodes, width, padding_idx=PADDING)

    def set_unknown_to_mean(self) -> None:
        """Set the embedding of the unknown node, which never occurs in training, to the mean."""
        with torch.no_grad():
            self.weight[UNKNOWN] = self.weight[FIRST_SERVICE:].mean(dim=0)


class Head(nn.Module):
    """A linear layer from states to scores: s(y) = w_y . h + b_y.

    If ``tied`` is given, w_y is its embedding of service y, and ``width`` must be that of the
    embedding.
    """

    def __init__(self, width: int, services: int, tied: NodeEmbedding | None = None) -> None:
        super().__init__()
        self.services = services
        self.bias = nn.Parameter(torch.zeros(services))
        # In a list the embedding is not a submodule, which would store it twice.
        self._tied = [] if tied is None else [tied]
        if tied is None:
            self.weight = nn.Parameter(torch.empty(services, width))
            bound = width**-0.5
            nn.init.uniform_(self.weight, -bound, bound)
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        """The scores [R, C] of states [R, H], or [R, K] for some ``columns`` [K] only."""
        weight, bias = self.weights(), self.bias
        if columns is None:
            return nn.functional.linear(states, weight, bias)
        return nn.functional.linear(states, weight[columns], bias[columns])

    def weights(self) -> Tensor:
        """[C, H] the weights w_y."""
        if self._tied:
            return self._tied[0].weight[FIRST_SERVICE : FIRST_SERVICE + self.services]
        return self.weight


class Learner(Protocol):
    """What training needs of a recommender; see ``dagrec.models.network.NetworkRecommender``."""

    name: ClassVar[str]
    config: TrainingOptions
    seed: int

    @property
    def augmentation(self) -> Augmentation | None:
        """The augmentation of training contexts, if any."""

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> Network:
        """Return the network with its initial weights."""

    def units(self, contexts: Contexts, *, training: bool) -> Units:
        """Arrange contexts in units. In training, contexts may share units."""

    def key(self, context: Context) -> Hashable:
        """Return a key that is equal for contexts which the network does not distinguish."""

    def read(self, contexts: Contexts, vocabulary: Vocabulary) -> Contexts:
        """Return the contexts with the nodes that the network reads."""

    def finish(self, network: Network) -> None:
        """Complete a trained network before it is used for predictions."""
