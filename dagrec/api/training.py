"""What the functions of the Python interface share: models and options, and where trainings run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from typing import Any, get_args

from pydantic import ValidationError

from dagrec.api.arguments import option_names, require_known
from dagrec.data.dataset import Dataset
from dagrec.data.examples import ExampleOptions
from dagrec.data.scalars import describe, nearest_to, quoted, require_key
from dagrec.errors import ConfigError, DataError, did_you_mean
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.config import RunConfig
from dagrec.models.base import Recommender
from dagrec.models.registry import (
    RECOMMENDER,
    model_names,
    recommender_class,
    recommender_name,
    usable_models,
)
from dagrec.output.progress import EpochProgress, Progress
from dagrec.training.data import Candidates
from dagrec.training.runtime import current_runtime, use_runtime
from dagrec.types import Device, validation_message

Model = str | Recommender
Models = Model | Sequence[Model] | Mapping[str, Model | Mapping[str, Any]]
Function = Callable[..., Any]
ALL = "all"
MAX_SEED = 2**31 - 1
"""What every generator of random numbers takes, with room for the seeds of repeats."""


@contextmanager
def running(progress: bool, device: Device | None = None) -> Iterator[Progress]:
    """Trainings in the block run on a device, and are shown together with the caller's own tasks."""
    if device is not None and device not in get_args(Device):
        nearest = nearest_to(device, get_args(Device))
        raise ConfigError(f"device must be auto, cpu or cuda, found {quoted(device)}{nearest}")
    runtime = current_runtime()
    with Progress(enabled=progress and runtime.progress == "auto") as bars:
        changes: dict[str, Any] = {"progress": EpochProgress(bars)} if progress else {"progress": None}
        if runtime.progress != "auto":
            changes = {}  # whoever set it wants to be called
        if device is not None:
            changes["device"] = device
        with use_runtime(replace(runtime, **changes)):
            yield bars


def require_dataset(data: object, what: str) -> Dataset:
    """``data``, if it is a data set; raises :class:`DataError` otherwise."""
    if isinstance(data, Dataset):
        return data
    raise DataError(
        f"{what} must be a data set, found {type(data).__name__}; make one with dagrec.read, "
        "from_paths, from_dataframe or from_networkx",
        rule="wrong-type",
    )


def require_model(model: object, what: str) -> Model:
    """``model``, if it is one name or one recommender; raises :class:`ConfigError` otherwise."""
    if isinstance(model, type) and issubclass(model, Recommender):
        raise ConfigError(f"{what} must be a configured recommender, found its class; {_call(model)}")
    if not isinstance(model, Recommender) and (not isinstance(model, str) or model == ALL):
        found = repr(model) if isinstance(model, str) else type(model).__name__
        raise ConfigError(
            f"{what} must be one name or one configured recommender, found {found}; "
            "write 'markov' or dagrec.models.Markov(); dagrec.evaluate takes several"
        )
    return model


def require_candidates(
    catalogue: object, services: object, mask: str | MaskPolicy, function: str
) -> Candidates:
    """Declared links and services as keys, checked.

    Raises :class:`DataError` for what is neither, and :class:`ConfigError` for mask ``catalogue``
    without links.
    """
    if catalogue is None and mask == MaskPolicy.CATALOGUE:
        raise ConfigError(
            f"{function}: mask 'catalogue' needs declared links, found none; give "
            "catalogue=[(source, service), ...] or choose another mask"
        )
    return Candidates(
        None if catalogue is None else _links(catalogue, f"{function}: catalogue"),
        None if services is None else _texts(services, f"{function}: services"),
    )


def run_config(
    models: Models, options: Mapping[str, Any], function: Function, **settings: Any
) -> RunConfig:
    """The run of some models, given by name or configured, with example options as ``examples``.

    ``options`` are hyperparameters of the models that are given by name: each gets those that it has.
    Raises :class:`ConfigError` for one that none of them has, naming the nearest arguments of
    ``function`` and hyperparameters.
    """
    name = function.__name__
    labelled = _labelled(models, options, function)
    if not labelled:
        raise ConfigError(f"{name}: there must be a model, found none; name one, such as 'markov'")
    example_options = _example_options(settings["examples"], f"{name}: examples")
    if isinstance(settings["seed"], Integral):
        example_options.setdefault("seed", int(settings["seed"]))  # as on the command line
    values = {**settings, "examples": example_options, "models": labelled}
    try:
        config = RunConfig.model_validate(values).check()
    except ValidationError as error:
        raise ConfigError(f"{name}: {validation_message(error, RunConfig)}") from None
    if not 0 <= config.seed <= MAX_SEED:
        raise ConfigError(
            f"{name}: seed must be an integer from 0 to {MAX_SEED:,}, found {describe(config.seed)}; "
            "choose another"
        )
    return config.model_copy(update={"models": _checked(config)})


