"""What is read of a database: a source by its name, or a query."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dagrec.data.databases import galaxy, n8n
from dagrec.data.databases.connection import Database, connect
from dagrec.data.databases.queries import documents_of_query
from dagrec.data.databases.urls import DatabaseUrl
from dagrec.data.formats.base import Document, Format, Reading
from dagrec.data.formats.galaxy_ga import FORMAT as GALAXY
from dagrec.data.formats.n8n import FORMAT as N8N
from dagrec.errors import ConfigError

SOURCES = {"n8n-db": (N8N, n8n.documents), "galaxy-db": (GALAXY, galaxy.documents)}


@contextmanager
def open_documents(url: DatabaseUrl, reading: Reading) -> Iterator[tuple[Format, Iterator[Document]]]:
    """Connect to a database, and return the format of what is read and the compositions.

    They can be read until the end of the block. Raises :class:`DataError`, which does not name the
    database, and :class:`ConfigError` if the options do not fit.
    """
    options = reading.options
    if (options.source is None) == (options.query is None):
        found = "neither" if options.query is None else "both"
        raise ConfigError(
            f"a database needs either --query SQL or --source ({', '.join(SOURCES)}), found {found}"
        )
    if options.source is not None and options.format not in ("auto", SOURCES[options.source][0].name):
        raise ConfigError(
            f"--source {options.source} has the format {SOURCES[options.source][0].name}, found "
            f"--format {options.format}; leave it out"
        )
    with connect(url, options) as database:
        yield _documents(database, reading)


def _documents(database: Database, reading: Reading) -> tuple[Format, Iterator[Document]]:
    if reading.options.query is not None:
        return documents_of_query(reading.options.query, database, reading)
    assert reading.options.source is not None
    format_, documents = SOURCES[reading.options.source]
    return format_, documents(database, reading)
