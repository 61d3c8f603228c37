"""Networks that are trained by gradient descent, and the recommenders that they belong to."""

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
    """Contexts laid out for a network: n units, each computed in one pass, answer them all.

    A unit may answer several contexts: a path answers its prefixes, a DAG its open nodes.
    """

    @property
    def sizes(self) -> Ids:
        """[n] nodes of each unit."""

    def take(self, units: Ids) -> tuple[Any, Ids]:
        """What the network reads of these units (a tuple, tensors on the CPU among its fields), and the
        numbers of the contexts that it then answers, in the order of its states. [R]"""


class Network(nn.Module, ABC):
    """From inputs to one state a context, and from states to scores."""

    has_prior_weights: ClassVar[bool] = False
    """Whether the first weights are an answer already. Where a part is held out, training then has to
    beat them: they are its epoch 0."""

    @abstractmethod
    def states(self, inputs: Any) -> Tensor:
        """[R, H], one row for each context that the inputs ask about. From the parameters, each time:
        nothing that was computed in an earlier step may stand in for it."""

    @abstractmethod
    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        """[R, C]; or [R, K] for ``columns`` [K] alone, at the cost of these."""

    def begin_epoch(self, number: int) -> None:
        """Told before each epoch of a training, counted from 0: for what is drawn once an epoch."""

    def hard_negatives(self, inputs: Any) -> Tensor | None:
        """[R, n] services that count as negatives of each context beside those drawn, -1 for none; in
        training alone. Draws are from torch's current generator."""

    def penalty(self, inputs: Any, states: Tensor, rows: Tensor, columns: Tensor) -> Tensor | None:
        """What the loss of an example gets on top, if anything: a scalar, or [P] for each of the pairs
        (``rows``, ``columns``) of the batch: rows of the states, and the services that followed."""

    def embeddings(self) -> dict[str, Tensor]:
        """nodes: [V, D], the network's own tables of node ids side by side; services: [C, H], the
        weights of its head. Where it has them; a subclass may compute others."""
        parts = list(self.children())
        tables = [part.weight for part in parts if isinstance(part, NodeEmbedding)]
        heads = [part.weights() for part in parts if isinstance(part, Head)]
        found = {"nodes": torch.cat(tables, dim=1)} if tables else {}
        return found | ({"services": torch.cat(heads, dim=1)} if heads else {})

    def forward(self, inputs: Any) -> Tensor:
        scores: Tensor = self.scores(self.states(inputs))
        return scores


class NodeEmbedding(nn.Embedding):
    """One vector a node id; padding is zero."""

    def __init__(self, nodes: int, width: int) -> None:
        super().__init__(nodes, width, padding_idx=PADDING)

    def set_unknown_to_mean(self) -> None:
        """No training context holds an unknown node; the centre of all others stands for it."""
        with torch.no_grad():
            self.weight[UNKNOWN] = self.weight[FIRST_SERVICE:].mean(dim=0)


class Head(nn.Module):
    """A linear score for each service: s(y) = w_y . h + b_y.

    With ``tied`` embeddings, w_y is the embedding of service y, and ``width`` that of the embedding.
    """

    def __init__(self, width: int, services: int, tied: NodeEmbedding | None = None) -> None:
        super().__init__()
        self.services = services
        self.bias = nn.Parameter(torch.zeros(services))
        # The embedding belongs to the network; as a submodule it would be stored twice.
        self._tied = [] if tied is None else [tied]
        if tied is None:
            self.weight = nn.Parameter(torch.empty(services, width))
            bound = width**-0.5
            nn.init.uniform_(self.weight, -bound, bound)
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        """states: [R, H]; columns: [K] or None for all. Returns [R, K] or [R, C]."""
        weight, bias = self.weights(), self.bias
        if columns is None:
            return nn.functional.linear(states, weight, bias)
        return nn.functional.linear(states, weight[columns], bias[columns])

    def weights(self) -> Tensor:
        """[C, H]"""
        if self._tied:
            return self._tied[0].weight[FIRST_SERVICE : FIRST_SERVICE + self.services]
        return self.weight


class Learner(Protocol):
    """A recommender as training sees it; ``dagrec.models.network.NetworkRecommender`` is one."""

    name: ClassVar[str]
    config: TrainingOptions
    seed: int

    @property
    def augmentation(self) -> Augmentation | None:
        """How contexts are varied from epoch to epoch, where they are."""

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> Network:
        """The network with its initial weights."""

    def units(self, contexts: Contexts, *, training: bool) -> Units:
        """Contexts laid out for the network. In training, contexts may share units."""

    def key(self, context: Context) -> Hashable:
        """What the network can tell of a context: examples that agree in it are trained as one."""

    def read(self, contexts: Contexts, vocabulary: Vocabulary) -> Contexts:
        """The contexts with the nodes that the network reads."""

    def finish(self, network: Network) -> None:
        """Complete a trained network before it scores."""
