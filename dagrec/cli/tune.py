"""The command tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.errors import ConfigError


@opts.reads_compositions
def tune(
    context: typer.Context,
    data: opts.Data,
    model: Annotated[
        str, typer.Option("--model", help="Recommender, or label of a model in --config.")
    ],
    trials: Annotated[
        int, typer.Option(min=1, max=10_000, help="Number of trials; the first one uses the defaults.")
    ] = 50,
    metric: Annotated[str, typer.Option(help="Metric to optimise on the held-out parts.")] = "mrr",
    parts: Annotated[int, typer.Option(min=1, max=50, help="Number of held-out parts.")] = 3,
    share: Annotated[
        float,
        typer.Option(min=0.01, max=0.99, help="Fraction of the compositions in each held-out part."),
    ] = 0.2,
    study: Annotated[
        Path | None,
        typer.Option(
            help="File for the trials, from which an interrupted search is resumed. "
            "[default: out/tune-MODEL.journal]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the best hyperparameters to this TOML file.")
    ] = None,
    config: opts.Config = None,
    options: opts.Set = None,
    mask: opts.MaskOption = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Tune the hyperparameters of a recommender on held-out parts of DATA.

    DATA are training data; later test data must not be part of them. The best hyperparameters are
    printed as TOML for `dagrec train --config`. Those that --config or --set define are not tuned.
    """
    from dagrec.jobs.tune import TuneOptions
    from dagrec.jobs.tune import tune as run

    run_config = opts.run_config(context, [model], config, options)
    if len(run_config.models) != 1:
        raise ConfigError(f"tune needs one recommender, found {model!r}; choose one with --model")
    tune_options = TuneOptions(trials=trials, metric=metric, parts=parts, share=share)
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config, progress)
        task = progress.add(f"tuning {model}", total=trials)

        def advance(num_trials: int, best: float | None) -> None:
            text = "no value yet" if best is None else f"best {metric} {best:.4f}"
            progress.update(task, completed=num_trials, description=f"tuning {model}, {text}")

        with opts.training(device, threads, progress):
            file = study or Path("out") / f"tune-{model}.journal"
            result = run(dataset, run_config, tune_options, study=file, advance=advance)
    if out is not None:
        console.write_file(out, result.to_toml())
    if json is not None:
        console.write_json(json, result.summary())
    if json != "-":
        console.out.print(result.to_toml(), end="", markup=False, soft_wrap=True)
