"""A fitted recommender together with the graph, mask and temperature that its probabilities need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.mask import Masked, MaskPolicy, apply_mask
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender
from dagrec.types import Scores


@dataclass(frozen=True)
class Fitted:
    """A recommender after ``fit``, the graph of its training data, a mask and a temperature.

    ``temperature`` divides the scores before they become probabilities; see
    :mod:`dagrec.metrics.temperature`.
    """

    recommender: Recommender
    graph: ServiceGraph
    mask: MaskPolicy = MaskPolicy.OBSERVED
    temperature: float = 1.0

    @property
    def vocabulary(self) -> Vocabulary:
        return self.graph.vocabulary

    def probabilities(
        self, contexts: Contexts | Sequence[Context], mask: MaskPolicy | None = None
    ) -> Masked:
        """Return the log-probabilities of all services for B contexts, and which the mask allows.

        ``mask`` replaces the default mask of this object. Raises :class:`ConfigError` for mask
        ``catalogue`` without declared links, and :class:`NumericalError` for scores that are not
        finite.
        """
        if not isinstance(contexts, Contexts):
            contexts = self.vocabulary.encode(contexts)
        return apply_mask(
            self.scores(contexts), contexts.last, self.graph, self.mask if mask is None else mask
        )

    def scores(self, contexts: Contexts) -> Scores:
        """Return [B, C] scores divided by the temperature."""
        scores: Scores = self.recommender.score(contexts) / np.float32(self.temperature)
        return scores

    def recommend(
        self, contexts: Contexts | Sequence[Context], k: int = 10, mask: MaskPolicy | None = None
    ) -> list[list[tuple[str, float]]]:
        """Return the k most probable allowed services of each context, with their probabilities.

        Ties keep the order of the vocabulary.
        """
        log_p = self.probabilities(contexts, mask).log_probabilities
        best = np.argsort(-log_p, axis=1, kind="stable")[:, :k]
        services = self.vocabulary.services
        return [
            [
                (services[column], float(np.exp(row[column])))
                for column in columns
                if row[column] > -np.inf
            ]
            for row, columns in zip(log_p, best.tolist(), strict=True)
        ]
