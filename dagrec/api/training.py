"""What the functions of the Python interface share: options, and where trainings run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from dagrec.config import RunConfig
from dagrec.data.dataset import Dataset
from dagrec.errors import ConfigError, DataError
from dagrec.models.base import Recommender
from dagrec.models.registry import MODELS, RECOMMENDER
from dagrec.progress import EpochProgress, Progress
from dagrec.training.runtime import current_runtime, use_runtime
from dagrec.types import Device, validation_message

Model = str | Recommender
Models = Model | Sequence[Model] | Mapping[str, Model | Mapping[str, Any]]


@contextmanager
def running(progress: bool, device: Device | None = None) -> Iterator[Progress]:
    """Trainings in the block run on a device, and are shown together with the caller's own tasks."""
    runtime = current_runtime()
    with Progress(enabled=progress and runtime.progress == "auto") as bars:
        changes: dict[str, Any] = {"progress": EpochProgress(bars)} if progress else {"progress": None}
        if runtime.progress != "auto":
            changes = {}  # whoever set it wants to be called
        if device is not None:
            changes["device"] = device
        with use_runtime(replace(runtime, **changes)):
            yield bars


def need_dataset(data: object, what: str) -> Dataset:
    """``data``, if it is a data set; raises :class:`DataError` otherwise."""
    if isinstance(data, Dataset):
        return data
    raise DataError(
        f"{what} must be a data set, found {type(data).__name__}; make one with dagrec.read, "
        "from_paths, from_dataframe or from_networkx",
        rule="wrong-type",
    )


def run_config(models: Models, options: Mapping[str, Any], **settings: Any) -> RunConfig:
    """The run of some models, given by name or configured, with example options as ``examples``."""
    examples = settings.pop("examples", "paths")
    values = {
        **settings,
        "examples": {"form": examples} if isinstance(examples, str) else dict(examples),
        "models": _labelled(models, options),
    }
    try:
        return RunConfig.model_validate(values).check()
    except ValidationError as error:
        raise ConfigError(validation_message(error, RunConfig)) from None


def _labelled(models: Models, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Label -> hyperparameters, with the recommender's name where the label does not tell it."""
    if isinstance(models, str | Recommender):
        models = [models]
    labelled: dict[str, dict[str, Any]] = {}
    if isinstance(models, Mapping):
        for label, model in models.items():
            labelled[str(label)] = _options_of(model, options)
        return labelled
    for model in models:
        name = model if isinstance(model, str) else getattr(model, "name", None)
        if name == "all":
            labelled |= {each: _options_of(each, options) for each in MODELS}
            continue
        label, number = str(name), 2
        while label in labelled:
            label, number = f"{name}-{number}", number + 1
        labelled[label] = _options_of(model, options)
    return labelled


def _options_of(model: Model | Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(model, str):
        return {RECOMMENDER: model, **options}
    if isinstance(model, Recommender):
        if options:
            raise ConfigError(
                f"{model.name}: hyperparameters are given once, found {', '.join(options)} beside a "
                "configured recommender; give them to its constructor"
            )
        if MODELS.get(model.name) is None:
            raise ConfigError(
                f"{type(model).__name__}: must be a registered recommender to be evaluated, found "
                f"{model.name!r}, which is not; see docs/extending.md"
            )
        return {RECOMMENDER: model.name, **model.config.model_dump(exclude_unset=True)}
    if isinstance(model, Mapping):
        return {**model, **options}
    raise ConfigError(
        f"a model must be a name, a recommender or its hyperparameters, found {model!r}; "
        f"names are {', '.join(MODELS)}"
    )
