"""STAN: sequence and time aware neighbourhood (Garg et al., SIGIR 2019).

    w_v = exp(-(t_v - 1) / l1)                               node v of the context, t_v from its end
    similarity(c, n) = exp(-a_n / l2) sum_{v in c and n} w_v / sqrt(sum_{v in c} w_v^2) / |n|^size_power
    decay(t, d) = exp(-(d - 1) / l3)

d is how many steps after the node in which the two meet the service came in the session, and a_n how
many days session n is older than the newest that shares a node with c. The three factors are those of
the paper: nodes fade in the context (l1), old sessions fade (l2), and services fade with their distance
in the session (l3); constant factors of the exponents are left out. The paper's |p(y) - p(v)| looks
both ways; here only services that follow the node met are recommended. With ``size_power`` 0.5, and l1,
l2 and l3 null, it is the cosine of session kNN (SKNN).

By default a session is not held against its size (in the paper size_power is 0.5): a context is the
beginning of something, and that what it is near to went on for longer says nothing against it.

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
        2.0, gt=0, description="l1: steps back over which a node's weight falls by e; null: never"
    )
    session_decay: float | None = Field(
        None, gt=0, description="l2: days over which a session's weight falls by e; null: never"
    )
    service_decay: float | None = Field(
        1.0, gt=0, description="l3: steps on over which a service's weight falls by e; null: never"
    )
    size_power: float = Field(
        0.0,
        ge=0,
        le=1,
        description="power of a session's size that divides its similarity; 0.5: cosine",
    )


class STAN(NeighbourRecommender):
    """What followed closely in recent sessions that share the latest nodes."""

    name = "stan"
    paper = "Garg et al. 2019, Sequence and time aware neighborhood for session-based recommendations"
    Config = STANConfig
    traits = Traits(order_aware=True)
    config: STANConfig

    def weights(self, steps: Ids, lengths: Ids) -> Floats:
        return _fading(steps - 1, self.config.node_decay)

    def similarities(self, shared: Floats, sums: Floats, squares: Floats, sessions: Sessions) -> Floats:
        found: Floats = shared / np.sqrt(squares)[:, None] / sessions.sizes**self.config.size_power
        if self.config.session_decay is not None:
            # Sessions without a time do not fade, and nothing fades where no time is known.
            times = np.where((shared > 0) & np.isfinite(sessions.times), sessions.times, -np.inf)
            newest = times.max(axis=1, keepdims=True)
            ages = np.where(np.isfinite(times), newest - sessions.times, 0.0) / DAY
            found *= _fading(ages, self.config.session_decay)
        return found

    def decay(self, steps: Ids, distances: Ids) -> Floats:
        return _fading(distances - 1, self.config.service_decay)


def _fading(amounts: Floats | Ids, over: float | None) -> Floats:
    """exp(-amount / over), 1 where that has no bound."""
    rate = 0.0 if over is None else 1 / over
    found: Floats = np.exp(-rate * amounts)
    return found
