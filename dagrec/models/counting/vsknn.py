"""V-SKNN: vector multiplication session kNN (Ludewig and Jannach 2018, arXiv 1803.09587).

    w_v = (L - t_v + 1) / L                       node v of a context of L nodes, t_v from the end
    similarity(c, n) = sum_{v in c and n} w_v / sum_{v in c} w_v
    decay(t, d) = 1 / (t d)^fade

t is how far from the end of the context the node stands in which the two meet, d how many steps after
it the service came in the session. As in the paper, nodes weigh the more the later they stand,
linearly, and a neighbour counts the less the older the node that it shares. Adapted to compositions:
only services that follow the node met are recommended (in the paper all of the session), the next ones
most, and services of the context itself stay candidates. No sample of recent sessions is drawn: all
are looked at. How scores come of these is told in ``neighbours``.

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
        2.0, ge=0, description="power with which the steps back to the node met, and on from it, count"
    )


class VSKNN(NeighbourRecommender):
    """What followed in the sessions that share the latest nodes."""

    name = "vsknn"
    paper = "Ludewig and Jannach 2018, arXiv 1803.09587"
    Config = VSKNNConfig
    traits = Traits(order_aware=True)
    config: VSKNNConfig

    def weights(self, steps: Ids, lengths: Ids) -> Floats:
        found: Floats = (lengths - steps + 1) / lengths
        return found

    def similarities(self, shared: Floats, sums: Floats, squares: Floats, sessions: Sessions) -> Floats:
        found: Floats = shared / sums[:, None]
        return found

    def decay(self, steps: Ids, distances: Ids) -> Floats:
        found: Floats = (steps * distances).astype(np.float64) ** -self.config.fade
        return found
