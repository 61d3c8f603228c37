"""The commands bundles, rollback and prune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dagrec.cli import console
from dagrec.cli import options as opts

if TYPE_CHECKING:
    from dagrec.store.store import BundleInfo


def bundles(store: opts.StorePath, json: opts.Json = None) -> None:
    """List the published bundles of STORE, the oldest first."""
    from dagrec.store.store import Store

    infos = Store(store).list_bundles()
    if json is not None:
        console.write_json(json, [info.model_dump(mode="json") for info in infos])
        return
    if not infos:
        console.print_message(
            f"{store}: no bundles are published; see `dagrec retrain`", style="yellow"
        )
    columns = ["version", "created", "champion", "mrr", "compositions", "models", "MB"]
    console.print_table(
        f"bundles of {store}; * is live", columns, [_row(info) for info in infos], texts=3
    )


def _row(info: BundleInfo) -> list[object]:
    version = f"{info.version} *" if info.live else info.version
    if info.broken:
        return [version, f"broken: {info.broken}", "", "", "", "", ""]
    mrr = info.metrics.get("mrr")
    return [
        version,
        info.created,
        info.champion,
        "-" if mrr is None else f"{mrr:.4f}",
        info.compositions,
        len(info.models),
        f"{info.bytes / 1e6:.1f}",
    ]


def rollback(
    store: opts.StorePath,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="Version to make live. [default: the one before the live version]"
        ),
    ] = None,
    json: opts.Json = None,
) -> None:
    """Make another published bundle live.

    Running services load it within DAGREC_WATCH seconds.
    """
    from dagrec.recommend.check import self_check
    from dagrec.store.store import Store

    version = Store(store).rollback(to, check=self_check)
    if json is not None:
        console.write_json(json, {"live": version})
    if json != "-":
        console.out.print(f"live: {version}", markup=False)


def prune(
    store: opts.StorePath,
    keep: Annotated[int, typer.Option(min=2, help="Number of versions to keep.")] = 5,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, without removing it.")
    ] = False,
    json: opts.Json = None,
) -> None:
    """Remove the oldest bundles of STORE, except the live one and the one before it."""
    from dagrec.store.store import Store

    removed = Store(store).prune(keep, dry_run=dry_run)
    if json is not None:
        console.write_json(json, {"removed": removed, "dry_run": dry_run})
    if json != "-":
        for version in removed:
            console.out.print(f"{'would remove' if dry_run else 'removed'} {version}", markup=False)
        if not removed:
            console.out.print("nothing to remove")
