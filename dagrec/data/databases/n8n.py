"""Workflows in the database of n8n: the table ``workflow_entity``, or a query with such columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from dagrec.data.databases.connection import Database
from dagrec.data.formats import n8n
from dagrec.data.formats.base import Document, Draft, Reading
from dagrec.data.formats.documents import Json, describe_value, parse_json
from dagrec.errors import DataError

REQUIRED = ("id", "nodes", "connections")
OPTIONAL = ("name", "description", "active", "isArchived", "createdAt", "updatedAt")
BATCH = 20
"""The number of workflows that are fetched at once; they can be large."""


def documents(database: Database, reading: Reading) -> Iterator[Document]:
    """The workflows of n8n, in the order of their ids. Archived ones are left out and counted."""
    from sqlalchemy import select

    table = database.table("workflow_entity", REQUIRED, OPTIONAL)
    names = [column.name for column in table.columns]
    rows = database.rows(select(table).order_by(table.c.id), BATCH)
    yield from documents_of_rows(rows, names, database, reading)


def documents_of_rows(
    rows: Iterable[Any], names: Sequence[str], database: Database, reading: Reading
) -> Iterator[Document]:
    """The workflows in rows with the columns ``nodes``, ``connections`` and others of n8n."""
    for number, row in enumerate(database.limited(rows), start=1):
        values = dict(zip(names, row, strict=True))
        if values.get("isArchived"):
            reading.notes["archived workflows left out"] += 1
            continue
        if "active" in values and not values["active"]:
            reading.notes["workflows that are not active"] += 1
        id_ = values.get("id")
        place = f"row {number}" if id_ is None else f"workflow {id_}"
        yield Document(place, partial(_draft, values, database, reading))


def _draft(values: dict[str, Any], database: Database, reading: Reading) -> Draft:
    database.check_cells(list(values.values()), list(values))
    workflow = {name: _plain(value) for name, value in values.items()}
    for name in ("nodes", "connections"):
        workflow[name] = _json(values[name], name)
    return n8n.draft(workflow, reading)


def _plain(value: Any) -> Json:
    return value.isoformat() if isinstance(value, datetime) else value


def _json(value: Any, name: str) -> Json:
    """A column of JSON, which databases give as text or as parsed."""
    if isinstance(value, bytes | bytearray | memoryview):
        value = bytes(value).decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        try:
            return parse_json(value)
        except DataError as error:
            raise error.at(name) from None
    if isinstance(value, dict | list):
        return value
    raise DataError(f"{name} must be JSON, found {describe_value(value)}", rule="not-json")
