"""Call logs, or any user-item table: rows of text with an owner, a service and a time column.

The calls of an owner in the order of time are one composition, a path; without a time column, they are
in the order of the file. With a session gap, each session is one composition, and a session ends at a
pause that is longer than the gap. All nodes are services, and their key is the content of the cell
(``service_<mid>`` for a column ``mid``). The column names are options; the defaults are the usual names
below. In a file without a header, columns have the names 1, 2, 3 ...
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from dagrec.data.compositions import Node
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import require_id
from dagrec.data.formats.rows import Table
from dagrec.errors import DataError

USUAL_NAMES = {
    "owner": ("owner", "user", "user_id", "userid", "session", "session_id", "sessionid"),
    "service": ("service", "mid", "item", "item_id", "itemid", "tool", "tool_id"),
    "time": ("time", "start_time", "timestamp", "date", "created", "ts"),
}


class CallRow(NamedTuple):
    """A row of a call log. ``time`` is None if the log has no times; ``key`` is that of the service."""

    time: float | None
    line: int
    owner: str
    key: str

    def order(self) -> tuple[float, int]:
        """The sort key: by time, then by line."""
        return (0.0 if self.time is None else self.time, self.line)


def _column_options(options: ReadOptions) -> dict[str, str | None]:
    names = (options.owner_column, options.service_column, options.time_column)
    return dict(zip(USUAL_NAMES, names, strict=True))


def _table(content: Content, options: ReadOptions) -> Table:
    return Table.of(content.text, tuple(_column_options(options).values()))


def _recognises(content: Content, options: ReadOptions) -> bool:
    if content.is_json or content.is_yaml:
        return False
    return is_log(_table(content, options), options)


def is_log(table: Table, options: ReadOptions) -> bool:
    """Whether a table has columns for the owner and the service."""
    given = _column_options(options)
    return all(table.find(given[name], USUAL_NAMES[name]) is not None for name in ("owner", "service"))


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    return documents_of_log(_table(content, reading.options), reading)


def documents_of_log(table: Table, reading: Reading) -> Iterator[Document]:
    """The calls of each owner in a table, or each of their sessions."""
    options, given = reading.options, _column_options(reading.options)
    columns: list[int | None] = [
        table.column(name, given[name], USUAL_NAMES[name], f"--{name}-column")
        for name in ("owner", "service")
    ]
    if given["time"] is not None:
        columns.append(table.column("time", given["time"], (), "--time-column"))
    else:
        columns.append(table.find(None, USUAL_NAMES["time"]))
    if columns[2] is None:
        if options.session_gap is not None:
            raise DataError(
                "sessions need a time column, found none; name it with --time-column", rule="no-time"
            )
        reading.notes["files without times, read in the order of their rows"] += 1
    calls: dict[str, list[CallRow]] = defaultdict(list)
    rows: set[tuple[str, ...]] = set()
    for line, row in table.rows(reading):
        try:
            call = _call(row, line, table.names, columns, reading)
        except DataError as error:
            reading.reject(error.at(f"{table.row_name} {line}"))
            continue
        calls[call.owner].append(call)
        if columns[2] is not None and (cells := tuple(row)) in rows:
            reading.notes["rows given more than once"] += 1
        elif columns[2] is not None:
            rows.add(cells)
    for owner, owner_calls in calls.items():
        ordered = sorted(owner_calls, key=CallRow.order)
        for number, session in enumerate(sessions(ordered, options.session_gap), start=1):
            yield Document(f"owner {owner}, session {number}", partial(draft_session, session))


def _call(
    row: list[str],
    line: int,
    names: Sequence[str],
    columns: Sequence[int | None],
    reading: Reading,
) -> CallRow:
    owner, service, time = ("" if index is None else row[index].strip() for index in columns)
    seconds = reading.time(time, "time")
    if seconds is None and columns[2] is not None:
        raise DataError("a call needs a time, found nothing; add it", rule="bad-time")
    prefix = "service_" if names[columns[1] or 0].lower() == "mid" else ""
    return CallRow(seconds, line, require_id(owner, "owner"), prefix + require_id(service, "service"))


def sessions(calls: list[CallRow], gap: float | None) -> Iterator[list[CallRow]]:
    """Split ordered calls at pauses of more than ``gap`` minutes."""
    start = 0
    if gap is not None:
        for i, (before, after) in enumerate(pairwise(calls), start=1):
            if (after.time or 0.0) - (before.time or 0.0) > 60 * gap:
                yield calls[start:i]
                start = i
    yield calls[start:]


def draft_session(calls: Sequence[CallRow]) -> Draft:
    """Return the draft of a session, a path of its calls."""
    nodes = [Node(id=str(call.line), key=call.key, time=call.time) for call in calls]
    return Draft(
        id=f"{calls[0].owner}-{nodes[0].id}",
        nodes=nodes,
        links=[(before.id, after.id) for before, after in pairwise(nodes)],
        owner=calls[0].owner,
        time=calls[-1].time,
    )


FORMAT = Format(
    name="calls",
    description="call log or user-item table (CSV, TSV) of owner, service and time; one path per owner",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".csv", ".tsv", ".dat", ".psv"),
    examples="paths",
    fields=tuple(name for names in USUAL_NAMES.values() for name in names),
)
