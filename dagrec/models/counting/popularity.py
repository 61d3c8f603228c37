"""Popularity: the score of a service is its log frequency, whatever the context.

    s(y) = log( (N(y) + 1) / (N + C) )

N(y) counts the training examples with target y, and N all of them. Adding one keeps the scores of
services that are never targets finite.
In: contexts [B, L], not used. Out: scores [B, C].
"""

from __future__ import annotations

import numpy as np

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State, Traits
from dagrec.training.data import TrainingData
from dagrec.types import Options, Scores


class PopularityConfig(Options):
    """Popularity has no hyperparameters."""


class Popularity(Recommender):
    """Ranks services by their frequency in training.

    Use it as the baseline that every other recommender must beat.
    """

    name = "popularity"
    paper = "baseline"
    Config = PopularityConfig
    traits = Traits()

    def _fit(self, data: TrainingData) -> None:
        """Do nothing; the base class computes the prior."""

    def _score(self, contexts: Contexts) -> Scores:
        prior = self._fitted(self._prior)
        return np.tile(prior.astype(np.float32), (len(contexts), 1))

    def _state(self) -> State:
        return {}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        """Do nothing; the base class restores the prior."""
