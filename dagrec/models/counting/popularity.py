"""Popularity: every context gets the same scores, the logarithm of each service's frequency.

    s(y) = log( (N(y) + 1) / (N + C) )

N(y) counts how often y was a target in training; adding one keeps services finite that never were.
In: contexts [B, L], not looked at. Out: scores [B, C].
"""

from __future__ import annotations

import numpy as np

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State, Traits
from dagrec.training.data import TrainingData
from dagrec.types import Options, Scores


class PopularityConfig(Options):
    """Popularity has nothing to choose."""


class Popularity(Recommender):
    """The prior that every recommender falls back to, as a recommender of its own."""

    name = "popularity"
    paper = "baseline"
    Config = PopularityConfig
    traits = Traits()

    def _fit(self, data: TrainingData) -> None:
        """Nothing beyond the prior, which the base has counted."""

    def _score(self, contexts: Contexts) -> Scores:
        prior = self._fitted(self._prior)
        return np.tile(prior.astype(np.float32), (len(contexts), 1))

    def _state(self) -> State:
        return {}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        """The base has restored the prior."""
