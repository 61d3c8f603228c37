"""Commands that measure: evaluate, ablate, bench."""

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
        Path | None, typer.Option(help="test on these compositions, train on all of DATA")
    ] = None,
    protocol: Annotated[
        Literal["pairs", "compositions", "temporal", "prequential", "leave-one-out", "cold-services"],
        typer.Option(
            help="how training and test parts are told apart; cold-services hides some services from "
            "training and tests on them, which needs --mask none or soft"
        ),
    ] = "pairs",
    model: opts.Model = None,
    config: opts.Config = None,
    options: opts.Set = None,
    mask: opts.MaskOption = None,
    catalogue: opts.Catalogue = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="splits; of a single split: trainings [default: 20, or 1]")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="trainings on each split, averaged")] = 1,
    share: Annotated[float, typer.Option("--test-share", min=0.01, max=0.99, help="of the data")] = 0.3,
    weight: Annotated[
        Literal["pairs", "compositions"], typer.Option(help="what weighs the same")
    ] = "pairs",
    every: Annotated[int, typer.Option(min=1, help="prequential: test examples between two fits")] = 30,
    every_counting: Annotated[
        int, typer.Option(min=1, help="prequential: the same for counting recommenders")
    ] = 1,
    keep: Annotated[
        Path | None, typer.Option(help="folder for finished cells; the same command then goes on")
    ] = None,
    processes: opts.Processes = 1,
    report: Annotated[Path | None, typer.Option(help="folder for an HTML page with pictures")] = None,
    log: opts.Log = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Measure recommenders on parts of DATA that they were not trained on, with intervals."""
    from dagrec.jobs.evaluate import evaluate as run
    from dagrec.jobs.experiment import RANDOM, TEST_FILE, Plan

    run_config = opts.run_config(context, model, config, options)
    links = None if catalogue is None else tuple(read_catalogue(catalogue, run_config.read.max_mb))
    name = TEST_FILE if test else protocol
    plan = Plan(
        protocol=name,
        repeats=repeats or (20 if name in RANDOM else 1),
        seeds=seeds,
        share=share,
        weight=weight,
        every=every,
        every_counting=every_counting,
        catalogue=links,
    )
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config.read, progress)
        test_set = None if test is None else opts.read_data(test, run_config.read, progress)
        total = plan.repeats * plan.seeds * len(run_config.models)
        task = progress.add("measuring", total=total)
        checkpoints = keep and keep / "checkpoints"
        with opts.training(device, threads, progress, log=log, checkpoints=checkpoints):
            result = run(
                dataset,
                run_config,
                plan,
                test=test_set,
                keep=keep,
                processes=processes,
                advance=lambda label: progress.update(task, advance=1, description=f"measured {label}"),
            )
    _show_result(result, json, report)


def ablate(
    data: opts.Data,
    config: Annotated[
        Path, typer.Option("--config", help="TOML file: plan, base, variants; see configs/")
    ],
    options: opts.Set = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of results and finished cells [default: out/<config>]")
    ] = None,
    processes: opts.Processes = 2,
    log: opts.Log = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Run a component study: variants of one configuration on the same splits, side by side.

    Finished cells are kept: after an interruption, the same command goes on where it stopped. --set
    overrides a key of the file, e.g. plan.repeats=5.
    """
    from dagrec.jobs.ablate import ablate as run
    from dagrec.jobs.ablate import load_study

    study = load_study(config, options or ())
    folder = out or Path("out") / config.stem
    with console.progress() as progress:
        dataset = opts.read_data(data, next(iter(study.runs.values())).read, progress)
        total = study.plan.repeats * study.plan.seeds * len(study.runs)
        task = progress.add("measuring", total=total)
        checkpoints = folder / "checkpoints"
        with opts.training(device, threads, progress, log=log, checkpoints=checkpoints):
            result = run(
                dataset,
                study,
                folder,
                processes=processes,
                advance=lambda label: progress.update(task, advance=1, description=f"measured {label}"),
            )
    _show_result(result, json, None, against=next(iter(study.runs)))
    console.say(f"results.json, table.md and pictures are in {folder}")


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
    """Time fitting and answering of each recommender on DATA, in one run."""
    from dagrec.jobs.benchmark import benchmark as run

    run_config = opts.run_config(context, model, config, options)
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config.read, progress)
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
        console.table(title, columns, rows)


def _show_result(
    result: dict[str, Any], json: str | None, report: Path | None, against: str | None = None
) -> None:
    if report is not None:
        from dagrec.evaluation.page import write_page

        console.say(f"report written to {write_page(result, report)}")
    if json is not None:
        console.write_json(json, result)
    if json != "-":
        console.result_table(result, against)
