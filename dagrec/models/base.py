"""The base class of all recommenders."""

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
    """What a recommender uses and how it is trained. Callers check these instead of its class."""

    order_aware: bool = False
    graph_aware: bool = False
    owner_aware: bool = False
    needs_text: bool = False
    gradient_trained: bool = False
    deterministic: bool = True


class Recommender(ABC):
    """A model that learns from training data and scores every service for a context. It never masks.

    A subclass defines ``name``, ``paper``, ``Config``, ``traits`` and the abstract methods ``_fit``,
    ``_score``, ``_state`` and ``_restore``.
    """

    name: ClassVar[str]
    """The registry key, which is also the name of the file."""
    paper: ClassVar[str]
    Config: ClassVar[type[Options]]
    traits: ClassVar[Traits]

    def __init__(self, config: Options | None = None, /, *, seed: int = 0, **options: Any) -> None:
        """Take hyperparameters as a ``config`` or as keywords; the others keep their defaults.

        Raises :class:`ConfigError`, which names the hyperparameter, for an unknown name or an invalid
        value.

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
        self.notes: list[str] = []
        """Remarks on the last fit, such as members that were left out."""
        self._prior: Floats | None = None

    def unavailable(self) -> str | None:
        """Return why the recommender cannot be fitted on this machine; None if it can."""
        return None

    @classmethod
    def configure(cls, options: Mapping[str, Any]) -> Options:
        """Return a validated configuration with these hyperparameters.

        Raises :class:`ConfigError` for an unknown name or an invalid value.
        """
        try:
            return cls.Config.model_validate(dict(options))
        except ValidationError as error:
            message = validation_message(error, cls.Config)
            raise ConfigError(f"recommender {cls.name!r}: {message}") from None

    def fit(self, data: TrainingData) -> Self:
        """Fit from scratch; an earlier fit is discarded.

        Networks train under the current :class:`~dagrec.training.runtime.Runtime`. If training fails
        before its first epoch is complete, the earlier fit is kept.
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
        previous = self.history, self._prior
        self.history, self.notes = [], []
        counts = np.bincount(data.targets, minlength=len(data.vocabulary.services))
        self._prior = np.log((counts + 1.0) / (counts.sum() + len(counts)))
        try:
            self._fit(data)
        except BaseException:
            if not self.history:
                self.history, self._prior = previous
            raise
        return self

    def score(self, contexts: Contexts) -> Scores:
        """Return [B, C] finite float32 scores of all services; higher is better.

        A context without a known node gets the logarithm of each service's frequency.
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
        """The number of learned values."""
        return sum(array.size for array in self.state().values())

    def embeddings(self) -> dict[str, Floats]:
        """Return the learned vectors; empty if the recommender learns none.

        nodes: [V - 2, D], one vector per known node in the order of the vocabulary (services, then the
        other nodes); services: [C, H], the output vectors that services are scored with. Either may be
        missing.
        Raises :class:`NotFittedError` before ``fit`` or ``restore``.
        """
        self._fitted(self._prior)
        return {name: np.array(rows, np.float64) for name, rows in self._embeddings().items()}

    def state(self) -> State:
        """Return the learned values by name."""
        prior = self._fitted(self._prior)
        return {PRIOR: prior, **self._state()}

    def restore(
        self, state: Mapping[str, NDArray[np.generic]], vocabulary: Vocabulary, graph: ServiceGraph
    ) -> Self:
        """Restore what :meth:`state` returned. Raises :class:`StoreError` if it does not fit."""
        values = dict(state)
        prior = values.pop(PRIOR, None)
        if prior is None or prior.shape != (len(vocabulary.services),):
            raise StoreError(
                f"{self.name}: its prior must have one value for each of "
                f"{len(vocabulary.services)} services, found "
                f"{'none' if prior is None else prior.shape}; train it again"
            )
        try:
            self._restore(values, vocabulary, graph)
        except (KeyError, ValueError, IndexError, RuntimeError) as error:
            raise StoreError(
                f"{self.name}: the stored values must fit its configuration and vocabulary, "
                f"found {error}; train it again"
            ) from error
        self._prior = prior.astype(np.float64)
        return self

    def save(self, folder: Path, vocabulary: Vocabulary) -> None:
        """Write ``model.json`` (name, configuration, history) and ``tensors.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: np.ascontiguousarray(array) for name, array in self.state().items()}
        save_file(tensors, folder / "tensors.safetensors")
        metadata = {
            "recommender": self.name,
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
            "vocabulary": vocabulary.fingerprint,
            "history": [astuple(epoch) for epoch in self.history],
        }
        (folder / "model.json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(
        cls, folder: Path, metadata: Mapping[str, Any], vocabulary: Vocabulary, graph: ServiceGraph
    ) -> Self:
        """Return the recommender that was saved to a folder; ``metadata`` is its parsed ``model.json``.

        Raises :class:`StoreError` if the files do not fit each other or the vocabulary.
        """
        if metadata.get("vocabulary") != vocabulary.fingerprint:
            raise StoreError(
                f"{folder}: the model must have been trained with the bundle's vocabulary, "
                "found another; publish the bundle again"
            )
        try:
            tensors = load_file(folder / "tensors.safetensors")
            model = cls(cls.Config.model_validate(metadata["config"]), seed=int(metadata["seed"]))
            model.history = [Epoch(*line) for line in metadata.get("history", ())]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            found = validation_message(error) if isinstance(error, ValidationError) else error
            raise StoreError(
                f"{folder}: a stored model must be readable, found {found}; publish the bundle again"
            ) from error
        return model.restore(tensors, vocabulary, graph)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.config!r}, seed={self.seed})"

    def _fitted(self, value: T | None) -> T:
        """Return a learned value. Raises :class:`NotFittedError` if it is None."""
        if value is None:
            raise NotFittedError(
                f"{self.name}: scoring needs a fitted recommender, found an unfitted one; "
                "call fit(data) or load a bundle first"
            )
        return value

    @abstractmethod
    def _fit(self, data: TrainingData) -> None: ...

    @abstractmethod
    def _score(self, contexts: Contexts) -> Scores:
        """Return [B, C] scores for contexts that each have at least one known node."""

    def _embeddings(self) -> dict[str, Floats]:
        return {}

    @abstractmethod
    def _state(self) -> State: ...

    @abstractmethod
    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None: ...


__all__ = ["Recommender", "State", "Traits"]
