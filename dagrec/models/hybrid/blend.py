"""Blend: a mixture of the recommenders that its configuration names; ``dagrec.models.hybrid.blending``
says how. In: whatever the members read. Out: log p, [B, C].
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dagrec.models.base import Recommender
from dagrec.models.hybrid.blending import BlendOptions, BlendRecommender
from dagrec.models.hybrid.nested import make_members


class BlendConfig(BlendOptions):
    """Which recommenders are blended, and how."""

    members: dict[str, dict[str, Any]] = Field(
        {"markov": {}, "dagset": {}},
        min_length=1,
        description="label -> hyperparameters; `recommender` names it where the label does not",
    )


class Blend(BlendRecommender):
    """Counts and networks are wrong in different places."""

    name = "blend"
    paper = "Jacobs 1995, Methods for combining experts' probability assessments"
    Config = BlendConfig
    config: BlendConfig

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.config.members)

    def candidates(self) -> dict[str, Recommender]:
        return make_members(self.config.members, self.seed)
