"""Galaxy workflow connections as ``gxadmin query workflow-connections`` prints them.

They are tab-separated rows without a header (``gxadmin tsvquery``), or the table that psql prints, with
a header, a line of dashes and the number of rows at the end.

Columns: workflow id, updated, source step, source tool, source version, target step, target tool,
target version, then input name and flags. A step without a tool is an input data set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import check_key, describe_value, plain_text
from dagrec.data.formats.rows import Row, numbered_rows
from dagrec.errors import DataError

INPUT = "__input__"
COLUMNS = 8
PSQL_RULE = re.compile(r"-+(\+-+){7,}")
PSQL_END = re.compile(r"\(\d+ rows?\)")
FLAGS = ("deleted", "has_errors")


def tool_key(tool_id: str) -> str:
    """Return the ``tool`` part of a toolshed id ``host/repos/owner/repo/tool/version``, or the id."""
    parts = tool_id.split("/")
    return parts[-2] if len(parts) >= 6 and parts[1] == "repos" and parts[-2] else tool_id


def step_node(id_: str, tool_id: str, text: str | None = None) -> Node:
    """Return the node of a step: a service if the step has a tool, else an input data set."""
    if not tool_id:
        return Node(id=id_, key=INPUT, kind="data", text=text)
    return Node(id=id_, key=tool_key(tool_id), text=text)


def _recognises(content: Content, options: ReadOptions) -> bool:
    if content.is_json or content.is_yaml:
        return False
    lenient = Reading(ReadOptions(on_error="skip"))
    _, row = next(_rows(content.text, lenient), (0, []))
    return len(row) >= COLUMNS


def _rows(text: str, reading: Reading) -> Iterator[Row]:
    """The rows of both forms; a psql table has its flags in the last columns, and no input names."""
    lines = text.lstrip("\n").split("\n", 2)
    is_psql = len(lines) > 2 and "|" in lines[0] and PSQL_RULE.fullmatch(lines[1]) is not None
    if not is_psql:
        yield from numbered_rows(text, "\t", reading, quoted=False)
        return
    skipped = len(text) - len(text.lstrip("\n"))
    names = [name.strip() for name in lines[0].split("|")]
    for number, line in enumerate(lines[2].split("\n"), start=skipped + 3):
        if not line.strip() or PSQL_END.fullmatch(line.strip()):
            continue
        cells = [cell.strip() for cell in line.split("|")]
        for name in FLAGS:
            if name in names and cells[names.index(name) : names.index(name) + 1] == ["t"]:
                reading.notes[f"links of workflows with {name}"] += 1
        input_ = names.index("in_name") if "in_name" in names else len(cells)
        yield number, cells[:COLUMNS] + cells[input_ : input_ + 1]


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    workflows: dict[str, list[Row]] = {}
    for number, row in _rows(content.text, reading):
        if len(row) < COLUMNS or not (row[0] and row[2] and row[5]):
            line = "\t".join(row)
            error = DataError(
                f"line {number}: a row needs at least {COLUMNS} tab-separated columns with workflow "
                f"id, source step and target step, found {describe_value(line)}; correct it",
                rule="bad-row",
            )
            reading.reject(error)
            continue
        workflows.setdefault(row[0], []).append((number, row))
    for id_, rows in workflows.items():
        yield Document(f"workflow {id_}", partial(_draft, rows, reading))


def _draft(rows: Sequence[Row], reading: Reading) -> Draft:
    tools: dict[str, str] = {}
    links = []
    times = []
    for number, row in rows:
        for step, tool in ((row[2], row[3]), (row[5], row[6])):
            check_key(step, f"line {number}: step")
            if tools.setdefault(step, tool) != tool:
                raise DataError(
                    f"line {number}: step {step!r} must have one tool, found {describe_value(tool)} "
                    f"after {describe_value(tools[step])}; correct the row",
                    rule="two-tools",
                )
            check_key(tool, f"line {number}: tool")
        input_ = plain_text(row[COLUMNS]) if len(row) > COLUMNS else None
        links.append(Wire(row[2], row[5], input=input_))
        times.append(reading.time(row[1], f"line {number}: updated"))
    return Draft(
        id=check_key(rows[0][1][0], "workflow id"),
        nodes=[step_node(step, tool) for step, tool in tools.items()],
        links=links,
        time=max((time for time in times if time is not None), default=None),
    )


FORMAT = Format(
    name="galaxy-tsv",
    description="Galaxy workflow connections, one link per row (gxadmin)",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".tsv",),
)
