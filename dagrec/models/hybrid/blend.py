"""Blend: a mixture of configured recommenders.

    p(y | c) = sum_m w_m(c) softmax(s_m(c) / T_m)_y

``dagrec.models.hybrid.blending`` describes how w and T are fitted (after Jacobs 1995).

In: as the members. Out: log p, [B, C].
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dagrec.models.base import Recommender
from dagrec.models.hybrid.blending import BlendOptions, BlendRecommender
from dagrec.models.hybrid.nested import make_members


class BlendConfig(BlendOptions):
    """The members of the blend and how their weights are fitted."""

    members: dict[str, dict[str, Any]] = Field(
        {"markov": {}, "dagset": {}},
        min_length=1,
        description="label -> hyperparameters; `recommender` names it if the label does not",
    )


class Blend(BlendRecommender):
    """A weighted mixture of any recommenders.

    Use it to combine recommenders with different strengths, such as counts and networks.
    """

    name = "blend"
    paper = "Jacobs 1995, Methods for combining experts' probability assessments"
    Config = BlendConfig
    config: BlendConfig

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.config.members)

    def candidates(self) -> dict[str, Recommender]:
        return make_members(self.config.members, self.seed)
