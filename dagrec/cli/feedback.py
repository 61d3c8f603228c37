"""The command feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.data.formats.times import parse_time
from dagrec.errors import ConfigError, DagrecError, DataError

COUNTS = ("decided", "taken", "elsewhere", "refused", "undecided")
RATES = ("hit_rate", "accuracy@1", "mrr")
COLUMNS = ("model", "bundle", *COUNTS, *(name.replace("_", " ") for name in RATES))


def feedback(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Folder or file written by `dagrec serve --feedback`."),
    ],
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Ignore earlier reports. TIME is ISO 8601, in UTC if it has no zone."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the accepted steps as training data to this JSON file."
        ),
    ] = None,
    json: opts.Json = None,
) -> None:
    """Show how often users accepted recommendations: hit rate, accuracy at 1 and MRR of each model.

    The last report on an answer counts. An answer is decided if the user took a recommended service
    (taken) or another one (elsewhere), or refused all recommended services (refused). If only some were
    refused, it is undecided and not part of the rates. Brackets contain 95 % confidence intervals.
    """
    from dagrec.recommend.feedback_summary import (
        by_model,
        final_decisions,
        read_feedback,
        summarise,
        training_documents,
    )

    loaded = read_feedback(folder, None if since is None else _parse_since(since))
    finals = final_decisions(loaded.decisions)
    models = by_model(finals)
    total = summarise(finals)
    if out is not None:
        documents = list(training_documents(finals))
        if not documents:
            raise DagrecError(f"--out {out}: needs a step that was taken after a path, found none")
        console.write_json(str(out), documents)
    if json is not None:
        counts = {"files": loaded.files, "lines": loaded.lines, "skipped": dict(loaded.skipped)}
        console.write_json(json, counts | {"all": total, "models": models})
    if json != "-":
        rows = [_row(model["model"], model["version"], model) for model in models]
        rows.append(_row("(all)", "", total))
        console.print_table(f"{folder}, {loaded.lines:,} reports", COLUMNS, rows, texts=2)
        for reason, count in loaded.skipped.items():
            console.print_message(f"skipped: {count:,} lines, {reason}", style="yellow")


def _row(model: str, version: str, values: dict[str, Any]) -> list[str]:
    rates = [values[name] for name in RATES]
    return [
        model,
        version,
        *(f"{values[name]:,}" for name in COUNTS),
        *("-" if r is None else f"{r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in rates),
    ]


def _parse_since(text: str) -> float | None:
    try:
        return parse_time(text, "--since")
    except DataError as error:
        raise ConfigError(str(error)) from None
