"""Call logs, or any user-item table: CSV or TSV with an owner, a service and a time column.

The calls of an owner in the order of time are one composition, a path. With a session gap, each session
is one, and a session ends at a pause that is longer than the gap. All nodes are services, and their key
is the content of the cell (``service_<mid>`` for a column ``mid``). The column names are options; the
defaults are the usual names below.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from dagrec.data.compositions import Node
from dagrec.data.formats.documents import Document, Json, describe_value, raise_or_collect, require_id
from dagrec.data.formats.draft import Draft, Format, ReadOptions, parse_time
from dagrec.data.formats.rows import numbered_rows
from dagrec.errors import DataError

USUAL_NAMES = {
    "owner": ("owner", "user", "user_id", "userid", "session", "session_id", "sessionid"),
    "service": ("service", "mid", "item", "item_id", "itemid", "tool", "tool_id"),
    "time": ("time", "start_time", "timestamp", "date", "created", "ts"),
}
SEPARATORS = (";", "\t", ",")


class CallRow(NamedTuple):
    """A row of a call log. ``time`` is None if the log has no times; ``key`` is that of the service."""

    time: float | None
    line: int
    owner: str
    key: str

    def order(self) -> tuple[float, int]:
        """The sort key: by time, then by line."""
        return (0.0 if self.time is None else self.time, self.line)


def _header(text: str) -> tuple[str, list[str]]:
    """Return the separator and the column names of a table."""
    separator = max(SEPARATORS, key=text.lstrip().partition("\n")[0].count)
    _, names = next(numbered_rows(text, separator, []), (0, []))
    return separator, [name.strip() for name in names]


def _find_column(column: str, option: str | None, names: Sequence[str]) -> int | None:
    """Return the index of a column, by the name in its option or by its usual names, or None."""
    if option is not None:
        return names.index(option) if option in names else None
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in USUAL_NAMES[column] if name in lower), None)


def _recognises(first: str | dict[str, Json]) -> bool:
    if not isinstance(first, str):
        return False
    _, names = _header(first)
    return all(_find_column(column, None, names) is not None for column in USUAL_NAMES)


def _rows(text: str, options: ReadOptions, skipped: list[DataError] | None) -> Iterator[Document]:
    separator, names = _header(text)
    duplicates = [name for name, count in Counter(names).items() if name and count > 1]
    if duplicates:
        raise DataError(
            f"a call log needs columns of different names, found {describe_value(duplicates[0])} more "
            "than once; rename one of them",
            rule="duplicate-column",
        )
    column_options = (options.owner_column, options.service_column, options.time_column)
    indices = []
    for column, name in zip(USUAL_NAMES, column_options, strict=True):
        index = _find_column(column, name, names)
        if index is None:
            usual = "one of " + ", ".join(USUAL_NAMES[column])
            raise DataError(
                f"a call log needs a column for the {column} ({name or usual}), found the columns "
                f"{', '.join(names)}; name it with --{column}-column",
                rule="missing-field",
            )
        indices.append(index)
    calls: dict[str, list[CallRow]] = defaultdict(list)
    rows = numbered_rows(text, separator, skipped)
    next(rows)  # the header
    for line, row in rows:
        try:
            call = _call(row, line, names, indices)
        except DataError as error:
            raise_or_collect(error.at(f"line {line}"), skipped)
        else:
            calls[call.owner].append(call)
    for owner, owner_calls in calls.items():
        ordered = sorted(owner_calls, key=CallRow.order)
        for number, session in enumerate(sessions(ordered, options.session_gap), start=1):
            yield f"owner {owner}, session {number}", session


def _call(row: list[str], line: int, names: list[str], indices: list[int]) -> CallRow:
    if len(row) != len(names):
        raise DataError(
            f"a row needs {len(names)} columns, found {len(row)}; correct it", rule="bad-row"
        )
    owner, service, time = (row[index].strip() for index in indices)
    seconds = parse_time(time, "time")
    if seconds is None:
        raise DataError("a call needs a time, found nothing; add it", rule="bad-time")
    prefix = "service_" if names[indices[1]].lower() == "mid" else ""
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


def _draft(document: Json, options: ReadOptions) -> Draft:
    calls: list[CallRow] = document
    return draft_session(calls)


FORMAT = Format(
    name="calls",
    description="call log or user-item table (CSV, TSV) of owner, service and time; one path per owner",
    on_cycle="fail",
    recognises=_recognises,
    draft=_draft,
    rows=_rows,
)
