"""Commands that train: train, models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dagrec import console
from dagrec.cli import options as opts
from dagrec.graph.service_graph import read_catalogue
from dagrec.models.optimisation import Optimisation
from dagrec.models.registry import MODELS, family, recommender_class
from dagrec.types import Options


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
    from dagrec.store.catalogue import Store

    run_config = opts.run_config(context, model, config, options)
    links = None if catalogue is None else read_catalogue(catalogue, run_config.read.max_mb)
    with console.progress() as bar:
        task = bar.add_task("fitting", total=(measure + 1) * len(run_config.models))
        places = {"log": log, "checkpoints": checkpoints or store / "checkpoints"}
        trainer = opts.make_trainer([run_config], device, threads, 1, bar, **places)()
        done = run(
            data,
            Store(store),
            run_config,
            trainer,
            catalogue=links,
            measure=measure,
            advance=lambda label: bar.update(task, advance=1, description=f"fitted {label}"),
        )
    if done.left_out:
        console.say(
            f"note: {done.left_out} declared links name a node or service that no example has; "
            "they were left out",
            style="yellow",
        )
    for problem in done.report.problems:
        console.say(f"skipped: {problem}", style="yellow")
    if json is not None:
        models = {label: entry.model_dump() for label, entry in done.entries.items()}
        result = {"version": done.version, "champion": done.champion, "models": models}
        console.write_json(json, result | {"skipped": dict(done.report.skipped)})
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


def models(json: opts.Json = None) -> None:
    """List the recommenders, what each uses, and its hyperparameters."""
    found: list[dict[str, Any]] = []
    for name in MODELS:
        class_ = recommender_class(name)
        traits = class_.traits
        found.append(
            {
                "name": name,
                "family": family(name),
                "paper": class_.paper,
                "uses": [u for u in ("order", "graph", "owner") if getattr(traits, f"{u}_aware")]
                + ["text"] * traits.needs_text,
                "trained_by_gradient": traits.gradient_trained,
                "hyperparameters": _hyperparameters(class_.Config),
            }
        )
    if json is not None:
        console.write_json(json, found)
        return
    shared = _hyperparameters(Optimisation)
    for model in found:
        uses = ", ".join(model["uses"]) or "frequencies"
        console.out.print(
            f"[bold]{model['name']}[/bold] ({model['family']}; {model['paper']}): uses {uses}"
        )
        own = {k: v for k, v in model["hyperparameters"].items() if shared.get(k) != v}
        _print_hyperparameters(own)
    console.out.print(
        "[bold]those that are trained by gradient[/bold], where nothing else stands above"
    )
    _print_hyperparameters(shared)


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
