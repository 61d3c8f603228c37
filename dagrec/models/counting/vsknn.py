"""V-SKNN: vector multiplication session kNN (Ludewig and Jannach 2018, arXiv 1803.09587).

    w_v = (L - t_v + 1) / L                       node v of a context of L nodes, t_v from the end
    similarity(c, n) = sum_{v in c and n} w_v / sum_{v in c} w_v
    decay(t, d) = 1 / (t d)^fade

t is the position of the match, the newest node that context and session share, in steps from the end of
the context; d is the number of steps from the match to the service in the session. As in the paper, the
weights of the nodes increase linearly towards the end of the context, and a neighbour counts less if
its match is older. Adaptations to compositions: only services after the match are recommended (in the
paper all of the session), close ones most, and services of the context stay candidates. Sessions are
not sampled by recency; all are used.

``dagrec.models.counting.neighbours`` defines how scores are computed from neighbours.
In: contexts [B, L]. Out: log P [B, C].
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dagrec.models.base import Traits
from dagrec.models.counting.neighbours import NeighbourOptions, NeighbourRecommender, Sessions
from dagrec.types import Floats, Ids


class VSKNNConfig(NeighbourOptions):
    """Hyperparameters of V-SKNN."""

    fade: float = Field(
        2.0,
        ge=0,
        description="power of the decay with the steps back to the match and from it to the service",
    )


class VSKNN(NeighbourRecommender):
    """Session kNN in which the latest nodes of the context weigh most.

    Use it if compositions repeat parts of earlier ones; it needs no training beyond counting.
    """

    name = "vsknn"
    paper = "Ludewig and Jannach 2018, arXiv 1803.09587"
    Config = VSKNNConfig
    traits = Traits(order_aware=True)
    config: VSKNNConfig

    def weights(self, steps: Ids, lengths: Ids) -> Floats:
        weights: Floats = (lengths - steps + 1) / lengths
        return weights

    def similarities(self, shared: Floats, sums: Floats, squares: Floats, sessions: Sessions) -> Floats:
        similarities: Floats = shared / sums[:, None]
        return similarities

    def decay(self, steps: Ids, distances: Ids) -> Floats:
        factors: Floats = (steps * distances).astype(np.float64) ** -self.config.fade
        return factors
