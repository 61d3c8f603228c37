"""The commands evaluate and ablate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.graph.service_graph import read_catalogue


@opts.reads_compositions
def evaluate(
    context: typer.Context,
    data: opts.Data,
    test: Annotated[
        Path | None, typer.Option(help="Train on all of DATA, and test on these compositions.")
    ] = None,
    protocol: Annotated[
        Literal["pairs", "compositions", "temporal", "prequential", "leave-one-out", "cold-services"],
        typer.Option(
            help="How DATA is split into training and test parts. `cold-services` tests services that "
            "are not in the training part, and needs --mask none or soft."
        ),
    ] = "pairs",
    model: opts.Model = None,
    config: opts.Config = None,
    options: opts.Set = None,
    mask: opts.MaskOption = None,
    catalogue: opts.Catalogue = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of random splits, or of trainings if there is a single split. "
            "[default: 20, or 1]",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of trainings to average per split.")] = 1,
    share: Annotated[
        float, typer.Option("--test-share", min=0.01, max=0.99, help="Fraction of DATA to test on.")
    ] = 0.3,
    weight: Annotated[
        Literal["pairs", "compositions"],
        typer.Option(help="Unit that has equal weight in all metrics."),
    ] = "pairs",
    every: Annotated[
        int, typer.Option(min=1, help="Prequential: number of test examples between two trainings.")
    ] = 30,
    every_counting: Annotated[
        int, typer.Option(min=1, help="Prequential: the same number for counting recommenders.")
    ] = 1,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for finished runs, from which an interrupted evaluation is resumed."),
    ] = None,
    processes: opts.Processes = 1,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report with plots to this folder.")
    ] = None,
    log: opts.Log = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Evaluate recommenders on held-out parts of DATA."""
    from dagrec.jobs.evaluate import evaluate as run
    from dagrec.jobs.experiment import RANDOM, TEST_FILE, Plan

    run_config = opts.run_config(context, model, config, options)
    links = None if catalogue is None else tuple(read_catalogue(catalogue, run_config.read.max_mb))
    plan_protocol = TEST_FILE if test else protocol
    plan = Plan(
        protocol=plan_protocol,
        repeats=repeats or (20 if plan_protocol in RANDOM else 1),
        seeds=seeds,
        share=share,
        weight=weight,
        every=every,
        every_counting=every_counting,
        catalogue=links,
    )
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config, progress)
        test_dataset = None if test is None else opts.read_data(test, run_config, progress)
        total = plan.repeats * plan.seeds * len(run_config.models)
        task = progress.add("evaluating", total=total)
        checkpoints = keep and keep / "checkpoints"
        with opts.training(device, threads, progress, log=log, checkpoints=checkpoints):
            result = run(
                dataset,
                run_config,
                plan,
                test=test_dataset,
                keep=keep,
                processes=processes,
                advance=lambda label: progress.update(
                    task, advance=1, description=f"evaluated {label}"
                ),
            )
    if report is not None:
        from dagrec.evaluation.page import write_page

        console.print_message(f"report written to {write_page(result, report)}")
    _show_result(result, json)


def ablate(
    data: opts.Data,
    config: Annotated[
        Path, typer.Option("--config", help="TOML file of the study; see configs/ablation-*.toml.")
    ],
    options: opts.Set = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the results and for finished runs. [default: out/CONFIG]"),
    ] = None,
    processes: opts.Processes = 2,
    log: opts.Log = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Run an ablation study: compare variants of a configuration on the same splits.

    The same command resumes an interrupted study. --set overrides a key of the TOML file, for example
    --set plan.repeats=5.
    """
    from dagrec.jobs.ablate import ablate as run
    from dagrec.jobs.ablate import load_study

    study = load_study(config, options or ())
    folder = out or Path("out") / config.stem
    with console.progress() as progress:
        dataset = opts.read_data(data, next(iter(study.runs.values())), progress)
        total = study.plan.repeats * study.plan.seeds * len(study.runs)
        task = progress.add("evaluating", total=total)
        checkpoints = folder / "checkpoints"
        with opts.training(device, threads, progress, log=log, checkpoints=checkpoints):
            result = run(
                dataset,
                study,
                folder,
                processes=processes,
                advance=lambda label: progress.update(
                    task, advance=1, description=f"evaluated {label}"
                ),
            )
    _show_result(result, json, against=next(iter(study.runs)))
    console.print_message(f"results.json, table.md and plots are in {folder}")


def _show_result(result: dict[str, Any], json: str | None, against: str | None = None) -> None:
    if json is not None:
        console.write_json(json, result)
    if json != "-":
        console.print_result(result, against)
