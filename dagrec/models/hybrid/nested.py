"""Recommenders inside of recommenders: how they are made, stored and restored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import ConfigError, StoreError
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State
from dagrec.models.registry import create, create_labelled
from dagrec.types import Options


class BaseOptions(Options):
    """Which recommender is within, and its hyperparameters."""

    base: str = Field("markov", description="the recommender within")
    base_options: dict[str, Any] = Field({}, description="its hyperparameters")

    @model_validator(mode="after")
    def _base_exists(self) -> Self:
        try:
            self.new_base(0)
        except ConfigError as error:
            raise ValueError(f"base: {error}") from None
        return self

    def new_base(self, seed: int) -> Recommender:
        """An unfitted one."""
        return create(self.base, self.base_options, seed=seed)


def make_members(members: Mapping[str, Mapping[str, object]], seed: int) -> dict[str, Recommender]:
    """Unfitted recommenders of labels with hyperparameters. Raises :class:`ConfigError` for a name or
    hyperparameter that does not exist."""
    return {label: create_labelled(label, options, seed=seed) for label, options in members.items()}


def restored(
    label: str, inner: Recommender, state: State, vocabulary: Vocabulary, graph: ServiceGraph
) -> Recommender:
    """The inner recommender with what :func:`nest` put under its label. Raises :class:`ValueError`."""
    try:
        return inner.restore(nested(label, state), vocabulary, graph)
    except StoreError as error:
        raise ValueError(f"of {label}: {error}") from error


def nest(label: str, state: State) -> State:
    """A member's state under its label."""
    return {f"{label}/{name}": array for name, array in state.items()}


def nested(label: str, state: State) -> State:
    """The state that :func:`nest` put under a label."""
    return {
        name.removeprefix(f"{label}/"): array
        for name, array in state.items()
        if name.startswith(f"{label}/")
    }
