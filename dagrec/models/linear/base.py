"""What linear recommenders share: scores are products of a context's indicators with a matrix."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from dagrec.data.vocabulary import FIRST, Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State
from dagrec.models.interactions import SetOptions, Sets
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores

DECIMALS = 9
"""Of a score; weights are found by solving for them in double precision."""


class LinearRecommender(Recommender):
    """Scores x W: x [B, I] is a set, and a subclass says what W [I, C] is. Without torch."""

    config: SetOptions
    _weights: Floats | None = None
    _vocabulary: Vocabulary | None = None

    @abstractmethod
    def weights(self, data: TrainingData) -> Floats:
        """[I, C]"""

    def inputs(self, contexts: Contexts, vocabulary: Vocabulary) -> Floats:
        """[B, I]: 1 at each node of the set, and at the mark of its last."""
        sets = Sets.of(contexts, vocabulary, self.config.read)
        return sets.multi_hot(vocabulary, last=self.config.last)

    def width(self, vocabulary: Vocabulary) -> int:
        """I, the number of inputs."""
        return int(self.inputs(vocabulary.encode([]), vocabulary).shape[1])

    def _fit(self, data: TrainingData) -> None:
        self._weights, self._vocabulary = self.weights(data), data.vocabulary

    def _score(self, contexts: Contexts) -> Scores:
        weights, vocabulary = self._fitted(self._weights), self._fitted(self._vocabulary)
        # What differs by the noise of a solve alone is a tie.
        products = np.round(self.inputs(contexts, vocabulary) @ weights, DECIMALS)
        scores: Scores = products.astype(np.float32)
        return scores

    def _state(self) -> State:
        return {"weights": self._fitted(self._weights)}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        weights = state["weights"].astype(np.float64)
        shape = (self.width(vocabulary), len(vocabulary.services))
        if weights.shape != shape:
            raise ValueError(f"weights of shape {weights.shape} where {shape} belongs")
        self._weights, self._vocabulary = weights, vocabulary


def own_items(column: int, vocabulary: Vocabulary, *, last: bool) -> list[int]:
    """The items that are a service themselves: its node and, with ``last``, the node's mark."""
    node = column + FIRST
    return [node, len(vocabulary) + node] if last else [node]
