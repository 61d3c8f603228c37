"""The base class of linear recommenders: scores are products of indicators and a weight matrix."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from dagrec.data.vocabulary import FIRST_SERVICE, Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State
from dagrec.models.interactions import SetOptions, Sets
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores

SCORE_DECIMALS = 9
"""Scores are rounded to this precision, because the weights are solutions of linear systems."""


class LinearRecommender(Recommender):
    """A recommender with scores x W, without torch.

    x [B, I] are the indicators of the contexts; a subclass defines W [I, C].
    """

    config: SetOptions
    _weights: Floats | None = None
    _vocabulary: Vocabulary | None = None

    @abstractmethod
    def weights(self, data: TrainingData) -> Floats:
        """Return W [I, C]."""

    def inputs(self, contexts: Contexts, vocabulary: Vocabulary) -> Floats:
        """Return x [B, I]: 1 for each node of the set and, with ``last``, for the mark of the last."""
        sets = Sets.of(contexts, vocabulary, self.config.read)
        return sets.multi_hot(vocabulary, last=self.config.last)

    def width(self, vocabulary: Vocabulary) -> int:
        """Return I, the number of inputs."""
        return int(self.inputs(vocabulary.encode([]), vocabulary).shape[1])

    def _fit(self, data: TrainingData) -> None:
        self._weights, self._vocabulary = self.weights(data), data.vocabulary

    def _score(self, contexts: Contexts) -> Scores:
        weights, vocabulary = self._fitted(self._weights), self._fitted(self._vocabulary)
        # Scores that differ only by numerical error become ties.
        products = np.round(self.inputs(contexts, vocabulary) @ weights, SCORE_DECIMALS)
        scores: Scores = products.astype(np.float32)
        return scores

    def _state(self) -> State:
        return {"weights": self._fitted(self._weights)}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        weights = state["weights"].astype(np.float64)
        shape = (self.width(vocabulary), len(vocabulary.services))
        if weights.shape != shape:
            raise ValueError(f"weights of shape {weights.shape} instead of {shape}")
        self._weights, self._vocabulary = weights, vocabulary


def items_of_service(column: int, vocabulary: Vocabulary, *, last: bool) -> list[int]:
    """Return the items of a service: its node and, with ``last``, the mark of this node as the last."""
    node = column + FIRST_SERVICE
    return [node, len(vocabulary) + node] if last else [node]
