"""The contract of a recommender."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dagrec.data.vocabulary import UNKNOWN, Contexts, Vocabulary
from dagrec.errors import ConfigError, DataError, NotFittedError, NumericalError, StoreError
from dagrec.graph.service_graph import ServiceGraph
from dagrec.training.data import TrainingData
from dagrec.training.runtime import Epoch
from dagrec.types import Floats, Options, Scores, validation_message

State = dict[str, NDArray[np.generic]]
PRIOR = "prior"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Traits:
    """What a recommender uses and is; nobody asks for its class instead."""

    order_aware: bool = False
    graph_aware: bool = False
    owner_aware: bool = False
    needs_text: bool = False
    gradient_trained: bool = False
    deterministic: bool = True


class Recommender(ABC):
    """Learns from training data, then scores every service for a context. It never masks.

    A subclass gives ``name``, ``family``, ``paper``, ``Config``, ``traits``, and the four methods
    with a leading underscore; what all recommenders share is written here once.
    """

    name: ClassVar[str]
    """Registry key, file name and heading in the documentation: the same word."""
    paper: ClassVar[str]
    Config: ClassVar[type[Options]]
    traits: ClassVar[Traits]

    def __init__(self, config: Options | None = None, /, *, seed: int = 0, **options: Any) -> None:
        """Hyperparameters are a ``config``, or ``options`` by name; the others keep their defaults.

        Raises :class:`ConfigError` naming the hyperparameter that does not exist or does not fit.

        >>> from dagrec.models import Markov
        >>> Markov(order=2).config.order
        2
        """
        if config is not None and options:
            raise ConfigError(
                f"{self.name}: hyperparameters are a config or keywords, found both; "
                "put them into one of them"
            )
        self.config = self.configure(options) if config is None else config
        self.seed = seed
        self.history: list[Epoch] = []
        self._prior: Floats | None = None

    def missing(self) -> str | None:
        """What this machine lacks for it to fit and score, if anything."""
        return None

    @classmethod
    def configure(cls, options: Mapping[str, Any]) -> Options:
        """A configuration with these hyperparameters. Raises :class:`ConfigError`."""
        try:
            return cls.Config.model_validate(dict(options))
        except ValidationError as error:
            message = validation_message(error, cls.Config)
            raise ConfigError(f"recommender {cls.name!r}: {message}") from None

    def fit(self, data: TrainingData) -> Self:
        """Learn from scratch, whatever was learned before.

        Networks train as the current :class:`~dagrec.training.runtime.Runtime` says. Where training
        fails before anything was learned, what was learned before stays.
        Raises :class:`DataError` for data without examples.
        """
        if not isinstance(data, TrainingData):
            raise DataError(
                f"{self.name}: fit needs TrainingData, found {type(data).__name__}; "
                f"for a data set call dagrec.fit(data, {type(self).__name__}())",
                rule="wrong-type",
            )
        if not data.examples:
            raise DataError(
                f"{self.name}: training needs at least one example, found none", rule="no-examples"
            )
        before = self.history, self._prior
        self.history = []
        counts = np.bincount(data.targets, minlength=len(data.vocabulary.services))
        self._prior = np.log((counts + 1.0) / (counts.sum() + len(counts)))
        try:
            self._fit(data)
        except BaseException:
            if not self.history:
                self.history, self._prior = before
            raise
        return self

    def score(self, contexts: Contexts) -> Scores:
        """[B, C] float32, finite, higher is better, for every service of the vocabulary.

        A context in which nothing is known gets the logarithm of each service's frequency.
        Raises :class:`NotFittedError` before ``fit`` or ``restore``.
        """
        prior = self._fitted(self._prior)
        known = (contexts.nodes > UNKNOWN).any(axis=1)
        if known.all() and len(contexts):
            scores = self._score(contexts)
        else:
            scores = np.tile(prior.astype(np.float32), (len(contexts), 1))
            if known.any():
                scores[known] = self._score(contexts.take(np.flatnonzero(known)))
        if not np.isfinite(scores).all():
            raise NumericalError(
                f"{self.name}: scores must be finite, found NaN or infinity; train it again"
            )
        return scores

    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(array.size for array in self.state().values())

    def embeddings(self) -> dict[str, Floats]:
        """The vectors that it has learned, where it learns vectors; nothing else changes by asking.

        nodes: [V - 2, D], one for each known node in the order of the vocabulary (services, then the
        others); services: [C, H], what each service is scored with. Either may be missing.
        Raises :class:`NotFittedError` before ``fit`` or ``restore``.
        """
        self._fitted(self._prior)
        return {name: np.array(found, np.float64) for name, found in self._embeddings().items()}

    def state(self) -> State:
        """The learned values, by name."""
        prior = self._fitted(self._prior)
        return {PRIOR: prior, **self._state()}

    def restore(
        self, state: Mapping[str, NDArray[np.generic]], vocabulary: Vocabulary, graph: ServiceGraph
    ) -> Self:
        """Take back what :meth:`state` gave. Raises :class:`StoreError` when it does not fit."""
        rest = dict(state)
        prior = rest.pop(PRIOR, None)
        if prior is None or prior.shape != (len(vocabulary.services),):
            raise StoreError(
                f"{self.name}: its prior must have one value for each of "
                f"{len(vocabulary.services)} services, found "
                f"{'none' if prior is None else prior.shape}; train it again"
            )
        try:
            self._restore(rest, vocabulary, graph)
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise StoreError(
                f"{self.name}: the stored values must fit its configuration and vocabulary, "
                f"found {error}; train it again"
            ) from error
        self._prior = prior.astype(np.float64)
        return self

    def save(self, folder: Path, vocabulary: Vocabulary) -> None:
        """Write ``model.json`` (name and configuration) and ``tensors.safetensors`` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(array) for name, array in self.state().items()}
        save_file(tensors, folder / "tensors.safetensors")
        about = {
            "recommender": self.name,
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "vocabulary": vocabulary.fingerprint,
            "history": [astuple(epoch) for epoch in self.history],
        }
        (folder / "model.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls, folder: Path, about: Mapping[str, Any], vocabulary: Vocabulary, graph: ServiceGraph
    ) -> Self:
        """The recommender that was saved in a folder; ``about`` is its parsed ``model.json``.

        Raises :class:`StoreError` when the files do not fit each other or the vocabulary.
        """
        if about.get("vocabulary") != vocabulary.fingerprint:
            raise StoreError(
                f"{folder}: the model must have been trained with the bundle's vocabulary, "
                "found another; publish the bundle again"
            )
        try:
            tensors = load_file(folder / "tensors.safetensors")
            model = cls(cls.Config.model_validate(about["config"]), seed=int(about["seed"]))
            model.history = [Epoch(*line) for line in about.get("history", ())]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{folder}: a stored model must be whole, found {error}; publish the bundle again"
            ) from error
        return model.restore(tensors, vocabulary, graph)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r}, seed={self.seed})"

    def _fitted(self, learned: T | None) -> T:
        if learned is None:
            raise NotFittedError(
                f"{self.name}: it must learn before it can score, found nothing learned; "
                "call fit(data) or load a bundle first"
            )
        return learned

    @abstractmethod
    def _fit(self, data: TrainingData) -> None: ...

    @abstractmethod
    def _score(self, contexts: Contexts) -> Scores:
        """[B, C] for contexts of which each holds at least one known node."""

    def _embeddings(self) -> dict[str, Floats]:
        return {}

    @abstractmethod
    def _state(self) -> State: ...

    @abstractmethod
    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None: ...


__all__ = ["Recommender", "State", "Traits"]
