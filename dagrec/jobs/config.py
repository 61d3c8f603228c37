"""The configuration of a run, from a TOML file and overrides of single keys."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from dagrec.data.examples import ExampleOptions
from dagrec.data.formats.base import ReadOptions
from dagrec.errors import ConfigError
from dagrec.graph.mask import MaskPolicy
from dagrec.models.base import Recommender
from dagrec.models.registry import create_labelled
from dagrec.types import Options, validation_message

OptionsT = TypeVar("OptionsT", bound=Options)


class RunConfig(Options):
    """Everything that determines a result, except for the data."""

    seed: int = Field(0, description="seed of splits, sampling and training")
    mask: MaskPolicy = Field(
        MaskPolicy.OBSERVED, description="mask that decides which services may follow"
    )
    calibrate: bool = Field(False, description="evaluate: fit a temperature on held-out training data")
    read: ReadOptions = ReadOptions()
    examples: ExampleOptions = ExampleOptions()
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="label -> hyperparameters; `recommender` names it if the label does not",
    )

    def recommender(self, label: str, *, seed: int | None = None) -> Recommender:
        """An unfitted recommender. Raises :class:`ConfigError` with the label."""
        try:
            return create_labelled(label, self.models[label], seed=self.seed if seed is None else seed)
        except ConfigError as error:
            raise ConfigError(f"models.{label}: {error}") from None

    def check(self) -> RunConfig:
        """Return the configuration. Raises :class:`ConfigError` if a model is invalid."""
        for label in self.models:
            self.recommender(label)
        return self


def load_config(
    file: Path | None = None,
    *,
    overrides: Iterable[str] = (),
    models: Sequence[str] = (),
    changes: dict[str, Any] | None = None,
) -> RunConfig:
    """Load a TOML file, apply nested ``changes``, then ``key=value`` overrides.

    ``models`` selects labels of the file, and adds recommenders with their default hyperparameters.
    The key of an override is a dotted path such as ``examples.max_paths``; the prefix ``models.`` can
    be omitted for a selected label (``gru4rec.epochs``). The value is TOML, ``null``, or a string
    without quotes.
    """
    values = {} if file is None else read_toml(file)
    merge(values, changes or {})
    tables = values.setdefault("models", {})
    if not isinstance(tables, dict):
        raise ConfigError(f"models must be a table of labels, found {tables!r}; write [models.LABEL]")
    if models:
        values["models"] = {label: tables.get(label, {}) for label in models}
    for text in overrides:
        override(values, text)
    try:
        return RunConfig.model_validate(values).check()
    except ValidationError as error:
        raise ConfigError(f"{file or 'options'}: {validation_message(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}" if file else str(error)) from None


def make_options(class_: type[OptionsT], overrides: Iterable[str]) -> OptionsT:
    """The defaults of a configuration, with ``key=value`` overrides."""
    values: dict[str, Any] = {}
    for text in overrides:
        override(values, text)
    try:
        return class_.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"options: {validation_message(error)}") from None


def read_toml(file: Path) -> dict[str, Any]:
    """Read a TOML file. Raises :class:`ConfigError`."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: must be TOML, found {error}; correct it") from None


def merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Update nested values in place; changes that are None are ignored."""
    for key, value in changes.items():
        if isinstance(value, dict):
            table = values.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{key} must be a table, found {table!r}; write [{key}]")
            merge(table, value)
        elif value is not None:
            values[key] = value


def override(values: dict[str, Any], text: str) -> None:
    """Set one ``key=value`` in nested values, in place."""
    key, separator, value = text.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise ConfigError(
            f"an override must be key=value, found {text!r}; write for example gru4rec.epochs=50"
        )
    if path[0] in values.get("models", ()):
        path.insert(0, "models")
    table = values
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"override {text!r}: {part} must be a table, found the value {table!r}")
    table[path[-1]] = _parse_value(value.strip())


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text == "null" else text  # "none" is a mask, so it is not used for None
