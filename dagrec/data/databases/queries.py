"""Rows of SQL queries as tables, which are call logs, edge lists or n8n workflows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from dagrec.data.databases import n8n
from dagrec.data.databases.connection import Database
from dagrec.data.formats import calls, edges
from dagrec.data.formats import n8n as n8n_format
from dagrec.data.formats.base import Document, Format, Reading
from dagrec.data.formats.documents import describe_value
from dagrec.data.formats.rows import Row, Table
from dagrec.errors import ConfigError, DataError

FORMATS = (n8n_format.FORMAT, edges.FORMAT, calls.FORMAT)
"""The formats that rows can have, in the order in which they are tried."""


@dataclass(frozen=True)
class QueryTable(Table):
    """The result of a query, with its cells as text."""

    database: Database | None = None
    records: Iterable[Any] = ()

    def rows(self, reading: Reading) -> Iterator[Row]:
        """Yield the rows, and reject those with cells that are too large or no text."""
        self.check_names()
        assert self.database is not None
        for number, record in enumerate(self.database.limited(self.records), start=1):
            try:
                self.database.check_cells(record, self.names)
                pairs = zip(record, self.names, strict=True)
                cells = [cell_text(value, name) for value, name in pairs]
            except DataError as error:
                reading.reject(error.at(f"row {number}"))
                continue
            yield number, cells


def cell_text(value: Any, name: str) -> str:
    """A cell as text, as it would be in a CSV file; empty for NULL."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview | list | dict | tuple):
        raise DataError(
            f"the column {name!r} must have text, numbers or times, found {type(value).__name__}; "
            "convert it with CAST",
            rule="wrong-type",
        )
    return str(value)


def documents_of_query(
    sql: str, database: Database, reading: Reading
) -> tuple[Format, Iterator[Document]]:
    """Run a query, and return the format of its rows and their compositions."""
    result = database.query(sql)
    table = QueryTable("", "", list(result.keys()), row_name="row", database=database, records=result)
    format_ = _format(table, reading)
    if format_ is n8n_format.FORMAT:
        return format_, n8n.documents_of_rows(result, list(table.names), database, reading)
    documents = edges.documents_of_edges if format_ is edges.FORMAT else calls.documents_of_log
    return format_, documents(table, reading)


def _format(table: Table, reading: Reading) -> Format:
    options = reading.options
    given = options.format
    if given != "auto":
        found = next((format_ for format_ in FORMATS if format_.name == given), None)
        if found is None:
            names = ", ".join(format_.name for format_ in FORMATS)
            raise ConfigError(f"the rows of a query can have the formats {names}, found {given!r}")
        return found
    if {"nodes", "connections"} <= set(table.names):
        return n8n_format.FORMAT
    if edges.is_edge_list(table, options):
        return edges.FORMAT
    if calls.is_log(table, options):
        return calls.FORMAT
    # The readers name the nearest column to an option.
    if options.source_column or options.target_column or options.composition_column:
        return edges.FORMAT
    if options.owner_column or options.service_column:
        return calls.FORMAT
    there = ", ".join(describe_value(name) for name in table.names)
    raise DataError(
        "--query must give the columns of a call log (owner, service, time), of an edge list (source, "
        f"target, composition) or of n8n workflows (nodes, connections), found {there}; rename them "
        "with AS, or name them with --owner-column and similar options",
        rule="unknown-format",
    )
