"""Logs of calls, or any user-item table: CSV or TSV with an owner, a service and a time column.

Each owner's calls in the order of time are one path; with a session gap, each run of calls without a
longer pause is. Every node is a service, and its key is the cell (``service_<mid>`` for a column
``mid``). The column names are options; where none is given, the first of the usual ones is taken.
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

USUAL = {
    "owner": ("owner", "user", "user_id", "userid", "session", "session_id", "sessionid"),
    "service": ("service", "mid", "item", "item_id", "itemid", "tool", "tool_id"),
    "time": ("time", "start_time", "timestamp", "date", "created", "ts"),
}
SEPARATORS = (";", "\t", ",")


class CallRow(NamedTuple):
    """A call of a service: when (None: where the file has no times), its line, by whom, and the key."""

    time: float | None
    line: int
    owner: str
    key: str

    def order(self) -> tuple[float, int]:
        """Sorted by this, calls are in the order of time, then of the file."""
        return (0.0 if self.time is None else self.time, self.line)


def _header(text: str) -> tuple[str, list[str]]:
    """The separator and the column names of a table."""
    separator = max(SEPARATORS, key=text.lstrip().partition("\n")[0].count)
    _, names = next(numbered_rows(text, separator, []), (0, []))
    return separator, [name.strip() for name in names]


def _find(column: str, wanted: str | None, names: Sequence[str]) -> int | None:
    if wanted is not None:
        return names.index(wanted) if wanted in names else None
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in USUAL[column] if name in lower), None)


def _recognises(first: str | dict[str, Json]) -> bool:
    if not isinstance(first, str):
        return False
    _, names = _header(first)
    return all(_find(column, None, names) is not None for column in USUAL)


def _rows(text: str, options: ReadOptions, skipped: list[DataError] | None) -> Iterator[Document]:
    separator, names = _header(text)
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise DataError(
            f"a call log needs columns of different names, found {describe_value(repeated[0])} more than once; "
            "rename one of them",
            rule="duplicate-column",
        )
    wanted = (options.owner_column, options.service_column, options.time_column)
    places = []
    for column, name in zip(USUAL, wanted, strict=True):
        place = _find(column, name, names)
        if place is None:
            usual = "one of " + ", ".join(USUAL[column])
            raise DataError(
                f"a call log needs a column for the {column} ({name or usual}), found the columns "
                f"{', '.join(names)}; name it with --{column}-column",
                rule="missing-field",
            )
        places.append(place)
    calls: dict[str, list[CallRow]] = defaultdict(list)
    rows = numbered_rows(text, separator, skipped)
    next(rows)  # the header
    for line, row in rows:
        try:
            call = _call(row, line, names, places)
        except DataError as error:
            raise_or_collect(error.at(f"line {line}"), skipped)
        else:
            calls[call.owner].append(call)
    for owner, own in calls.items():
        for number, session in enumerate(
            sessions(sorted(own, key=CallRow.order), options.session_gap), start=1
        ):
            yield f"owner {owner}, session {number}", session


def _call(row: list[str], line: int, names: list[str], places: list[int]) -> CallRow:
    if len(row) != len(names):
        raise DataError(
            f"a row needs {len(names)} columns, found {len(row)}; correct it", rule="bad-row"
        )
    owner, service, time = (row[place].strip() for place in places)
    when = parse_time(time, "time")
    if when is None:
        raise DataError("a call needs a time, found nothing; add it", rule="bad-time")
    prefix = "service_" if names[places[1]].lower() == "mid" else ""
    return CallRow(when, line, require_id(owner, "owner"), prefix + require_id(service, "service"))


def sessions(calls: list[CallRow], gap: float | None) -> Iterator[list[CallRow]]:
    """Calls in order, cut where the pause is longer than ``gap`` minutes."""
    start = 0
    if gap is not None:
        for i, (before, after) in enumerate(pairwise(calls), start=1):
            if (after.time or 0.0) - (before.time or 0.0) > 60 * gap:
                yield calls[start:i]
                start = i
    yield calls[start:]


def draft_session(calls: Sequence[CallRow]) -> Draft:
    """The composition of calls in their order: one path."""
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
    about="call log or user-item table: CSV or TSV with owner, service and time; a path an owner",
    on_cycle="fail",
    recognises=_recognises,
    draft=_draft,
    rows=_rows,
)
