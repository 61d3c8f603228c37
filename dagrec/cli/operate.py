"""Commands of who runs it: retrain, bundles, rollback, prune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.errors import RefusedError

if TYPE_CHECKING:
    from dagrec.jobs.retrain import Report


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
        float | None, typer.Option(help="of the compositions, the newest, held back [default: 0.2]")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="MRR by which the new may be worse than the live [default: 0.01]"),
    ] = None,
    min_examples: Annotated[
        int | None,
        typer.Option(
            help="examples that the live bundle never saw, for it to answer as published [default: 50]"
        ),
    ] = None,
    max_shrink: Annotated[
        float | None, typer.Option(help="share of compositions that may be gone [default: 0.5]")
    ] = None,
    measure: Annotated[
        int | None, typer.Option(help="held-out parts that choose among the models [default: 3]")
    ] = None,
    keep: Annotated[int | None, typer.Option(help="versions that stay in STORE [default: 5]")] = None,
    force: Annotated[bool, typer.Option("--force", help="even where nothing has changed")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="measure and say what would be done; publish nothing")
    ] = False,
    log: opts.Log = None,
    device: opts.DeviceOption = "auto",
    threads: opts.Threads = 1,
    json: opts.Json = None,
) -> None:
    """Train anew on DATA, measure against the live bundle of STORE, and publish unless it is worse.

    Nothing is done where data and configuration are those of the last attempt. Both sides are asked
    about the newest compositions, which neither has seen. Exit status 1: refused, or failed; what is
    live stays live. A job that was killed goes on where it was when it is started again.
    """
    from dagrec.jobs.retrain import Job, make_retrain_options
    from dagrec.jobs.retrain import retrain as run
    from dagrec.store.store import Store

    run_config = opts.run_config(context, model, config, options)
    given = {
        "share": share,
        "margin": margin,
        "min_examples": min_examples,
        "max_shrink": max_shrink,
        "measure": measure,
        "keep": keep,
    }
    chosen = make_retrain_options({name: value for name, value in given.items() if value is not None})
    with console.progress() as progress:
        dataset = opts.read_data(data, run_config.read, progress)
        total = (chosen.measure + 1) * len(run_config.models) + 1
        task = progress.add("retraining", total=total)
        job = Job(
            dataset,
            Store(store),
            run_config,
            chosen,
            opts.candidates(catalogue, services, run_config),
            advance=lambda what: progress.update(task, advance=1, description=f"done: {what}"),
        )
        folder = store / "checkpoints"
        with opts.training(device, threads, progress, log=log, checkpoints=folder):
            report = run(job, force=force, dry_run=dry_run)
    if json is not None:
        console.write_json(json, report.model_dump(mode="json"))
    if json != "-":
        _print(report)
        if report.repeated and report.version != (live := Store(store).current()):
            console.say(f"live is {live}; `dagrec rollback --to VERSION` changes that", style="yellow")
    if report.outcome == "refused":
        raise RefusedError(f"refused: {'; '.join(report.reasons)}")


def _print(report: Report) -> None:
    if (comparison := report.comparison) is not None:
        sides = (comparison.challenger, comparison.champion, comparison.popularity)
        rows = [
            [side.label, side.how, *(f"{value:.4f}" for value in side.metrics.values())]
            for side in sides
            if side is not None
        ]
        title = f"{comparison.examples} examples of {comparison.compositions} held-back compositions"
        console.table(title, ["model", "", *comparison.challenger.metrics], rows, texts=2)
        if comparison.difference is not None and comparison.interval is not None:
            low, high = comparison.interval
            console.say(
                f"difference in MRR {comparison.difference:+.4f}, "
                f"95 % between {low:+.4f} and {high:+.4f}"
            )
    for version in report.removed:
        console.say(f"removed {version}")
    if report.repeated:
        console.say(f"nothing has changed since {report.at}; --force does it again", style="yellow")
    if report.outcome != "refused":
        console.out.print(f"{report.outcome}: {report.version or 'not published'}", markup=False)


def bundles(store: opts.StorePath, json: opts.Json = None) -> None:
    """List the published bundles of STORE, the newest last; * is live."""
    from dagrec.store.store import Store

    found = [about.model_dump(mode="json") for about in Store(store).listing()]
    if json is not None:
        console.write_json(json, found)
        return
    if not found:
        console.say(f"{store}: nothing was published there; see `dagrec retrain`", style="yellow")
    rows = [_row(about) for about in found]
    columns = ["version", "created", "champion", "mrr", "compositions", "models", "MB"]
    console.table(f"bundles of {store}; * is live", columns, rows, texts=3)


def _row(about: dict[str, Any]) -> list[object]:
    mark = " *" if about["live"] else ""
    if about["broken"]:
        return [about["version"] + mark, f"broken: {about['broken']}", "", "", "", "", ""]
    mrr = about["metrics"].get("mrr")
    return [
        about["version"] + mark,
        about["created"],
        about["champion"],
        "-" if mrr is None else f"{mrr:.4f}",
        about["compositions"],
        len(about["models"]),
        f"{about['bytes'] / 1e6:.1f}",
    ]


def rollback(
    store: opts.StorePath,
    to: Annotated[
        str | None, typer.Option(help="a version [default: the one published before the live one]")
    ] = None,
    json: opts.Json = None,
) -> None:
    """Make another published bundle live. Services take it within DAGREC_WATCH seconds."""
    from dagrec.recommend.check import self_check
    from dagrec.store.store import Store

    version = Store(store).rollback(to, check=self_check)
    if json is not None:
        console.write_json(json, {"live": version})
    if json != "-":
        console.out.print(f"live: {version}", markup=False)


def prune(
    store: opts.StorePath,
    keep: Annotated[int, typer.Option(min=2, help="versions that stay, the newest")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    json: opts.Json = None,
) -> None:
    """Remove the oldest bundles of STORE; never the live one, nor the one before it."""
    from dagrec.store.store import Store

    removed = Store(store).prune(keep, dry_run=dry_run)
    if json is not None:
        console.write_json(json, {"removed": removed, "dry_run": dry_run})
    if json != "-":
        for version in removed:
            console.out.print(f"{'would remove' if dry_run else 'removed'} {version}", markup=False)
        if not removed:
            console.out.print("nothing to remove")
