"""STAN: sequence and time aware neighbourhood (Garg et al., SIGIR 2019).

    w_v = exp(-(t_v - 1) / l1)                               node v of the context, t_v from its end
    similarity(c, n) = exp(-a_n / l2) sum_{v in c and n} w_v / sqrt(sum_{v in c} w_v^2) / |n|^size_power
    decay(t, d) = exp(-(d - 1) / l3)

d is the number of steps from the match, the newest node that context and session share, to the service
in the session. a_n is the age of session n in days, relative to the newest session that shares a node
with c. The three decays are those of the paper: nodes by their position in the context (l1), sessions
by their age (l2), and services by their distance in the session (l3); constant factors of the exponents
are omitted. The paper's |p(y) - p(v)| covers both directions; here only services after the match are
recommended. With ``size_power`` 0.5, and l1, l2 and l3 null, the similarity is the cosine of session
kNN (SKNN).

``size_power`` is 0 by default (0.5 in the paper): a context is the beginning of a composition, so a
session is not less similar because it continues for longer.

``dagrec.models.counting.neighbours`` defines how scores are computed from neighbours.
In: contexts [B, L]. Out: log P [B, C].
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dagrec.models.base import Traits
from dagrec.models.counting.neighbours import NeighbourOptions, NeighbourRecommender, Sessions
from dagrec.types import Floats, Ids

DAY = 86400.0


class STANConfig(NeighbourOptions):
    """Hyperparameters of STAN."""

    node_decay: float | None = Field(
        2.0,
        gt=0,
        description="l1: number of steps back in the context over which the weight of a node decays by "
        "a factor e; null: no decay",
    )
    session_decay: float | None = Field(
        None,
        gt=0,
        description="l2: age in days over which the weight of a session decays by a factor e; null: no "
        "decay",
    )
    service_decay: float | None = Field(
        1.0,
        gt=0,
        description="l3: number of steps after the match over which the weight of a service decays by "
        "a factor e; null: no decay",
    )
    size_power: float = Field(
        0.0,
        ge=0,
        le=1,
        description="similarities are divided by the size of the session to this power; 0.5: cosine",
    )


class STAN(NeighbourRecommender):
    """Session kNN with decay by position in the context, age of the session and distance in it.

    Use it if compositions repeat parts of earlier ones, and recent sessions or close services matter
    most.
    """

    name = "stan"
    paper = "Garg et al. 2019, Sequence and time aware neighborhood for session-based recommendations"
    Config = STANConfig
    traits = Traits(order_aware=True)
    config: STANConfig

    def weights(self, steps: Ids, lengths: Ids) -> Floats:
        return _exponential_decay(steps - 1, self.config.node_decay)

    def similarities(self, shared: Floats, sums: Floats, squares: Floats, sessions: Sessions) -> Floats:
        similarities: Floats = (
            shared / np.sqrt(squares)[:, None] / sessions.sizes**self.config.size_power
        )
        if self.config.session_decay is not None:
            # Sessions without a time do not decay.
            times = np.where((shared > 0) & np.isfinite(sessions.times), sessions.times, -np.inf)
            newest = times.max(axis=1, keepdims=True)
            ages = np.where(np.isfinite(times), newest - sessions.times, 0.0) / DAY
            similarities *= _exponential_decay(ages, self.config.session_decay)
        return similarities

    def decay(self, steps: Ids, distances: Ids) -> Floats:
        return _exponential_decay(distances - 1, self.config.service_decay)


def _exponential_decay(amounts: Floats | Ids, scale: float | None) -> Floats:
    """Return exp(-amount / scale), or 1 if the scale is None."""
    rate = 0.0 if scale is None else 1 / scale
    factors: Floats = np.exp(-rate * amounts)
    return factors
