"""Command that searches hyperparameters: tune."""

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
    model: Annotated[str, typer.Option("--model", help="a recommender, or a label of the config")],
    trials: Annotated[
        int, typer.Option(min=1, help="settings that are tried, the defaults first")
    ] = 50,
    metric: Annotated[str, typer.Option(help="what is improved on the held-out parts")] = "mrr",
    parts: Annotated[int, typer.Option(min=1, help="held-out parts of the compositions")] = 3,
    share: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="of the compositions in each held-out part")
    ] = 0.2,
    study: Annotated[
        Path | None,
        typer.Option(
            help="file in which trials are kept: the same command resumes an interrupted search "
            "[default: out/tune-MODEL.journal]"
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="TOML file that gets the best setting, for train --config")
    ] = None,
    config: opts.Config = None,
    options: opts.Set = None,
    mask: opts.MaskOption = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Search the hyperparameters of a recommender on held-out parts of DATA.

    DATA is what you would train on; what you test on afterwards must not be in it. The best setting is
    printed as TOML that `dagrec train --config` takes. What --config and --set give stays as it is.
    """
    from dagrec.jobs.tune import TuneOptions
    from dagrec.jobs.tune import tune as run

    run_config = opts.run_config(context, [model], config, options)
    if len(run_config.models) != 1:
        raise ConfigError(f"tune searches one recommender, found {model!r}; name one with --model")
    chosen = TuneOptions(trials=trials, metric=metric, parts=parts, share=share)
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config.read, progress)
        task = progress.add(f"tuning {model}", total=trials)

        def advance(done: int, best: float | None) -> None:
            text = "no value yet" if best is None else f"best {metric} {best:.4f}"
            progress.update(task, completed=done, description=f"tuning {model}, {text}")

        with opts.training(device, threads, progress):
            file = study or Path("out") / f"tune-{model}.journal"
            result = run(dataset, run_config, chosen, study=file, advance=advance)
    if out is not None:
        console.write_file(out, result.to_toml())
    if json is not None:
        console.write_json(json, result.summary())
    if json != "-":
        console.out.print(result.to_toml(), end="", markup=False, soft_wrap=True)
