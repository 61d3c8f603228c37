"""Auto: a blend that selects its members on held-out training data.

    p(y | c) = sum_m w_m(c) softmax(s_m(c) / T_m)_y

The candidates of the blend (``dagrec.models.hybrid.blending``) are counts, neighbours and networks with
different strengths and, if the data have owners and times, recommenders that read the owner's history.
A candidate that adds nothing on the held-out folds gets a small weight, is left out, and costs nothing
at serving time. If one candidate remains, auto is that recommender with a temperature.

In: as the members. Out: log p, [B, C].
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
    """The candidates and how their weights are fitted."""

    candidates: tuple[str, ...] = Field(
        CANDIDATES, min_length=1, description="recommenders to choose the members from"
    )


class Auto(BlendRecommender):
    """A blend whose members are selected automatically.

    Use it as the default if you do not want to choose a recommender.
    """

    name = "auto"
    paper = "none; defined in its file"
    Config = AutoConfig
    config: AutoConfig

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.candidates

    def candidates(self) -> dict[str, Recommender]:
        """Return the unfitted candidates whose packages are installed."""
        installed: dict[str, Recommender] = {}
        for name in self.config.candidates:
            with suppress(MissingPackageError):
                installed[name] = create(name, seed=self.seed)
        return installed

    def usable(self, data: TrainingData) -> dict[str, Recommender]:
        """Return the candidates that can run on this machine and suit the data.

        Without histories in the data, recommenders that read histories would equal their bases.
        """
        has_history = any(example.context.history for example in data.examples)
        usable = {
            name: member
            for name, member in self.candidates().items()
            if member.unavailable() is None and (has_history or not member.traits.owner_aware)
        }
        return usable or self.candidates()

    def _fit(self, data: TrainingData) -> None:
        super()._fit(data)
        self.notes = [f"auto left out {name}: {why}" for name, why in self._unavailable().items()]

    def _unavailable(self) -> dict[str, str]:
        """Name -> why it cannot be fitted on this machine."""
        reasons = {}
        for name in self.config.candidates:
            try:
                why = create(name, seed=self.seed).unavailable()
            except MissingPackageError as error:
                why = str(error)
            if why is not None:
                reasons[name] = why
        return reasons
