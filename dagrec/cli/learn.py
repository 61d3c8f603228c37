"""Commands that train: train, models."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dagrec import console
from dagrec.cli import options as opts
from dagrec.graph.service_graph import read_catalogue
from dagrec.models.registry import MODELS, family, recommender_class


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
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Train recommenders on all of DATA and publish them as the live bundle of STORE."""
    from dagrec.jobs.train import CHAMPION_METRIC
    from dagrec.jobs.train import train as run
    from dagrec.store.catalogue import Store

    run_config = opts.run_config(context, model, config, options)
    links = None if catalogue is None else read_catalogue(catalogue, run_config.read.max_mb)
    with console.progress() as bar:
        task = bar.add_task("fitting", total=(measure + 1) * len(run_config.models))
        trainer = opts.make_trainer([run_config], device, threads, 1, bar)()
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
        fields = class_.Config.model_fields
        found.append(
            {
                "name": name,
                "family": family(name),
                "paper": class_.paper,
                "uses": [u for u in ("order", "graph", "owner") if getattr(traits, f"{u}_aware")]
                + ["text"] * traits.needs_text,
                "trained_by_gradient": traits.gradient_trained,
                "hyperparameters": {
                    key: {"default": field.default, "about": field.description}
                    for key, field in fields.items()
                },
            }
        )
    if json is not None:
        console.write_json(json, found)
        return
    for model in found:
        uses = ", ".join(model["uses"]) or "frequencies"
        console.out.print(
            f"[bold]{model['name']}[/bold] ({model['family']}; {model['paper']}): uses {uses}"
        )
        for key, about in model["hyperparameters"].items():
            console.out.print(f"    {key} = {about['default']}: {about['about']}", markup=False)
