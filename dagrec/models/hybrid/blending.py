"""Blending: a mixture of the probabilities of several recommenders, weighted on held-out training data.

    p(y | c) = sum_m w_m(c) softmax(s_m(c) / T_m)_y

Temperatures and weights are fitted on out-of-fold predictions (``dagrec.models.hybrid.out_of_fold``):
first each member's temperature T_m (``dagrec.metrics.temperature``), then the weights by
expectation-maximisation. On these predictions, the likelihood of the blend is at least that of its best
member. Finally all members are fitted on the whole data.

With ``conditioned`` the weights depend on the number of training examples that continue from the last
node and on the length of the context: counts are reliable if there are many, networks if there are few.
Each group of examples has separate weights; the weights over all examples act as a prior worth
``strength`` examples.

In: as the members. Out: log p, [B, C].
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
from dagrec.models.hybrid.nested import nest, restore_member
from dagrec.models.hybrid.out_of_fold import out_of_fold
from dagrec.models.registry import recommender_class
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options, Scores

SUPPORTS = (1, 5, 25, 125)
"""Group boundaries by the number of training examples that continue from the last node."""
LENGTHS = (2, 3)
"""Group boundaries by the number of nodes of the path."""
GROUPS = (len(SUPPORTS) + 1) * (len(LENGTHS) + 1)


class BlendOptions(Options):
    """How the weights of a blend are fitted."""

    folds: int = Field(
        3, ge=2, le=20, description="folds of the training compositions for out-of-fold predictions"
    )
    conditioned: bool = Field(
        True,
        description="fit weights by the support of the last node and the length of the context",
    )
    strength: float = Field(
        50.0,
        gt=0,
        description="conditioned: weight of the prior (the weights over all examples), in examples",
    )
    min_weight: float = Field(
        0.02, ge=0, lt=0.5, description="members with less weight over all examples are left out"
    )


class BlendRecommender(Recommender):
    """A mixture of recommenders; a subclass defines the candidates."""

    Config: ClassVar[type[BlendOptions]]
    traits = Traits(order_aware=True, graph_aware=True, owner_aware=True)
    config: BlendOptions

    _members: dict[str, Recommender] | None = None
    """The fitted members of the blend, without those that were left out."""
    _temperatures: Floats
    _weights: Floats
    _supports: Floats

    def __init__(self, config: Options | None = None, /, *, seed: int = 0, **options: Any) -> None:
        super().__init__(config, seed=seed, **options)
        self.candidates()  # invalid members raise an error here, not in fit

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """The labels of all configured members."""

    @abstractmethod
    def candidates(self) -> dict[str, Recommender]:
        """Return the unfitted members by label."""

    def usable(self, data: TrainingData) -> dict[str, Recommender]:
        """Return the candidates that suit the data."""
        return self.candidates()

    def _fit(self, data: TrainingData) -> None:
        members = self.usable(data)
        temperatures, likelihoods, groups = self._out_of_fold(members, data)
        weights = mixture_weights(likelihoods)
        kept = weights >= min(self.config.min_weight, weights.max())
        overall, by_group = grouped_weights(likelihoods[:, kept], groups, GROUPS, self.config.strength)
        self._weights = by_group if self.config.conditioned else np.tile(overall, (GROUPS, 1))
        self._temperatures = temperatures[kept]
        self._supports = data.graph.frontier_counts
        self._members = {
            label: self.candidates()[label].fit(data)
            for label, keep in zip(members, kept, strict=True)
            if keep
        }

    def _out_of_fold(
        self, members: dict[str, Recommender], data: TrainingData
    ) -> tuple[Floats, Floats, Ids]:
        """Return temperatures [m], calibrated log p of the targets [n, m], and groups [n]."""
        scores: list[list[Floats]] = [[] for _ in members]
        targets, groups = [], []
        for number, fold in enumerate(out_of_fold(data, self.config.folds, self.seed)):
            targets.append(fold.targets)
            groups.append(group_of(fold.contexts, fold.rest.graph.frontier_counts))
            for scores_of_member, label in zip(scores, members, strict=True):
                member = self.candidates()[label]
                member.seed = self.seed + number
                scores_of_member.append(fold.scores(member))
        if not targets:  # a single composition cannot be held out; all members get equal weights
            return np.ones(len(members)), np.zeros((0, len(members))), np.zeros(0, dtype=np.int64)
        all_targets = np.concatenate(targets)
        temperatures, likelihoods = [], []
        for scores_of_member in scores:
            all_scores = np.concatenate(scores_of_member)
            temperatures.append(fit_temperature(all_scores, all_targets))
            log_p = log_softmax(all_scores / temperatures[-1])
            target_log_p = log_p[np.arange(len(all_targets)), all_targets]
            likelihoods.append(np.maximum(target_log_p, np.log(MIN_PROBABILITY)))
        return np.array(temperatures), np.stack(likelihoods, axis=1), np.concatenate(groups)

    def _score(self, contexts: Contexts) -> Scores:
        members = self._fitted(self._members)
        weights = self._weights[group_of(contexts, self._supports)]
        p = np.zeros((len(contexts), len(self._fitted(self._prior))))
        for i, (member, temperature) in enumerate(
            zip(members.values(), self._temperatures, strict=True)
        ):
            member_p = np.exp(log_softmax(member.score(contexts).astype(np.float64) / temperature))
            p += weights[:, i, None] * np.maximum(member_p, MIN_PROBABILITY)
        scores: Scores = np.log(p).astype(np.float32)
        return scores

    def shares(self, contexts: Contexts) -> dict[str, float]:
        """Return the weight of each member for a single context."""
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
            label: restore_member(label, candidates[label], state, vocabulary, graph)
            for label in labels
        }
        self._weights, self._temperatures, self._supports = weights, temperatures, supports


def group_of(contexts: Contexts, supports: Floats) -> Ids:
    """Return the group [B] of each context, by the support of its last node and its length."""
    by_support = np.digitize(supports[contexts.last], SUPPORTS)
    by_length = np.digitize(contexts.lengths, LENGTHS)
    groups: Ids = by_support * (len(LENGTHS) + 1) + by_length
    return groups
