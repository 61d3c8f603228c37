"""The base class of recommenders that correct a base recommender by the owner's earlier calls.

Each training example is used as it would have been requested at its time: with the owner's calls up to
then, and with out-of-fold predictions of the base. The base is fitted once without each fold of the
compositions, because its predictions for its own training examples would be too good, and would be
trusted too much. A temperature turns the scores of the base into probabilities.

If the history is empty or has only unknown services, or if no training example has a history, the
scores are exactly those of the base. Nothing about owners is learned or stored: the history comes with
the request, so new calls take effect immediately, without a new fit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import numpy as np
from pydantic import Field

from dagrec.data.examples import Example
from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.metrics.temperature import fit_temperature, log_softmax
from dagrec.models.base import Recommender, State, Traits
from dagrec.models.hybrid.events import ANY, OwnerHistory
from dagrec.models.hybrid.nested import BaseOptions, nest, restore_member
from dagrec.models.hybrid.out_of_fold import out_of_fold
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores

BASE = "base"
TEMPERATURE = "temperature"


class HistoryCorrectorOptions(BaseOptions):
    """The base recommender and the number of folds for its out-of-fold predictions."""

    base: str = Field("markov", description="the recommender to correct")
    folds: int = Field(
        4, ge=2, le=20, description="folds of the training compositions for out-of-fold predictions"
    )


class HistoryExample(NamedTuple):
    """A training example with a history: log p of the base [C] and the column of the target."""

    history: OwnerHistory
    base: Floats
    target: int


class HistoryCorrector(Recommender):
    """A base recommender whose probabilities are corrected if the owner's history is given."""

    Config: ClassVar[type[HistoryCorrectorOptions]]
    traits = Traits(order_aware=True, owner_aware=True)
    config: HistoryCorrectorOptions

    _base: Recommender | None = None
    _temperature: float
    _columns: Mapping[str, int]
    _learned: State | None
    """The result of :meth:`_learn`; None if there is nothing to correct with."""

    @abstractmethod
    def _learn(self, examples: list[HistoryExample]) -> State:
        """Return the learned values by name; empty if nothing can be learned from the examples."""

    @abstractmethod
    def _correct(self, histories: list[OwnerHistory], base: Floats) -> Floats:
        """Return corrected log-probabilities [n, C] for n histories, each with a known service.

        base: [n, C] log-probabilities of the base.
        """

    @abstractmethod
    def _load(self, learned: State, services: int) -> None:
        """Load the result of :meth:`_learn`. Raises :class:`ValueError` if it is invalid."""

    def _new_base(self) -> Recommender:
        return self.config.new_base(self.seed)

    def _fit(self, data: TrainingData) -> None:
        base = self._new_base().fit(data)
        temperature, examples = self._out_of_fold(data)
        learned = self._learn(examples) if examples else {}
        if learned:
            self._load(learned, len(data.vocabulary.services))
        self._base, self._temperature, self._learned = base, temperature, learned or None
        self._columns = data.vocabulary.columns
        self.history = base.history

    def _out_of_fold(self, data: TrainingData) -> tuple[float, list[HistoryExample]]:
        """Return the temperature of the base, and the examples with a history and predictions."""
        columns = data.vocabulary.columns
        if not any(example.context.history for example in data.examples):
            return 1.0, []
        histories: list[OwnerHistory] = []
        scores, targets = [], []

        def has_history(example: Example) -> bool:
            return bool(OwnerHistory.of(example.context, columns).supported[ANY])

        folds = out_of_fold(data, self.config.folds, self.seed, keep=lambda _: has_history)
        for fold in folds:
            scores.append(fold.scores(self._new_base()))
            targets.append(fold.targets)
            histories += [OwnerHistory.of(context, columns) for context in fold.contexts.origins]
        if not histories:
            return 1.0, []
        all_targets, all_scores = np.concatenate(targets), np.concatenate(scores)
        temperature = fit_temperature(all_scores, all_targets)
        log_p = log_softmax(all_scores / temperature)
        return temperature, list(map(HistoryExample, histories, log_p, all_targets.tolist()))

    def _score(self, contexts: Contexts) -> Scores:
        base = self._fitted(self._base)
        scores = base.score(contexts)
        if self._learned is None:
            return scores
        histories = [OwnerHistory.of(context, self._columns) for context in contexts.origins]
        rows = np.array([history.supported[ANY] for history in histories])
        if rows.any():
            log_p = log_softmax(scores[rows].astype(np.float64) / self._temperature)
            known = [history for history in histories if history.supported[ANY]]
            scores = scores.copy()
            scores[rows] = self._correct(known, log_p)
        return scores

    def _state(self) -> State:
        state = nest(BASE, self._fitted(self._base).state())
        state[TEMPERATURE] = np.array([self._temperature])
        return state | (self._learned or {})

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        base = restore_member(BASE, self._new_base(), state, vocabulary, graph)
        learned = {name: array for name, array in state.items() if not name.startswith(f"{BASE}/")}
        temperature = learned.pop(TEMPERATURE)
        if temperature.shape != (1,) or not temperature[0] > 0:
            raise ValueError("a temperature that is not one number above 0")
        if learned:
            self._load(learned, len(vocabulary.services))
        self._base, self._temperature, self._learned = base, float(temperature[0]), learned or None
        self._columns = vocabulary.columns
