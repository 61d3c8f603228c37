"""The base class of recommenders that are trained by gradient descent.

A subclass defines how its :class:`Network` is built, how contexts become the network's inputs
(:class:`Units`), and which contexts are equal to the network (``key``). Training, scoring, storing and
restoring are implemented here and in ``dagrec.training``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import ClassVar

import numpy as np
import torch

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE, Contexts, Vocabulary
from dagrec.errors import NumericalError
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State
from dagrec.training.augmentation import Augmentation
from dagrec.training.data import TrainingData
from dagrec.training.loop import train
from dagrec.training.network import Network, NodeEmbedding, Units
from dagrec.training.options import TrainingOptions
from dagrec.types import Floats, Scores

PAIRS_PER_PASS = 2**19
"""Approximate number of node pairs that are scored in one pass; it bounds memory."""


class NetworkRecommender(Recommender):
    """A recommender that trains a network and scores with it."""

    Config: ClassVar[type[TrainingOptions]]
    config: TrainingOptions

    _network: Network | None = None
    _graph: ServiceGraph | None = None

    @abstractmethod
    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> Network:
        """Return the network with initial weights; ``data`` is None if stored weights replace them."""

    @abstractmethod
    def units(self, contexts: Contexts, *, training: bool) -> Units:
        """Return the contexts as inputs of the network. In training, contexts may share units."""

    def key(self, context: Context) -> Hashable:
        """Return what the network reads of a context; examples with equal keys are trained as one."""
        return context.path

    def read(self, contexts: Contexts, vocabulary: Vocabulary) -> Contexts:
        """Return the contexts with the nodes that the network reads; by default those of the path."""
        return contexts

    @property
    def graph(self) -> ServiceGraph:
        """The graph of the training data; available as soon as fitting starts."""
        return self._fitted(self._graph)

    @property
    def augmentation(self) -> Augmentation | None:
        """The augmentation of the training contexts; None if there is none."""
        return None

    def _fit(self, data: TrainingData) -> None:
        previous = self._network, self._graph
        # The network of an earlier fit must never score with the new graph.
        self._network, self._graph = None, data.graph
        try:
            self._network, self.history = train(self, data)
        except BaseException as error:
            if isinstance(error, NumericalError) and error.last_good is not None:
                self._network, self.history = error.last_good
            else:
                self._network, self._graph = previous
            raise

    def finish(self, network: Network) -> None:
        """Set the vector of the unknown node to the mean, unless augmentation has trained it."""
        if self.augmentation is None or not self.augmentation.node_mask:
            for module in network.modules():
                if isinstance(module, NodeEmbedding):
                    module.set_unknown_to_mean()

    def _score(self, contexts: Contexts) -> Scores:
        network, vocabulary = self._fitted(self._network), self.graph.vocabulary
        scores = np.empty((len(contexts), len(self._fitted(self._prior))), dtype=np.float32)
        units = self.units(self.read(contexts, vocabulary), training=False)
        # Each pass takes consecutive units with about PAIRS_PER_PASS pairs of nodes.
        passes = np.cumsum(np.asarray(units.sizes) ** 2) // PAIRS_PER_PASS
        with torch.inference_mode():
            for part in np.split(np.arange(len(passes)), np.flatnonzero(np.diff(passes)) + 1):
                inputs, context_rows = units.take(part)
                scores[context_rows] = network(inputs).numpy()
        return scores

    def _embeddings(self) -> dict[str, Floats]:
        with torch.inference_mode():
            tables = self._fitted(self._network).embeddings()
        if "nodes" in tables:
            tables["nodes"] = tables["nodes"][FIRST_SERVICE:]
        return {name: rows.detach().numpy().astype(np.float64) for name, rows in tables.items()}

    def _state(self) -> State:
        network = self._fitted(self._network)
        return {name: tensor.numpy() for name, tensor in network.state_dict().items()}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        self._network, self._graph = None, graph
        # The initial weights are drawn and replaced; the global random state must not change.
        with torch.random.fork_rng(devices=[]):
            network = self.build(vocabulary, None)
        network.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in state.items()})
        self._network = network.eval()
