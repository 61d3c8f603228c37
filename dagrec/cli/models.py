"""The command models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic_core import to_jsonable_python

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.errors import ConfigError, MissingPackageError
from dagrec.models.registry import PLUGINS, family, recommender_class, usable_models
from dagrec.training.options import TrainingOptions
from dagrec.types import Options

USES_NOTHING = "set of nodes"
"""What recommenders use that ignore order, graph, owner and text."""


def models(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Recommenders to describe in full. [default: a table of all]"
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Show the number of parameters of the live models in this store."),
    ] = None,
    json: opts.Json = None,
) -> None:
    """List the recommenders, or the hyperparameters of the named ones."""
    parameters = {} if store is None else _count_parameters(store)
    descriptions = [_describe(name, parameters) for name in names or usable_models()]
    if json is not None:
        console.write_json(json, descriptions)
    elif names:
        for model in descriptions:
            _print_in_full(model)
    else:
        rows = [_row(model, with_parameters=bool(store)) for model in descriptions]
        columns = ["name", "family", "uses", "paper", "hyperparameters", *["parameters"] * bool(store)]
        console.print_table(
            "recommenders; see `dagrec models NAME` for details", columns, rows, texts=4
        )
        if missing := [model["name"] for model in descriptions if "needs" in model]:
            console.print_message(
                f"note: {len(missing)} recommenders need packages that are not installed, such as "
                f"{missing[0]}; install dagrec[train]",
                style="yellow",
            )


def _count_parameters(store: Path) -> dict[str, dict[str, int]]:
    """Recommender -> label -> number of learned parameters, in the live bundle of a store."""
    from dagrec.store.bundle import read_manifest
    from dagrec.store.store import Store

    published = Store(store)
    counts: dict[str, dict[str, int]] = {}
    for label, entry in read_manifest(published.bundles / published.current()).models.items():
        counts.setdefault(entry.recommender, {})[label] = entry.parameters
    return counts


def _describe(name: str, parameters: dict[str, dict[str, int]]) -> dict[str, Any]:
    """The description of a recommender as JSON; ``needs`` is set if packages are missing."""
    try:
        class_ = recommender_class(name)
    except MissingPackageError as error:
        return {"name": name, "family": family(name), "package": "dagrec", "needs": str(error)}
    traits = class_.traits
    return {
        "name": name,
        "family": family(name),
        "package": PLUGINS.package(name) or "dagrec",
        "paper": class_.paper,
        "uses": [u for u in ("order", "graph", "owner") if getattr(traits, f"{u}_aware")]
        + ["text"] * traits.needs_text,
        "trained_by_gradient": traits.gradient_trained,
        "hyperparameters": _hyperparameters(class_.Config),
        "parameters": parameters.get(name, {}),
    }


def _hyperparameters(config: type[Options]) -> dict[str, dict[str, Any]]:
    """Name -> default and description; nested options have dotted names."""
    result: dict[str, dict[str, Any]] = {}
    for key, field in config.model_fields.items():
        if isinstance(field.default, Options):
            nested = _hyperparameters(type(field.default))
            result |= {f"{key}.{name}": about for name, about in nested.items()}
        else:
            default = field.get_default(call_default_factory=True, validated_data={})
            plain = to_jsonable_python(default, fallback=str)
            result[key] = {"default": plain, "about": field.description}
    return result


def _family(model: dict[str, Any]) -> str:
    """The family of a recommender, or the package of a plug-in."""
    is_plugin = model["package"] != "dagrec"
    return f"plug-in of {model['package']}" if is_plugin else str(model["family"])


def _row(model: dict[str, Any], *, with_parameters: bool) -> list[object]:
    if "needs" in model:
        return [model["name"], model["family"], "", "not installed", "", *[""] * with_parameters]
    row = [
        model["name"],
        _family(model),
        ", ".join(model["uses"]) or USES_NOTHING,
        model["paper"],
        len(model["hyperparameters"]),
    ]
    if with_parameters:
        row.append(", ".join(f"{count:,}" for count in model["parameters"].values()) or "-")
    return row


def _print_in_full(model: dict[str, Any]) -> None:
    """Print all hyperparameters, those that not every gradient-trained recommender has first."""
    if "needs" in model:
        raise ConfigError(model["needs"])
    uses = ", ".join(model["uses"]) or USES_NOTHING
    console.out.print(f"[bold]{model['name']}[/bold] ({_family(model)}; {model['paper']}): uses {uses}")
    for label, count in model["parameters"].items():
        console.out.print(f"    {label} has {count:,} learned parameters", markup=False)
    training_options = _hyperparameters(TrainingOptions)
    own: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for key, about in model["hyperparameters"].items():
        (shared if training_options.get(key) == about else own)[key] = about
    _print_hyperparameters(own)
    if shared:
        console.out.print("  shared by all recommenders that are trained by gradient descent:")
        _print_hyperparameters(shared)


def _print_hyperparameters(hyperparameters: dict[str, dict[str, Any]]) -> None:
    for key, about in hyperparameters.items():
        console.out.print(f"    {key} = {about['default']}: {about['about']}", markup=False)
