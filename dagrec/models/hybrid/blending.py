"""Blending: a mixture of any recommenders' probabilities, with weights from held-out training data.

    p(y | c) = sum_m w_m(c) softmax(s_m(c) / T_m)_y

Members are weighed on their out-of-fold predictions (``dagrec.models.hybrid.out_of_fold``): each
member's temperature T_m is fitted first (``dagrec.metrics.temperature``), then the weights by
expectation-maximisation: there the blend is no less likely than its best member. Then all members are
fitted on everything.

With ``conditioned`` the weights depend on how often the last node was seen in training and on how long
the context is: counts are right where they are many, networks where they are few. A group of examples
has its own weights, which those over all examples hold back with the force of ``strength`` examples.

In: whatever the members read. Out: log p, [B, C].
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.metrics.temperature import MIN_PROBABILITY, fit_temperature, log_softmax
from dagrec.models.base import Recommender, State, Traits
from dagrec.models.hybrid.mixture import grouped_weights, heaviest_first, mixture_weights
from dagrec.models.hybrid.nested import nest, restored
from dagrec.models.hybrid.out_of_fold import out_of_fold
from dagrec.models.registry import recommender_class
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options, Scores

SUPPORTS = (1, 5, 25, 125)
"""Training examples that continue from the last node, from which on another group begins."""
LENGTHS = (2, 3)
"""Nodes of the path, from which on another group begins."""
GROUPS = (len(SUPPORTS) + 1) * (len(LENGTHS) + 1)


class BlendOptions(Options):
    """How weights are found."""

    folds: int = Field(
        3, ge=2, le=20, description="folds of the training compositions for out-of-fold predictions"
    )
    conditioned: bool = Field(
        True, description="weights depend on the last node's support and the context's length"
    )
    strength: float = Field(
        50.0, gt=0, description="conditioned: examples for which the weights over all examples stand"
    )
    min_weight: float = Field(
        0.02, ge=0, lt=0.5, description="a member with less weight over all examples is left out"
    )


class BlendRecommender(Recommender):
    """A mixture of candidates; a subclass says which."""

    Config: ClassVar[type[BlendOptions]]
    traits = Traits(order_aware=True, graph_aware=True, owner_aware=True)
    config: BlendOptions

    _members: dict[str, Recommender] | None = None
    """The members that are kept."""
    _temperatures: Floats
    _weights: Floats
    _supports: Floats

    def __init__(self, config: Options | None = None, /, *, seed: int = 0, **options: Any) -> None:
        super().__init__(config, seed=seed, **options)
        self.candidates()  # what is wrong with a member is told at once

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The labels of all members that the configuration names."""

    @abstractmethod
    def candidates(self) -> dict[str, Recommender]:
        """Unfitted members by their label, of which some may be left out."""

    def usable(self, data: TrainingData) -> dict[str, Recommender]:
        """The candidates that these data are for."""
        return self.candidates()

    def _fit(self, data: TrainingData) -> None:
        members = self.usable(data)
        temperatures, likelihoods, groups = self._out_of_fold(members, data)
        weights = mixture_weights(likelihoods)
        kept = weights >= min(self.config.min_weight, weights.max())
        overall, own = grouped_weights(likelihoods[:, kept], groups, GROUPS, self.config.strength)
        self._weights = own if self.config.conditioned else np.tile(overall, (GROUPS, 1))
        self._temperatures = temperatures[kept]
        self._supports = data.graph.continued
        self._members = {
            label: self.candidates()[label].fit(data)
            for label, keep in zip(members, kept, strict=True)
            if keep
        }

    def _out_of_fold(
        self, members: dict[str, Recommender], data: TrainingData
    ) -> tuple[Floats, Floats, Ids]:
        """Temperatures [m]; log p of each target by each member, calibrated [n, m]; groups [n]."""
        scores: list[list[Floats]] = [[] for _ in members]
        targets, groups = [], []
        for number, fold in enumerate(out_of_fold(data, self.config.folds, self.seed)):
            targets.append(fold.targets)
            groups.append(group_of(fold.contexts, fold.rest.graph.continued))
            for scores_of_member, label in zip(scores, members, strict=True):
                member = self.candidates()[label]
                member.seed = self.seed + number
                scores_of_member.append(fold.scores(member))
        if not targets:  # nothing can be held out: all members weigh the same
            return np.ones(len(members)), np.zeros((0, len(members))), np.zeros(0, dtype=np.int64)
        all_targets = np.concatenate(targets)
        temperatures, likelihoods = [], []
        for scores_of_member in scores:
            values = np.concatenate(scores_of_member)
            temperatures.append(fit_temperature(values, all_targets))
            logs = log_softmax(values / temperatures[-1])
            of_targets = logs[np.arange(len(all_targets)), all_targets]
            likelihoods.append(np.maximum(of_targets, np.log(MIN_PROBABILITY)))
        return np.array(temperatures), np.stack(likelihoods, axis=1), np.concatenate(groups)

    def _score(self, contexts: Contexts) -> Scores:
        members = self._fitted(self._members)
        weights = self._weights[group_of(contexts, self._supports)]
        p = np.zeros((len(contexts), len(self._fitted(self._prior))))
        for i, (member, temperature) in enumerate(
            zip(members.values(), self._temperatures, strict=True)
        ):
            own = np.exp(log_softmax(member.score(contexts).astype(np.float64) / temperature))
            p += weights[:, i, None] * np.maximum(own, MIN_PROBABILITY)
        scores: Scores = np.log(p).astype(np.float32)
        return scores

    def shares(self, contexts: Contexts) -> dict[str, float]:
        """Member -> weight in the answer to one context."""
        members = self._fitted(self._members)
        (group,) = group_of(contexts, self._supports)
        return heaviest_first(dict(zip(members, self._weights[group].tolist(), strict=True)))

    def _state(self) -> State:
        members = self._fitted(self._members)
        state: State = {
            "kept": np.array([label in members for label in self.labels]),
            "temperatures": self._temperatures,
            "weights": self._weights,
            "supports": self._supports,
        }
        for label, member in members.items():
            state |= nest(label, member.state())
        return state

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        candidates = self.candidates()
        kept = state["kept"].astype(np.bool_)
        weights = state["weights"].astype(np.float64)
        temperatures = state["temperatures"].astype(np.float64)
        supports = state["supports"].astype(np.float64)
        if not (
            kept.shape == (len(self.labels),)
            and weights.shape == (GROUPS, kept.sum())
            and temperatures.shape == (kept.sum(),)
            and supports.shape == (len(vocabulary),)
            and np.isfinite(weights).all()
            and (temperatures > 0).all()
        ):
            raise ValueError("arrays that do not belong together")
        labels = [label for label, keep in zip(self.labels, kept, strict=True) if keep]
        for label in set(labels) - set(candidates):
            recommender_class(label)  # raises an error that names the missing package
        names = {"kept", "weights", "temperatures", "supports"}
        if unknown := {name.split("/")[0] for name in state} - names - set(labels):
            raise ValueError(f"values of {', '.join(sorted(unknown))}, which is no member")
        self._members = {
            label: restored(label, candidates[label], state, vocabulary, graph) for label in labels
        }
        self._weights, self._temperatures, self._supports = weights, temperatures, supports


def group_of(contexts: Contexts, supports: Floats) -> Ids:
    """[B] group of each context, by the support of its last node and its length."""
    by_support = np.digitize(supports[contexts.last], SUPPORTS)
    by_length = np.digitize(contexts.lengths, LENGTHS)
    found: Ids = by_support * (len(LENGTHS) + 1) + by_length
    return found
