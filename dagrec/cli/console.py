"""What the command line shows: tables on standard output, progress and messages on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dagrec.errors import DagrecError
from dagrec.evaluation.tables import result_tables
from dagrec.files import replace_file
from dagrec.progress import Progress
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.explain import Explanation
from dagrec.training.runtime import is_first_process

# Where nothing shows the width (a pipe, a file), a table gets what it needs instead of 80 columns.
# Of processes that train together, only the first speaks.
quiet = not is_first_process()
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160, quiet=quiet)
err = Console(stderr=True, highlight=False, quiet=quiet)


def say(message: str, style: str | None = None) -> None:
    """A line for the person, on standard error; nothing in it is read as markup."""
    err.print(message, style=style, markup=False, soft_wrap=True)


def complain(message: str) -> None:
    """Why the command failed, on standard error; every process of several says it."""
    Console(stderr=True, highlight=False).print(
        f"dagrec: {message}", style="red", markup=False, soft_wrap=True
    )


def write_file(path: Path, content: str | bytes) -> None:
    """Write a result, its folder included, and say so. Raises :class:`DagrecError` where it cannot."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise DagrecError(
            f"{path}: cannot be written: {error.strerror}; choose another place"
        ) from None
    say(f"written to {path}")


def write_json(target: str, value: object) -> None:
    """JSON to a file, or to standard output where the target is ``-``."""
    if quiet:
        return
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    write_file(Path(target), text)


def progress() -> Progress:
    """Progress of this command, on standard error."""
    return Progress(enabled=not quiet)


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, texts: int = 1
) -> None:
    """A plain table: the first columns, those of texts, to the left, the others to the right."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i < texts else "right", no_wrap=i == 0)
    for row in rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    _print(title, shown)


def pairs(title: str, values: Mapping[str, object]) -> None:
    """A two-column list of names and values."""
    shown = Table(box=None, pad_edge=False, show_header=False)
    for name, value in values.items():
        text = f"{value:,}" if isinstance(value, int) else str(value)
        shown.add_row(name.replace("_", " "), Text(text))
    _print(title, shown)


def _print(title: str, shown: Table) -> None:
    """A title that is not wrapped, and a table. Keys come as ``Text``: ``[/b]`` is no markup."""
    out.print(Text(title, style="italic"), soft_wrap=True)
    out.print(shown)


def moment(seconds: float | None) -> str:
    """Seconds since 1970 as a date and time of day, where the calendar reaches so far."""
    if seconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def result_table(result: Mapping[str, Any], against: str | None = None) -> None:
    """The tables of an evaluation, and its warnings."""
    for each in result_tables(result, against):
        table(each.title, each.columns, each.rows, texts=each.texts)
        for note in each.notes:
            out.print(note, markup=False, soft_wrap=True)
    for warning in result["warnings"]:
        say(f"note: {warning}", style="yellow")


def answer_table(answer: Answer | Answers) -> None:
    """One answer for a person, or several: of each node, the models side by side."""
    if isinstance(answer, Answers):
        for _, group in groupby(answer.answers, key=lambda each: each.at):
            _side_by_side(list(group))
        return
    rows = [[p.service, f"{p.probability:.4f}", p.support] for p in answer.predictions]
    title = f"{answer.model} ({answer.strategy}), {answer.candidates} candidates, {_heading(answer)}"
    _remarks(answer)
    table(title, ["service", "probability", "support"], rows)


def _side_by_side(answers: Sequence[Answer]) -> None:
    ranks = range(max(len(answer.predictions) for answer in answers))
    rows = [[str(rank + 1), *(_cell(answer, rank) for answer in answers)] for rank in ranks]
    _remarks(answers[0])
    table(
        _heading(answers[0]), ["", *(answer.model for answer in answers)], rows, texts=len(answers) + 1
    )


def _cell(answer: Answer, rank: int) -> str:
    if rank >= len(answer.predictions):
        return ""
    prediction = answer.predictions[rank]
    return f"{prediction.service} {prediction.probability:.3f}"


def _heading(answer: Answer) -> str:
    place = "" if answer.at is None else f"after node {answer.at}, "
    return f"{place}mask {answer.mask.value}, bundle {answer.version}"


def _remarks(answer: Answer) -> None:
    """Why it fell back, and what it did not know."""
    if answer.why:
        say(answer.why, style="yellow")
    if answer.unknown:
        say(f"unknown to training: {', '.join(answer.unknown)}", style="yellow")


def explanation_tables(found: Explanation) -> None:
    """Why these services, for a person."""
    rows = [
        [s.service, " > ".join(s.after) or "-", s.compositions, ", ".join(s.examples)]
        for s in found.steps
    ]
    table(
        "training compositions that made the step",
        ["service", "after", "compositions", "such as"],
        rows,
        texts=2,
    )
    near = [
        [
            " > ".join(n.path),
            f"{n.similarity:.2f}",
            n.compositions,
            ", ".join(f"{f.service} ({f.compositions})" for f in n.next),
        ]
        for n in found.nearest
    ]
    table("nearest contexts of training", ["path", "similarity", "compositions", "what followed"], near)
    if found.weights is not None:
        rows = [[w.of, f"{w.weight:.3f}"] for w in found.weights]
        table("what the model weighed", ["of", "weight"], rows)
