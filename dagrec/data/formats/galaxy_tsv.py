"""Galaxy workflow connections as ``gxadmin query workflow-connections`` prints them.

They are tab-separated rows without a header (``gxadmin tsvquery``), or the table that psql prints, with
a header, a line of dashes and the number of rows at the end.

Columns: workflow id, updated, source step, source tool, source version, target step, target tool,
target version, then the input (only in some exports) and flags: published, deleted, has errors. A step
without a tool is an input data set. Deleted workflows and those with errors are read, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import check_key, describe_value, plain_text
from dagrec.data.formats.rows import Row, numbered_rows
from dagrec.data.formats.times import parse_time
from dagrec.errors import DataError

INPUT = "__input__"
COLUMNS = ("wf_id", "wf_updated", "in_id", "in_tool", "in_tool_v", "out_id", "out_tool", "out_tool_v")
INPUT_COLUMNS = ("in_name", "input_name", "name")
FLAGS = {
    "published": "published workflows",
    "deleted": "deleted workflows",
    "has_errors": "workflows with errors",
}
"""The columns with flags, and what they say of a workflow."""
EITHER = "deleted workflows or workflows with errors"
"""What the only column with flags says, in the export with inputs."""
FLAG_VALUES = frozenset({"t", "f", ""})
RULE = re.compile(r"-+(\+-+){6,}")
"""The line of psql between the header and the rows."""
FOOTER = re.compile(r"\(\d+ rows?\)|Time: .*")
HEADER_LINES = 5
"""The header of psql is one of the first lines that are not blank."""


def tool_key(tool_id: str) -> str:
    """Return the ``tool`` part of a toolshed id ``host/repos/owner/repo/tool/version``, or the id."""
    parts = tool_id.split("/")
    return parts[-2] if len(parts) >= 6 and parts[1] == "repos" and parts[-2] else tool_id


def step_node(id_: str, tool_id: str, text: str | None = None) -> Node:
    """Return the node of a step: a service if the step has a tool, else an input data set."""
    if not tool_id:
        return Node(id=id_, key=INPUT, kind="data", text=text)
    return Node(id=id_, key=tool_key(tool_id), text=text)


class _Columns(NamedTuple):
    """The indices of the columns."""

    id: int = 0
    updated: int | None = 1
    source: int = 2
    source_tool: int = 3
    target: int = 5
    target_tool: int = 6
    input: int | None = None
    flags: Mapping[str, int] = {}
    """What a flag says -> the index of its column."""

    @classmethod
    def named(cls, names: Sequence[str]) -> _Columns | None:
        """The columns of a header, or None if a necessary one is missing."""
        index = {name: number for number, name in enumerate(names)}
        needed = [index.get(COLUMNS[number]) for number in (0, 2, 3, 5, 6)]
        if None in needed:
            return None
        id_, source, source_tool, target, target_tool = (number or 0 for number in needed)
        input_ = next((index[name] for name in INPUT_COLUMNS if name in index), None)
        flags = {text: index[name] for name, text in FLAGS.items() if name in index}
        updated = index.get("wf_updated")
        return cls(id_, updated, source, source_tool, target, target_tool, input_, flags)

    @classmethod
    def of_rows(cls, rows: Sequence[Row]) -> _Columns:
        """The columns of rows without a header: those after the eighth are told by their values."""
        first = len(COLUMNS)
        width = max((len(row) for _, row in rows), default=first)
        are_flags = [
            all(len(row) <= index or row[index] in FLAG_VALUES for _, row in rows)
            and any(len(row) > index and row[index] for _, row in rows)
            for index in range(first, min(width, first + 4))
        ]
        if are_flags[:1] == [True] and width == first + len(FLAGS):
            return cls(flags=dict(zip(FLAGS.values(), range(first, width), strict=True)))
        if are_flags[1:] == [True] * len(FLAGS):
            return cls(
                input=first, flags=dict(zip(FLAGS.values(), range(first + 1, width), strict=False))
            )
        return cls(input=first, flags={EITHER: first + 2} if are_flags[2:] == [True] else {})


def _recognises(content: Content, options: ReadOptions) -> bool:
    if content.is_json or content.is_yaml:
        return False
    if _psql_header(content.text) is not None:
        return True
    lenient = Reading(ReadOptions(on_error="skip"))
    _, row = next(numbered_rows(content.text, "\t", lenient, quoted=False), (0, []))
    if len(row) < len(COLUMNS) or not (row[0] and row[2] and row[5]):
        return False
    if _Columns.named(row) is not None or (row[2].isdecimal() and row[5].isdecimal()):
        return True
    try:
        return parse_time(row[1], "updated") is not None
    except DataError:
        return False


def _psql_header(text: str) -> tuple[int, list[str]] | None:
    """The number of the line with the header of a psql table of connections, and its columns."""
    start = len(text) - len(text.lstrip("\n"))
    lines = text[start:].split("\n", HEADER_LINES + 1)[: HEADER_LINES + 1]
    for number, (line, rule) in enumerate(pairwise(lines), start=start + 1):
        if "|" in line and RULE.fullmatch(rule.strip()):
            names = [name.strip() for name in line.split("|")]
            return (number, names) if _Columns.named(names) else None
    return None


def _rows(text: str, reading: Reading) -> tuple[list[Row], _Columns]:
    """The rows that have the necessary cells, and the columns. Others are rejected."""
    header = _psql_header(text)
    columns: _Columns | None = None
    found: Iterator[Row]
    if header is not None:
        line, names = header
        columns, width, separated = _Columns.named(names), len(names), ""
        found = _psql_rows(text, line + 1)
    else:
        width, separated = len(COLUMNS), "tab-separated "
        found = numbered_rows(text, "\t", reading, quoted=False)
    rows: list[Row] = []
    for number, row in found:
        if header is None and not rows and columns is None:
            columns = _Columns.named(row)
            if columns is not None:
                continue
        needed = columns or _Columns()
        if len(row) < width or not (row[needed.id] and row[needed.source] and row[needed.target]):
            line_text = "\t".join(row)
            message = (
                f"line {number}: a row needs at least {width} {separated}columns with workflow id, "
                f"source step and target step, found {describe_value(line_text)}; correct it"
            )
            reading.reject(DataError(message, rule="bad-row"))
            continue
        rows.append((number, row))
    return rows, columns or _Columns.of_rows(rows)


def _psql_rows(text: str, skipped: int) -> Iterator[Row]:
    """The rows of a psql table below its header, without the number of rows at the end."""
    for number, line in enumerate(text.split("\n"), start=1):
        if number > skipped and line.strip() and not FOOTER.fullmatch(line.strip()):
            yield number, [cell.strip() for cell in line.split("|")]


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    rows, columns = _rows(content.text, reading)
    workflows: dict[str, list[Row]] = {}
    for number, row in rows:
        workflows.setdefault(row[columns.id], []).append((number, row))
    for id_, own in workflows.items():
        yield Document(f"workflow {id_}", partial(_draft, own, columns, reading))


def _draft(rows: Sequence[Row], columns: _Columns, reading: Reading) -> Draft:
    tools: dict[str, str] = {}
    links = []
    times = []
    for number, row in rows:
        source, target = row[columns.source], row[columns.target]
        for step, tool in ((source, row[columns.source_tool]), (target, row[columns.target_tool])):
            check_key(step, f"line {number}: step")
            if tools.setdefault(step, tool) != tool:
                raise DataError(
                    f"line {number}: step {step!r} must have one tool, found {describe_value(tool)} "
                    f"after {describe_value(tools[step])}; correct the row",
                    rule="two-tools",
                )
            check_key(tool, f"line {number}: tool")
        links.append(Wire(source, target, input=plain_text(_cell(row, columns.input))))
        times.append(reading.time(_cell(row, columns.updated), f"line {number}: updated"))
    id_ = check_key(rows[0][1][columns.id], "workflow id")
    for text, index in columns.flags.items():
        if any(_cell(row, index) == "t" for _, row in rows):
            reading.notes[text] += 1
    return Draft(
        id=id_,
        nodes=[step_node(step, tool) for step, tool in tools.items()],
        links=links,
        time=max((time for time in times if time is not None), default=None),
    )


def _cell(row: Sequence[str], index: int | None) -> str | None:
    return row[index] if index is not None and index < len(row) else None


FORMAT = Format(
    name="galaxy-tsv",
    description="Galaxy workflow connections, one link per row (gxadmin)",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".tsv",),
)
