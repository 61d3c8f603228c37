"""The command train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts

METRICS = ("accuracy", "mrr", "ndcg@10", "nll")


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
        int,
        typer.Option(min=0, help="Number of held-out parts on which models are evaluated; 0 for none."),
    ] = 3,
    log: opts.Log = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(
            help="Folder of checkpoints, from which training is resumed. [default: STORE/checkpoints]"
        ),
    ] = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Train recommenders on DATA, and publish them as the live bundle of STORE.

    The same command resumes an interrupted training. To train with several processes or machines, run
    torchrun --nproc-per-node 2 -m dagrec.cli train DATA --store STORE
    """
    from dagrec.jobs.train import CHAMPION_METRIC
    from dagrec.jobs.train import train as run
    from dagrec.store.store import Store

    run_config = opts.run_config(context, model, config, options)
    candidates = opts.read_candidates(catalogue, services, run_config)
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config, progress)
        task = progress.add("fitting", total=(measure + 1) * len(run_config.models))
        folder = checkpoints or store / "checkpoints"
        with opts.training(device, threads, progress, log=log, checkpoints=folder):
            report = run(
                dataset,
                Store(store),
                run_config,
                candidates,
                measure=measure,
                advance=lambda label: progress.update(task, advance=1, description=f"fitted {label}"),
            )
    for note in report.notes:
        console.print_message(f"note: {note}", style="yellow")
    if json is not None:
        models = {label: entry.model_dump() for label, entry in report.entries.items()}
        result = {"version": report.version, "champion": report.champion, "models": models}
        console.write_json(json, result | {"skipped": dict(dataset.report.skipped)})
        return
    rows = [
        [
            f"{label} *" if label == report.champion else label,
            *(f"{entry.metrics[name]:.4f}" if name in entry.metrics else "-" for name in METRICS),
            f"{entry.parameters:,}",
            f"{entry.fit_seconds:.2f}",
        ]
        for label, entry in report.entries.items()
    ]
    champion = f"best {CHAMPION_METRIC} on held-out parts" if measure else "first model, not evaluated"
    title = f"published {report.version} in {store}; * champion: {champion}"
    console.print_table(title, ["model", *METRICS, "parameters", "fit s"], rows)
