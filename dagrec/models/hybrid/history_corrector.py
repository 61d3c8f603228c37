"""What recommenders share that correct another one, their base, by what the owner did before.

They learn from training examples as if each were asked when it happened: with the owner's calls that
were over by then, and with a base that has not seen its composition. For that the base is fitted once
without each fold of the compositions; a base that had seen the examples would look better than it is,
and be trusted too much. A temperature first makes probabilities of the base's scores.

Where nothing is told of an owner, or only calls of services that nobody knows, and where no training
example told anything, the scores are the base's own, bit by bit. Nothing about owners is learned or
stored: a history is read when it is asked about, so that new calls count at once, without a new fit.
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
from dagrec.models.hybrid.events import ANY, Past
from dagrec.models.hybrid.nested import BaseOptions, nest, restored
from dagrec.models.hybrid.out_of_fold import out_of_fold
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores

BASE = "base"
TEMPERATURE = "temperature"


class OverBaseOptions(BaseOptions):
    """Which recommender is corrected, and on how many folds."""

    base: str = Field("markov", description="recommender that knows nothing of owners")
    folds: int = Field(
        4, ge=2, le=20, description="folds of the training compositions for out-of-fold predictions"
    )


class Question(NamedTuple):
    """A training example: what was told, log p of the base [C], and the column that came."""

    past: Past
    base: Floats
    target: int


class OverBase(Recommender):
    """A base, and what corrects it where an owner's history is told."""

    Config: ClassVar[type[OverBaseOptions]]
    traits = Traits(order_aware=True, owner_aware=True)
    config: OverBaseOptions

    _base: Recommender | None = None
    _temperature: float
    _columns: Mapping[str, int]
    _learned: State | None
    """What :meth:`_learn` gave; None where no example told anything."""

    @abstractmethod
    def _learn(self, questions: list[Question]) -> State:
        """What was learned, by name; empty where these examples teach nothing."""

    @abstractmethod
    def _correct(self, pasts: list[Past], base: Floats) -> Floats:
        """[n, C] log-probabilities, for n histories of which each holds a known service, and the base's
        log-probabilities [n, C]."""

    @abstractmethod
    def _take(self, learned: State, services: int) -> None:
        """Make ready what :meth:`_learn` gave. Raises :class:`ValueError` where it is not whole."""

    def _new_base(self) -> Recommender:
        return self.config.new_base(self.seed)

    def _fit(self, data: TrainingData) -> None:
        base = self._new_base().fit(data)
        temperature, questions = self._out_of_fold(data)
        learned = self._learn(questions) if questions else {}
        if learned:
            self._take(learned, len(data.vocabulary.services))
        self._base, self._temperature, self._learned = base, temperature, learned or None
        self._columns = data.vocabulary.columns
        self.history = base.history

    def _out_of_fold(self, data: TrainingData) -> tuple[float, list[Question]]:
        """The base's temperature, and the examples with a history, with the base's predictions."""
        columns = data.vocabulary.columns
        if not any(example.context.history for example in data.examples):
            return 1.0, []
        pasts: list[Past] = []
        scores, targets = [], []

        def has_history(example: Example) -> bool:
            return bool(Past.of(example.context, columns).supported[ANY])

        folds = out_of_fold(data, self.config.folds, self.seed, keep=lambda _: has_history)
        for fold in folds:
            scores.append(fold.scores(self._new_base()))
            targets.append(fold.targets)
            pasts += [Past.of(context, columns) for context in fold.contexts.origins]
        if not pasts:
            return 1.0, []
        all_targets, values = np.concatenate(targets), np.concatenate(scores)
        temperature = fit_temperature(values, all_targets)
        logs = log_softmax(values / temperature)
        return temperature, list(map(Question, pasts, logs, all_targets.tolist()))

    def _score(self, contexts: Contexts) -> Scores:
        base = self._fitted(self._base)
        scores = base.score(contexts)
        if self._learned is None:
            return scores
        pasts = [Past.of(context, self._columns) for context in contexts.origins]
        told = np.array([past.supported[ANY] for past in pasts])
        if told.any():
            logs = log_softmax(scores[told].astype(np.float64) / self._temperature)
            scores = scores.copy()
            scores[told] = self._correct([past for past in pasts if past.supported[ANY]], logs)
        return scores

    def _state(self) -> State:
        state = nest(BASE, self._fitted(self._base).state())
        state[TEMPERATURE] = np.array([self._temperature])
        return state | (self._learned or {})

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        base = restored(BASE, self._new_base(), state, vocabulary, graph)
        own = {name: array for name, array in state.items() if not name.startswith(f"{BASE}/")}
        temperature = own.pop(TEMPERATURE)
        if temperature.shape != (1,) or not temperature[0] > 0:
            raise ValueError("a temperature that is not one number above 0")
        if own:
            self._take(own, len(vocabulary.services))
        self._base, self._temperature, self._learned = base, float(temperature[0]), own or None
        self._columns = vocabulary.columns
