"""What all recommenders share whose parameters are found by gradient descent.

A recommender of this kind says three things: how its :class:`Network` is built, how contexts are laid
out for it (:class:`Units`), and what of a context it can tell apart (``key``). Training, scoring,
storing and restoring follow from these, and are written here and in ``dagrec.training`` once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import ClassVar

import numpy as np
import torch

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST, Contexts, Vocabulary
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
"""Pairs of nodes of one unit that are scored in one pass, roughly; a bound on memory."""


class NetworkRecommender(Recommender):
    """A recommender around a network; see the module."""

    Config: ClassVar[type[TrainingOptions]]
    config: TrainingOptions

    _network: Network | None = None
    _graph: ServiceGraph | None = None

    @abstractmethod
    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> Network:
        """The network with its first weights. ``data`` is None where learned values replace them."""

    @abstractmethod
    def units(self, contexts: Contexts, *, training: bool) -> Units:
        """Contexts laid out for the network. In training, contexts may share units."""

    def key(self, context: Context) -> Hashable:
        """What the network can tell of a context: examples that agree in it are trained as one."""
        return context.path

    def read(self, contexts: Contexts, vocabulary: Vocabulary) -> Contexts:
        """The contexts with the nodes that the network reads; the path, unless a subclass says more."""
        return contexts

    @property
    def graph(self) -> ServiceGraph:
        """The graph of the training data, from the moment when fitting starts."""
        return self._fitted(self._graph)

    @property
    def augmentation(self) -> Augmentation | None:
        """How contexts are varied from epoch to epoch, where they are."""
        return None

    def _fit(self, data: TrainingData) -> None:
        before = self._network, self._graph
        # Nothing of an earlier fit may answer beside the new graph, whatever happens.
        self._network, self._graph = None, data.graph
        try:
            self._network, self.history = train(self, data)
        except BaseException as error:
            if isinstance(error, NumericalError) and error.last_good is not None:
                self._network, self.history = error.last_good
            else:
                self._network, self._graph = before
            raise

    def finish(self, network: Network) -> None:
        """Give the unknown node its vector, unless augmentation has trained one."""
        if self.augmentation is None or not self.augmentation.node_mask:
            for module in network.modules():
                if isinstance(module, NodeEmbedding):
                    module.set_unknown_to_mean()

    def _score(self, contexts: Contexts) -> Scores:
        network, vocabulary = self._fitted(self._network), self.graph.vocabulary
        scores = np.empty((len(contexts), len(self._fitted(self._prior))), dtype=np.float32)
        units = self.units(self.read(contexts, vocabulary), training=False)
        # Units are cut where another so many pairs of nodes are full.
        full = np.cumsum(np.asarray(units.sizes) ** 2) // PAIRS_PER_PASS
        with torch.inference_mode():
            for part in np.split(np.arange(len(full)), np.flatnonzero(np.diff(full)) + 1):
                inputs, answered = units.take(part)
                scores[answered] = network(inputs).numpy()
        return scores

    def _embeddings(self) -> dict[str, Floats]:
        with torch.inference_mode():
            found = self._fitted(self._network).embeddings()
        if "nodes" in found:
            found["nodes"] = found["nodes"][FIRST:]
        return {name: rows.detach().numpy().astype(np.float64) for name, rows in found.items()}

    def _state(self) -> State:
        network = self._fitted(self._network)
        return {name: tensor.numpy() for name, tensor in network.state_dict().items()}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        self._network, self._graph = None, graph
        # First weights are drawn, and thrown away: nobody else's draws may change by that.
        with torch.random.fork_rng(devices=[]):
            network = self.build(vocabulary, None)
        network.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in state.items()})
        self._network = network.eval()