def _checked(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The models of a run with their hyperparameters as JSON has them: numpy's numbers become plain."""
    models = {}
    for label, own in config.models.items():
        given = config.recommender(label).config.model_dump(mode="json", exclude_unset=True)
        models[label] = {key: given.get(key, value) for key, value in own.items()}
    return models


def _example_options(examples: object, what: str) -> dict[str, Any]:
    if examples is None or isinstance(examples, str):
        return {"form": examples}
    if not isinstance(examples, Mapping):
        raise ConfigError(
            f"{what} must be 'paths', 'links' or a dict of options, found {type(examples).__name__}"
        )
    require_known(map(str, examples), ExampleOptions.model_fields, what)
    return dict(examples)


def _labelled(
    models: Models, options: Mapping[str, Any], function: Function
) -> dict[str, dict[str, Any]]:
    """Label -> hyperparameters, with the recommender's name where the label does not tell it."""
    labelled: dict[str, dict[str, Any]] = {}
    taking: dict[str, dict[str, Any]] = {}
    """Those of the labels whose models take options."""
    for label, model in _pairs(models, function.__name__):
        own = labelled[label] = _own_options(model)
        if not isinstance(model, Recommender):
            taking[label] = own
    fields = [_fields(recommender_name(label, own)) for label, own in taking.items()]
    if options and not taking:
        raise ConfigError(
            f"{function.__name__}: hyperparameters are given once, found {', '.join(options)} beside a "
            "configured recommender; give them to its constructor"
        )
    if all(found is not None for found in fields):
        names = dict.fromkeys(name for found in fields for name in found or ())
        _require_taken(options, list(names), taking, function)
    for own, found in zip(taking.values(), fields, strict=True):
        own.update({k: v for k, v in options.items() if k in (found or ()) and k not in own})
    for label, own in labelled.items():
        if own.get(RECOMMENDER) == label:
            del own[RECOMMENDER]  # the same configuration as on the command line
    return labelled


def _pairs(models: object, function: str) -> Iterator[tuple[str, object]]:
    """Labels, which are different, and what was given for each."""
    if isinstance(models, Mapping):
        yield from ((str(label), model) for label, model in models.items())
        return
    items = [models] if isinstance(models, str | Recommender) else models
    if isinstance(items, bytes | type) or not isinstance(items, Iterable):
        found = f"a class; {_call(items)}" if isinstance(items, type) else type(items).__name__
        raise ConfigError(
            f"{function}: models must be names and configured recommenders, in a list or, with labels, "
            f"in a dict, found {found}"
        )
    seen: set[str] = set()
    for item in items:
        for model in usable_models() if isinstance(item, str) and item == ALL else [item]:
            name = _name(model) if isinstance(model, Recommender) else model
            name = label = name if isinstance(name, str) else quoted(name)
            number = 2
            while label in seen:
                label, number = f"{name}-{number}", number + 1
            seen.add(label)
            yield label, model


def _own_options(model: object) -> dict[str, Any]:
    """The hyperparameters that a model brings along, and its name."""
    if isinstance(model, str):
        return {RECOMMENDER: model}
    if isinstance(model, Mapping):
        return dict(model)
    if isinstance(model, Recommender):
        name = _name(model)
        if name not in model_names() or recommender_class(name) is not type(model):
            raise ConfigError(
                f"{type(model).__name__}: must be a registered recommender, found a class of its own "
                f"under the name {name!r}; see docs/extending.md for how to add one"
            )
        return {RECOMMENDER: name, **model.config.model_dump(exclude_unset=True)}
    found = f"a class; {_call(model)}" if isinstance(model, type) else quoted(model)
    raise ConfigError(f"a model must be a name, a recommender or its hyperparameters, found {found}")


def _name(model: Recommender) -> str:
    return getattr(model, "name", type(model).__name__)


def _fields(name: str) -> Iterable[str] | None:
    """The hyperparameters of a recommender; None where there is no such recommender."""
    return recommender_class(name).Config.model_fields if name in model_names() else None


def _require_taken(
    options: Iterable[str], fields: Sequence[str], labels: Iterable[str], function: Function
) -> None:
    """Raise :class:`ConfigError` for an option that is no hyperparameter of any model."""
    for option in options:
        if option not in fields:
            nearest = did_you_mean(option, [*fields, *option_names(function)])
            known = f"; they are {', '.join(fields)}" if fields else "; it has none"
            raise ConfigError(
                f"{function.__name__}: {option!r} is no hyperparameter of {', '.join(labels)}"
                f"{nearest or known}"
            )


def _links(catalogue: object, what: str) -> list[tuple[str, str]]:
    if isinstance(catalogue, str | bytes | Mapping) or not isinstance(catalogue, Iterable):
        raise DataError(
            f"{what} must be a list of (source, service), found {describe(catalogue)}; "
            "write [('clean', 'plot')]",
            rule="wrong-type",
        )
    links = []
    for number, link in enumerate(catalogue, start=1):
        if isinstance(link, str | bytes) or not isinstance(link, Sequence) or len(link) != 2:
            raise DataError(
                f"{what}: link {number} must be (source, service), found {quoted(link)}; correct it",
                rule="wrong-type",
            )
        source, target = (require_key(key, f"{what}: link {number}") for key in link)
        links.append((source, target))
    return links


def _texts(services: object, what: str) -> dict[str, str]:
    if not isinstance(services, Mapping):
        raise DataError(
            f"{what} must be a dict of key and text, found {type(services).__name__}; "
            "write dict(clean='removes outliers')",
            rule="wrong-type",
        )
    texts = {}
    for key, text in services.items():
        if not isinstance(text, str):
            raise DataError(
                f"{what}: the text of {quoted(key)} must be text, found {describe(text)}; "
                "write '' for none",
                rule="wrong-type",
            )
        texts[require_key(key, f"{what}: a key")] = text
    return texts


def _call(class_: type) -> str:
    return f"write {class_.__name__}()"
