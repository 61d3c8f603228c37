"""The command bench."""

from __future__ import annotations

import typer

from dagrec.cli import console
from dagrec.cli import options as opts


@opts.reads_compositions
def bench(
    context: typer.Context,
    data: opts.Data,
    model: opts.Model = None,
    config: opts.Config = None,
    options: opts.Set = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Measure how long recommenders take to train on DATA and to score a context."""
    from dagrec.jobs.benchmark import benchmark as run

    run_config = opts.run_config(context, model, config, options)
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config, progress)
        task = progress.add("timing", total=len(run_config.models))
        with opts.training(device, threads, progress):
            result = run(dataset, run_config, advance=lambda _: progress.update(task, advance=1))
    if json is not None:
        console.write_json(json, result)
    if json != "-":
        fastest = min(m["microseconds_alone"] for m in result["models"].values())
        rows = [
            [
                label,
                f"{m['fit_seconds']:.3f}",
                m["epochs"] or "-",
                f"{m['microseconds_alone']:.0f}",
                f"{m['microseconds_alone'] / fastest:.1f}",
                f"{m['microseconds_in_batch']:.1f}",
                f"{m['parameters']:,}",
            ]
            for label, m in result["models"].items()
        ]
        title = f"{data}: {result['distinct_contexts']:,} contexts, {result['services']:,} services"
        columns = ["model", "fit s", "epochs", "µs alone", "ratio", "µs in batch", "parameters"]
        console.print_table(title, columns, rows)
