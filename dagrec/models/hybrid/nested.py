"""Recommenders that contain others: creating, storing and restoring the inner recommenders."""

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
    """The inner recommender and its hyperparameters."""

    base: str = Field("markov", description="the inner recommender")
    base_options: dict[str, Any] = Field({}, description="hyperparameters of the base")

    @model_validator(mode="after")
    def _base_exists(self) -> Self:
        try:
            self.new_base(0)
        except ConfigError as error:
            raise ValueError(f"base: {error}") from None
        return self

    def new_base(self, seed: int) -> Recommender:
        """Return an unfitted base."""
        return create(self.base, self.base_options, seed=seed)


def make_members(members: Mapping[str, Mapping[str, object]], seed: int) -> dict[str, Recommender]:
    """Return unfitted recommenders from labels and hyperparameters.

    Raises :class:`ConfigError` for an unknown name or hyperparameter.
    """
    return {label: create_labelled(label, options, seed=seed) for label, options in members.items()}


def restore_member(
    label: str, inner: Recommender, state: State, vocabulary: Vocabulary, graph: ServiceGraph
) -> Recommender:
    """Restore a member from its container's state. Raises :class:`ValueError` if it does not fit."""
    try:
        return inner.restore(unnest(label, state), vocabulary, graph)
    except StoreError as error:
        raise ValueError(f"of {label}: {error}") from error


def nest(label: str, state: State) -> State:
    """Return the state of a member with its label as a prefix of the names."""
    return {f"{label}/{name}": array for name, array in state.items()}


def unnest(label: str, state: State) -> State:
    """Return the state of the member with this label; the inverse of :func:`nest`."""
    return {
        name.removeprefix(f"{label}/"): array
        for name, array in state.items()
        if name.startswith(f"{label}/")
    }
