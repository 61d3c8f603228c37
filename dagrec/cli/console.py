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

SHOWN = ("accuracy", "hr@5", "mrr", "ndcg@10", "macro_f1", "nll")
"""Metrics in the printed table; the JSON has all of them."""


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
    """The models of an evaluation with their intervals, and the lines to read them against.

    Differences are shown to the model ``against``, or to the most accurate one; the JSON has them all.
    """
    rows = []
    for label, model in result["models"].items():
        metrics = model["metrics"]
        cells = [f"{metrics[m]['mean']:.3f}±{_half(metrics[m])}" for m in SHOWN]
        rows.append([label, *cells, f"{model['seconds']['fit']:.2f}"])
    reference = result["reference"]
    for name in ("random", "popularity"):
        rows.append([f"({name})", *(f"{reference[name][m]:.3f}     " for m in SHOWN), ""])
    mask = result["mask"] if isinstance(result["mask"], str) else "by variant"
    title = (
        f"{result['data']['path']}: protocol {result['protocol']}, mask {mask}, "
        f"{result['repeats']} repeats, {result['data']['examples']:,} examples"
    )
    table(title, ["model", *SHOWN, "fit s"], rows)
    out.print(
        f"In brackets: what equal scores, and frequencies, give under the same mask. It lets through "
        f"{reference['ceiling']:.3f} of the targets; {reference['unseen_links']:.3f} of the links were "
        f"never seen in training. Best possible accuracy of a function of the context: "
        f"{reference['oracle_context']:.3f}; of context and owner: "
        f"{reference['oracle_context_owner']:.3f}. ± is half the interval ({result['interval']})."
    )
    if result["comparisons"]:
        _comparisons(result, against)
    for warning in result["warnings"]:
        say(f"note: {warning}", style="yellow")


def _comparisons(result: Mapping[str, Any], against: str | None) -> None:
    models = result["models"]
    anchor = against or max(models, key=lambda label: models[label]["metrics"]["accuracy"]["mean"])
    rows = []
    for row in result["comparisons"]:
        if anchor not in (row["a"], row["b"]):
            continue
        sign = 1 if row["b"] == anchor else -1
        ends = sorted((sign * row["low"], sign * row["high"]))
        rows.append(
            [
                row["a"] if sign == 1 else row["b"],
                row["metric"],
                f"{sign * row['difference']:+.3f}",
                f"{ends[0]:+.3f} .. {ends[1]:+.3f}",
                f"{row['p_holm']:.3f}",
                "yes" if row["resolved"] else "no",
            ]
        )
    columns = ["model", "metric", "difference", "interval", "p (Holm)", "resolved"]
    table(f"difference to {anchor}", columns, rows)


def _half(estimate: Mapping[str, float]) -> str:
    """Half the interval, without the zero in front of the point."""
    return f"{(estimate['high'] - estimate['low']) / 2:.3f}".removeprefix("0")


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
