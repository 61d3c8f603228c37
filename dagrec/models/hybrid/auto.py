"""Auto: what a user takes who does not want to choose. It picks and blends by held-out training data
alone.

A blend (``dagrec.models.hybrid.blending``) whose candidates are counts, neighbours and networks that
are wrong in different places, and, where the data tell who did what when, recommenders that read an
owner's history. A candidate that the others make superfluous on the held-out folds gets hardly any
weight, is left out, and costs nothing at serving time. With one candidate left, it is that recommender.

In: whatever the members read. Out: log p, [B, C].
"""

from __future__ import annotations

from contextlib import suppress

from pydantic import Field

from dagrec.errors import MissingPackageError
from dagrec.models.base import Recommender
from dagrec.models.hybrid.blending import BlendOptions, BlendRecommender
from dagrec.models.registry import create
from dagrec.training.data import TrainingData

CANDIDATES = ("markov", "vsknn", "ridge", "dagset", "cache", "ranker")


class AutoConfig(BlendOptions):
    """Candidates with their defaults, and how they are blended."""

    candidates: tuple[str, ...] = Field(
        CANDIDATES, min_length=1, description="recommenders that may become members"
    )


class Auto(BlendRecommender):
    """The blend that the data ask for."""

    name = "auto"
    paper = "none; defined in its file"
    Config = AutoConfig
    config: AutoConfig

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.candidates

    def candidates(self) -> dict[str, Recommender]:
        """Those whose packages are installed."""
        installed: dict[str, Recommender] = {}
        for name in self.config.candidates:
            with suppress(MissingPackageError):
                installed[name] = create(name, seed=self.seed)
        return installed

    def usable(self, data: TrainingData) -> dict[str, Recommender]:
        """Without those that this machine cannot run, and without those that read histories where none
        is told: there they are their bases once more."""
        told = any(example.context.history for example in data.examples)
        found = {
            name: member
            for name, member in self.candidates().items()
            if member.missing() is None and (told or not member.traits.owner_aware)
        }
        return found or self.candidates()
