"""Command on what people made of answers: feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dagrec.cli import console
from dagrec.cli import options as opts
from dagrec.data.formats.draft import parse_time
from dagrec.errors import ConfigError, DagrecError, DataError


def feedback(
    folder: Annotated[
        Path,
        typer.Argument(help="what `dagrec serve --feedback` wrote"),
    ],
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="leave out what was reported before: ISO 8601, UTC if no zone"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSON file that gets each step that was taken, to train on"),
    ] = None,
    json: opts.Json = None,
) -> None:
    """Say how good the answers were to those who asked: hit rate, accuracy at 1 and MRR of each model.

    Of several reports on an answer the last word counts. It is decided where a service was taken, one
    of those shown (taken) or another (elsewhere), or where all were refused; where only some were
    refused it is undecided, and no rate counts it. A service at rank r counts 1/r in the MRR, and what
    was not shown 0. In brackets: 95 % intervals (Wilson's; the bootstrap's for the MRR).
    """
    from dagrec.feedback.outcomes import by_model, finals, read_feedback, summary, training_documents

    found = read_feedback(folder, None if since is None else _moment(since))
    ends = finals(found.decisions)
    models = by_model(ends)
    total = summary(ends)
    if out is not None:
        documents = list(training_documents(ends))
        if not documents:
            raise DagrecError(f"--out {out}: needs a step that was taken after a path, found none")
        console.write_json(str(out), documents)
    if json is not None:
        counts = {"files": found.files, "lines": found.lines, "skipped": dict(found.skipped)}
        console.write_json(json, counts | {"all": total, "models": models})
    if json != "-":
        rows = [[m["model"], m["version"], *_cells(m)] for m in [*models, _named(total)]]
        console.table(f"{folder}, {found.lines:,} reports", list(COLUMNS), rows, texts=2)
        for reason, count in found.skipped.items():
            console.say(f"skipped: {count:,} lines, {reason}", style="yellow")


COUNTS = ("decided", "taken", "elsewhere", "refused", "undecided")
RATES = ("hit_rate", "accuracy@1", "mrr")
COLUMNS = ("model", "bundle", *COUNTS, *(name.replace("_", " ") for name in RATES))


def _named(total: dict[str, Any]) -> dict[str, Any]:
    return {"model": "(all)", "version": "", **total}


def _cells(values: dict[str, Any]) -> list[str]:
    rates = [values[name] for name in RATES]
    return [
        *(f"{values[name]:,}" for name in COUNTS),
        *("-" if r is None else f"{r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]" for r in rates),
    ]


def _moment(text: str) -> float | None:
    try:
        return parse_time(text, "--since")
    except DataError as error:
        raise ConfigError(str(error)) from None
