"""One run: the configurations of all rooms together, read from TOML and overridden key by key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from dagrec.data.examples import ExampleOptions
from dagrec.data.formats.draft import ReadOptions
from dagrec.errors import ConfigError
from dagrec.graph.mask import MaskPolicy
from dagrec.models.base import Recommender
from dagrec.models.registry import create_labelled
from dagrec.types import Options, validation_message

OptionsT = TypeVar("OptionsT", bound=Options)


class RunConfig(Options):
    """Everything that decides a result, but the data."""

    seed: int = Field(0, description="of splits, sampling and training")
    mask: MaskPolicy = Field(MaskPolicy.OBSERVED, description="which services may follow")
    calibrate: bool = Field(
        False, description="evaluate: divide scores by a temperature from held-out training data"
    )
    read: ReadOptions = ReadOptions()
    examples: ExampleOptions = ExampleOptions()
    models: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="label -> hyperparameters; `recommender` names it where the label does not",
    )

    def recommender(self, label: str, *, seed: int | None = None) -> Recommender:
        """An unfitted recommender of this run. Raises :class:`ConfigError` naming the label."""
        try:
            return create_labelled(label, self.models[label], seed=self.seed if seed is None else seed)
        except ConfigError as error:
            raise ConfigError(f"models.{label}: {error}") from None

    def check(self) -> RunConfig:
        """Itself, if every model can be made; raises :class:`ConfigError` otherwise."""
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
    """A run from a TOML file, then ``changes`` (nested), then ``key=value`` overrides.

    ``models`` chooses among the file's labels, and adds registered recommenders with their defaults.
    A key is a dotted path (``examples.max_paths``); one that begins with a chosen label belongs to
    that model (``gru4rec.epochs``). A value is TOML; a bare word is a string, but for ``null``.
    """
    values = {} if file is None else read_toml(file)
    merge(values, changes or {})
    own = values.setdefault("models", {})
    if not isinstance(own, dict):
        raise ConfigError(f"models must be a table of labels, found {own!r}; write [models.NAME]")
    if models:
        values["models"] = {label: own.get(label, {}) for label in models}
    for text in overrides:
        override(values, text)
    try:
        return RunConfig.model_validate(values).check()
    except ValidationError as error:
        raise ConfigError(f"{file or 'options'}: {validation_message(error)}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}" if file else str(error)) from None


def make_options(class_: type[OptionsT], overrides: Iterable[str]) -> OptionsT:
    """A configuration with its defaults but for ``key=value`` overrides."""
    values: dict[str, Any] = {}
    for text in overrides:
        override(values, text)
    try:
        return class_.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"options: {validation_message(error)}") from None


def read_toml(file: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises :class:`ConfigError`."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: must be TOML, found {error}; correct it") from None


def merge(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Put nested changes into nested values; a change that is None is no change."""
    for key, value in changes.items():
        if isinstance(value, dict):
            place = values.setdefault(key, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{key} must be a table, found {place!r}; write [{key}]")
            merge(place, value)
        elif value is not None:
            values[key] = value


def override(values: dict[str, Any], text: str) -> None:
    """Put one ``key=value`` into nested values."""
    key, separator, value = text.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise ConfigError(f"an override must be key=value, found {text!r}; e.g. gru4rec.epochs=50")
    if path[0] in values.get("models", ()):
        path.insert(0, "models")
    place = values
    for part in path[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise ConfigError(f"override {text!r}: {part} is a value, and has no keys below it")
    place[path[-1]] = _value(value.strip())


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text == "null" else text  # "none" is the name of a mask
