"""Commands that train: train, models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.errors import ConfigError, MissingPackageError
from dagrec.models.registry import MODELS, family, recommender_class
from dagrec.training.options import TrainingOptions
from dagrec.types import Options

OCCURRENCE = "what occurs"
"""Used by recommenders that see neither order nor anything else of a composition."""


@opts.reads_compositions
def train(
    context: typer.Context,
    data: opts.Data,
    store: opts.StorePath,
    model: opts.Model = None,
    config: opts.Config = None,
    options: opts.Set = None,
    mask: opts.MaskOption = None,
    catalogue: opts.Catalogue = None,
    services: opts.Services = None,
    measure: Annotated[
        int, typer.Option(min=0, help="held-out parts to measure on before; 0: none")
    ] = 3,
    log: opts.Log = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="folder in which an interrupted training is found again [default: STORE/checkpoints]"
        ),
    ] = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Train recommenders on all of DATA and publish them as the live bundle of STORE.

    An interrupted training goes on where it was when the same command is started again. On several
    processes or machines: torchrun --nproc-per-node 2 -m dagrec.cli train DATA --store STORE
    """
    from dagrec.jobs.train import CHAMPION_METRIC
    from dagrec.jobs.train import train as run
    from dagrec.store.store import Store

    run_config = opts.run_config(context, model, config, options)
    candidates = opts.candidates(catalogue, services, run_config)
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config.read, progress)
        task = progress.add("fitting", total=(measure + 1) * len(run_config.models))
        folder = checkpoints or store / "checkpoints"
        with opts.training(device, threads, progress, log=log, checkpoints=folder):
            done = run(
                dataset,
                Store(store),
                run_config,
                candidates,
                measure=measure,
                advance=lambda label: progress.update(task, advance=1, description=f"fitted {label}"),
            )
    for note in done.notes:
        console.say(f"note: {note}", style="yellow")
    if json is not None:
        models = {label: entry.model_dump() for label, entry in done.entries.items()}
        result = {"version": done.version, "champion": done.champion, "models": models}
        console.write_json(json, result | {"skipped": dict(dataset.report.skipped)})
        return
    shown = ("accuracy", CHAMPION_METRIC, "ndcg@10", "nll")
    rows = [
        [
            f"{label} *" if label == done.champion else label,
            *(f"{entry.metrics[m]:.4f}" if m in entry.metrics else "-" for m in shown),
            f"{entry.parameters:,}",
            f"{entry.fit_seconds:.2f}",
        ]
        for label, entry in done.entries.items()
    ]
    why = f"best {CHAMPION_METRIC} on held-out parts" if measure else "the first, nothing was measured"
    title = f"published {done.version} in {store}; * champion: {why}"
    console.table(title, ["model", *shown, "parameters", "fit s"], rows)


def models(
    names: Annotated[
        list[str] | None, typer.Argument(help="recommenders to show in full [default: a table of all]")
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="count what the models of its live bundle have learned")
    ] = None,
    json: opts.Json = None,
) -> None:
    """List the recommenders and what each uses; of those that are named, every hyperparameter."""
    learned = {} if store is None else _learned(store)
    described = [_about(name, learned) for name in names or MODELS]
    if json is not None:
        console.write_json(json, described)
    elif names:
        for model in described:
            _print_in_full(model)
    else:
        rows = [_row(model, bool(store)) for model in described]
        columns = ["name", "family", "uses", "paper", "hyperparameters", *["parameters"] * bool(store)]
        console.table("recommenders; `dagrec models NAME` tells more", columns, rows, texts=4)
        if missing := [model["name"] for model in described if "needs" in model]:
            console.say(
                f"note: {len(missing)} recommenders need packages that are not installed, such as "
                f"{missing[0]}; install dagrec[train]",
                style="yellow",
            )


def _row(model: dict[str, Any], with_parameters: bool) -> list[object]:
    if "needs" in model:
        return [model["name"], model["family"], "", "not installed", "", *[""] * with_parameters]
    return [
        model["name"],
        model["family"],
        ", ".join(model["uses"]) or OCCURRENCE,
        model["paper"],
        len(model["hyperparameters"]),
        *([_counts(model["parameters"])] if with_parameters else []),
    ]


def _learned(store: Path) -> dict[str, dict[str, int]]:
    """Recommender -> label -> how many numbers it has learned, in the live bundle of a store."""
    from dagrec.store.bundle import read_manifest
    from dagrec.store.store import Store

    published = Store(store)
    found: dict[str, dict[str, int]] = {}
    for label, entry in read_manifest(published.bundles / published.current()).models.items():
        found.setdefault(entry.recommender, {})[label] = entry.parameters
    return found


def _about(name: str, learned: dict[str, dict[str, int]]) -> dict[str, Any]:
    """A recommender as it goes into JSON; of one that needs an extra, which."""
    try:
        class_ = recommender_class(name)
    except MissingPackageError as error:
        return {"name": name, "family": family(name), "needs": str(error)}
    traits = class_.traits
    return {
        "name": name,
        "family": family(name),
        "paper": class_.paper,
        "uses": [u for u in ("order", "graph", "owner") if getattr(traits, f"{u}_aware")]
        + ["text"] * traits.needs_text,
        "trained_by_gradient": traits.gradient_trained,
        "hyperparameters": _hyperparameters(class_.Config),
        "parameters": learned.get(name, {}),
    }


def _counts(parameters: dict[str, int]) -> str:
    return ", ".join(f"{count:,}" for count in parameters.values()) or "-"


def _print_in_full(model: dict[str, Any]) -> None:
    """A recommender with all that can be set, what is its own first."""
    if "needs" in model:
        raise ConfigError(model["needs"])
    uses = ", ".join(model["uses"]) or OCCURRENCE
    console.out.print(
        f"[bold]{model['name']}[/bold] ({model['family']}; {model['paper']}): uses {uses}"
    )
    for label, count in model["parameters"].items():
        console.out.print(f"    {label} has learned {count:,} numbers", markup=False)
    shared = _hyperparameters(TrainingOptions)
    own: dict[str, Any] = {}
    common: dict[str, Any] = {}
    for key, about in model["hyperparameters"].items():
        (common if shared.get(key) == about else own)[key] = about
    _print_hyperparameters(own)
    if common:
        console.out.print("  the same in every training by gradient:")
        _print_hyperparameters(common)


def _hyperparameters(config: type[Options]) -> dict[str, dict[str, Any]]:
    """Name -> default and description; a group of options counts as its members."""
    found: dict[str, dict[str, Any]] = {}
    for key, field in config.model_fields.items():
        if isinstance(field.default, Options):
            inner = _hyperparameters(type(field.default))
            found |= {f"{key}.{name}": about for name, about in inner.items()}
        else:
            found[key] = {"default": field.default, "about": field.description}
    return found


def _print_hyperparameters(found: dict[str, dict[str, Any]]) -> None:
    for key, about in found.items():
        console.out.print(f"    {key} = {about['default']}: {about['about']}", markup=False)
