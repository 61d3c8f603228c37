"""Output of the commands: results on standard output, messages and progress on standard error."""

from __future__ import annotations

import io
import json
import os
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
from dagrec.output.files import replace_file
from dagrec.output.progress import Progress
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.explain import Explanation
from dagrec.training.runtime import is_first_process

if sys.stdout is None:  # it was closed before the start
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # some terminals cannot show every character
        stream.reconfigure(errors="backslashreplace")

# In distributed training, only the first process prints. A pipe or a file has no width, so tables are
# allowed more than the 80 columns that rich assumes.
quiet = not is_first_process()
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160, quiet=quiet)
err = Console(stderr=True, highlight=False, quiet=quiet)


def print_message(text: str, style: str | None = None) -> None:
    """Print a line to standard error, without interpreting markup."""
    err.print(text, style=style, markup=False, soft_wrap=True)


def print_error(text: str) -> None:
    """Print an error to standard error, in every process of a distributed training."""
    Console(stderr=True, highlight=False).print(
        f"dagrec: {text}", style="red", markup=False, soft_wrap=True
    )


def write_file(path: Path, content: str | bytes) -> None:
    """Write a file and its folder, and print a message. Raises :class:`DagrecError` if it cannot."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise DagrecError(
            f"{path}: cannot be written: {error.strerror}; choose another place"
        ) from None
    print_message(f"written to {path}")


def write_json(target: str, value: object) -> None:
    """Write JSON to a file, or to standard output if ``target`` is ``-``."""
    if quiet:
        return
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
        return
    write_file(Path(target), text)


def progress() -> Progress:
    """The progress of a command, shown on standard error."""
    return Progress(enabled=not quiet)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, texts: int = 1
) -> None:
    """Print a table; the first ``texts`` columns are aligned left, the others right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < texts else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    _print_titled(title, table)


def print_pairs(title: str, values: Mapping[str, object]) -> None:
    """Print a table of names and values."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in values.items():
        text = f"{value:,}" if isinstance(value, int) else str(value)
        table.add_row(name.replace("_", " "), Text(text))
    _print_titled(title, table)


def _print_titled(title: str, table: Table) -> None:
    # Text, unlike str, is not parsed as markup, so that keys such as ``[/b]`` can be printed.
    out.print(Text(title, style="italic"), soft_wrap=True)
    out.print(table)


def format_time(seconds: float | None) -> str:
    """Format seconds since 1970 as a date and time in UTC, if the calendar includes it."""
    if seconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds").removesuffix("+00:00")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def print_result(result: Mapping[str, Any], against: str | None = None) -> None:
    """Print the tables and warnings of an evaluation; differences are relative to ``against``."""
    for table in result_tables(result, against):
        print_table(table.title, table.columns, table.rows, texts=table.texts)
        for note in table.notes:
            out.print(note, markup=False, soft_wrap=True)
    for warning in result["warnings"]:
        print_message(f"note: {warning}", style="yellow")


def print_answer(answer: Answer | Answers) -> None:
    """Print an answer; those of several models for the same node are printed side by side."""
    if isinstance(answer, Answers):
        for _, group in groupby(answer.answers, key=lambda each: each.at):
            _print_side_by_side(list(group))
        return
    _print_fallbacks(answer)
    print_table(
        f"{answer.model} ({answer.strategy}), {answer.candidates} candidates, {_heading(answer)}",
        ["service", "probability", "support"],
        [[p.service, f"{p.probability:.4f}", p.support] for p in answer.predictions],
    )


def _print_side_by_side(answers: Sequence[Answer]) -> None:
    num_rows = max(len(answer.predictions) for answer in answers)
    _print_fallbacks(answers[0])
    print_table(
        _heading(answers[0]),
        ["", *(answer.model for answer in answers)],
        [[str(i + 1), *(_cell(answer, i) for answer in answers)] for i in range(num_rows)],
        texts=len(answers) + 1,
    )


def _cell(answer: Answer, row: int) -> str:
    if row >= len(answer.predictions):
        return ""
    prediction = answer.predictions[row]
    return f"{prediction.service} {prediction.probability:.3f}"


def _heading(answer: Answer) -> str:
    node = "" if answer.at is None else f"after node {answer.at}, "
    return f"{node}mask {answer.mask.value}, bundle {answer.version}"


def _print_fallbacks(answer: Answer) -> None:
    if answer.why:
        print_message(answer.why, style="yellow")
    if answer.unknown:
        print_message(f"not in the training data: {', '.join(answer.unknown)}", style="yellow")


def print_explanation(explanation: Explanation) -> None:
    """Print the tables of an explanation."""
    print_table(
        "training compositions with the same step",
        ["service", "after", "compositions", "for example"],
        [
            [step.service, " > ".join(step.after) or "-", step.compositions, ", ".join(step.examples)]
            for step in explanation.steps
        ],
        texts=2,
    )
    print_table(
        "most similar training contexts",
        ["path", "similarity", "compositions", "followed by"],
        [
            [
                " > ".join(context.path),
                f"{context.similarity:.2f}",
                context.compositions,
                ", ".join(f"{service.service} ({service.compositions})" for service in context.next),
            ]
            for context in explanation.nearest
        ],
    )
    if explanation.weights is not None:
        rows = [[weight.of, f"{weight.weight:.3f}"] for weight in explanation.weights]
        print_table("weights of the model", ["node or component", "weight"], rows)
