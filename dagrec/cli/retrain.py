"""The command retrain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.errors import RefusedError

if TYPE_CHECKING:
    from dagrec.jobs.comparison import Comparison
    from dagrec.jobs.retrain_report import Report


@opts.reads_compositions
def retrain(
    context: typer.Context,
    data: opts.Data,
    store: opts.StorePath,
    model: opts.Model = None,
    config: opts.Config = None,
    options: opts.Set = None,
    mask: opts.MaskOption = None,
    catalogue: opts.Catalogue = None,
    services: opts.Services = None,
    share: Annotated[
        float | None,
        typer.Option(help="Fraction of the compositions, the newest, to hold back. [default: 0.2]"),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="MRR that the new model may lose against the live one. [default: 0.01]"),
    ] = None,
    min_examples: Annotated[
        int | None,
        typer.Option(
            help="Minimum number of examples unknown to the live bundle for which it is compared as "
            "published, instead of refitted. [default: 50]"
        ),
    ] = None,
    max_shrink: Annotated[
        float | None,
        typer.Option(help="Maximum fraction of the compositions that may be missing. [default: 0.5]"),
    ] = None,
    measure: Annotated[
        int | None,
        typer.Option(help="Number of held-out parts on which the models are evaluated. [default: 3]"),
    ] = None,
    keep: Annotated[
        int | None, typer.Option(help="Number of versions to keep in STORE. [default: 5]")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Retrain even if data and configuration are unchanged.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Train and compare, but do not publish anything.")
    ] = False,
    log: opts.Log = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Train on DATA, and publish in STORE unless the new model is worse than the live one.

    Both models are compared on the newest compositions, which neither was trained on. Nothing is done
    if data and configuration have not changed since the last attempt. The same command resumes an
    interrupted attempt. If the new model is refused or the attempt fails, the live bundle stays live
    and the exit status is 1.
    """
    from dagrec.jobs.retrain import Job, make_retrain_options
    from dagrec.jobs.retrain import retrain as run
    from dagrec.store.store import Store

    run_config = opts.run_config(context, model, config, options)
    retrain_options = make_retrain_options(
        share=share,
        margin=margin,
        min_examples=min_examples,
        max_shrink=max_shrink,
        measure=measure,
        keep=keep,
    )
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config, progress)
        total = (retrain_options.measure + 1) * len(run_config.models) + 1
        task = progress.add("retraining", total=total)
        job = Job(
            dataset,
            Store(store),
            run_config,
            retrain_options,
            opts.read_candidates(catalogue, services, run_config),
            advance=lambda step: progress.update(task, advance=1, description=f"done: {step}"),
        )
        with opts.training(device, threads, progress, log=log, checkpoints=store / "checkpoints"):
            report = run(job, force=force, dry_run=dry_run)
    if json is not None:
        console.write_json(json, report.model_dump(mode="json"))
    if json != "-":
        _print_report(report)
        if report.repeated and report.version != (live := Store(store).current()):
            console.print_message(
                f"the live bundle is {live}; `dagrec rollback --to VERSION` changes that",
                style="yellow",
            )
    if report.status == "refused":
        raise RefusedError(f"refused: {'; '.join(report.reasons)}")


def _print_report(report: Report) -> None:
    if report.comparison is not None:
        _print_comparison(report.comparison)
    for version in report.removed:
        console.print_message(f"removed {version}")
    if report.repeated:
        console.print_message(
            f"nothing has changed since {report.at}; use --force to retrain", style="yellow"
        )
    if report.status != "refused":
        console.out.print(f"{report.status}: {report.version or 'not published'}", markup=False)


def _print_comparison(comparison: Comparison) -> None:
    sides = (comparison.challenger, comparison.champion, comparison.popularity)
    rows = [
        [side.label, side.how, *(f"{value:.4f}" for value in side.metrics.values())]
        for side in sides
        if side is not None
    ]
    title = f"{comparison.examples} examples of {comparison.compositions} held-back compositions"
    console.print_table(title, ["model", "", *comparison.challenger.metrics], rows, texts=2)
    if comparison.difference is not None and comparison.interval is not None:
        low, high = comparison.interval
        console.print_message(
            f"difference in MRR: {comparison.difference:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
        )
