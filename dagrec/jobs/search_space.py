"""The search space of each hyperparameter.

A hyperparameter has the same meaning in all recommenders, so they share one table. Hyperparameters that
are not in the table keep their values. Every space contains the default of the recommender; if defaults
differ between recommenders, the space is a range around the default. A hyperparameter whose default is
null can stay null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dagrec.models.registry import recommender_class

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def suggest(self, trial: optuna.Trial, name: str, _default: Any) -> Any:
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True)
class Range:
    """A number between two ends, extended to the default; an integer if both ends are integers."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: optuna.Trial, name: str, default: Any) -> Any:
        ends = [end for end in (self.low, self.high, default) if end is not None]
        low, high = min(ends), max(ends)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, int(low), int(high), log=self.log)
        return trial.suggest_float(name, low, high, log=self.log)


@dataclass(frozen=True)
class Around:
    """A number between default / factor and default * factor, on a logarithmic scale."""

    factor: float

    def suggest(self, trial: optuna.Trial, name: str, default: Any) -> Any:
        low, high = default / self.factor, default * self.factor
        if isinstance(default, int):
            return trial.suggest_int(name, max(1, round(low)), max(1, round(high)), log=True)
        return trial.suggest_float(name, low, high, log=True)


SIZES = Choice((16, 32, 64, 128, 256))
DROPOUT = Range(0.0, 0.6)
YES_OR_NO = Choice((False, True))

SPACE: dict[str, Choice | Range | Around] = {
    # optimisation
    "epochs": Around(3.0),
    "batch_size": Choice((32, 64, 128, 256, 512)),
    "learning_rate": Around(8.0),
    "label_smoothing": Range(0.0, 0.2),
    # sizes of networks
    "embedding": SIZES,
    "hidden": SIZES,
    "width": SIZES,
    "layers": Range(1, 3),
    "heads": Choice((1, 2, 4)),
    "blocks": Range(1, 3),
    "kernel": Range(2, 4),
    "rank": Around(4.0),
    "tied": YES_OR_NO,
    # regularisation
    "dropout": DROPOUT,
    "embedding_dropout": DROPOUT,
    "hidden_dropout": DROPOUT,
    "history_dropout": DROPOUT,
    "neighbour_dropout": DROPOUT,
    "node_dropout": DROPOUT,
    "l2": Around(100.0),
    "shrinkage": Range(0.0, 100.0),
    # counts and neighbours
    "order": Range(1, 12),
    "mu": Range(0.1, 20.0, log=True),
    "fade": Range(0.2, 5.0, log=True),
    "service_decay": Range(0.2, 5.0, log=True),
    "node_decay": Range(0.2, 8.0, log=True),
    "neighbours": Around(5.0),
    "calls": Around(4.0),
    "strength": Around(10.0),
    # propagation
    "teleport": Range(0.0, 0.5),
    "residual": Range(0.0, 0.5),
    "theta": Range(0.1, 1.5),
    "pruned_share": Range(0.0, 0.4),
    "beta": Range(0.5, 8.0),
    "alpha0": Around(30.0),
    "nu": Range(0.0, 1.5),
    "hard_negatives": Range(0, 10),
    "mask_share": Range(0.1, 0.6),
    # trees
    "rounds": Around(4.0),
    "leaves": Around(4.0),
    # text
    "text_dimensions": Choice((32, 64, 128)),
    "text_share": Range(0.0, 0.3),
    # ensembles
    "seeds": Range(2, 8),
    "conditioned": YES_OR_NO,
}


NOTHING: Mapping[str, Any] = MappingProxyType({})
SET = "_is_set"
"""Suffix of the choice whether a hyperparameter is set whose default is null."""


def tunable(name: str, fixed: Mapping[str, Any] = NOTHING) -> dict[str, Choice | Range | Around]:
    """The search spaces of a recommender's hyperparameters, except for ``fixed`` ones."""
    fields = recommender_class(name).Config.model_fields
    spaces = {key: SPACE[key] for key in fields if key in SPACE and key not in fixed}
    if "loss" in fields and fixed.get("loss", fields["loss"].default) != "ce":
        spaces.pop("label_smoothing", None)  # an option of the loss "ce"
    if "alphas" in fields and isinstance(fixed.get("alphas", fields["alphas"].default), list | tuple):
        spaces.pop("layers", None)  # there is one layer for each of the alphas
    return spaces


def defaults(name: str, fixed: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """The values of a trial for which :func:`suggest` returns the defaults."""
    fields = recommender_class(name).Config.model_fields
    values = {key: fields[key].default for key in tunable(name, fixed)}
    unset = {key + SET: False for key, value in values.items() if value is None}
    return unset | {key: value for key, value in values.items() if value is not None}


def suggest(trial: optuna.Trial, name: str, fixed: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """Suggest the hyperparameters of a recommender for a trial, and add the ``fixed`` ones."""
    fields = recommender_class(name).Config.model_fields
    values: dict[str, Any] = {}
    for key, space in tunable(name, fixed).items():
        default = fields[key].default
        if default is None and not trial.suggest_categorical(key + SET, (False, True)):
            values[key] = None
        else:
            values[key] = space.suggest(trial, key, default)
    return {**values, **fixed}
