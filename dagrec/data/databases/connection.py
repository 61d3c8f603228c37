"""Connections to databases: read-only, streamed and bounded, with errors of one line."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dagrec.data.databases.urls import EXAMPLES, DatabaseUrl
from dagrec.data.formats.base import ReadOptions
from dagrec.errors import ConfigError, DataError, did_you_mean, missing_package

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult, Engine, Executable, TableClause
    from sqlalchemy.engine.interfaces import DBAPIConnection

BATCH = 1000
"""The number of rows that are fetched at once, unless they are large."""
CONNECT_SECONDS = 10
MAX_REASON = 300
MAX_TABLES_SHOWN = 10
READ_ONLY = dict.fromkeys(("mysql", "mariadb", "oracle"), "SET TRANSACTION READ ONLY")
"""Statements that start a transaction which cannot write, by dialect. Others are below."""


@dataclass(frozen=True)
class Database:
    """An open connection to a database, in one transaction that only reads."""

    connection: Connection
    options: ReadOptions
    results: set[CursorResult[Any]] = field(default_factory=set)
    """Those that are open."""

    def query(self, sql: str) -> CursorResult[Any]:
        """Run a query of a user as it is written. It must be one statement that returns rows."""
        # Otherwise % and : would be the start of parameters.
        result = self.connection.exec_driver_sql(
            sql, execution_options={"no_parameters": True, "yield_per": BATCH}
        )
        self.results.add(result)
        if not result.returns_rows:
            raise DataError(
                "--query must give rows, found a statement without any; write SELECT",
                rule="bad-query",
            )
        return result

    def rows(self, statement: Executable, batch: int = BATCH) -> Iterator[Any]:
        """Stream the rows of a statement."""
        result = self.connection.execute(statement, execution_options={"yield_per": batch})
        self.results.add(result)
        yield from result
        self.results.discard(result)

    def close(self) -> None:
        """Close the results that were not read to their end."""
        while self.results:
            self.results.pop().close()

    def limited(self, rows: Iterable[Any]) -> Iterator[Any]:
        """Yield rows, and raise :class:`DataError` if they are more than the limit."""
        for number, row in enumerate(rows, start=1):
            if number > self.options.max_rows:
                raise DataError(
                    f"a database may give {self.options.max_rows:,} rows, found more; select fewer "
                    "with --query, or raise the limit with --max-rows",
                    rule="too-large",
                )
            yield row

    def table(self, name: str, required: Collection[str], optional: Collection[str]) -> TableClause:
        """Return a table with those of the columns that it has. Raises :class:`DataError`."""
        from sqlalchemy import column, inspect, table
        from sqlalchemy.exc import NoSuchTableError

        inspector = inspect(self.connection)
        try:
            found = {str(about["name"]) for about in inspector.get_columns(name)}
        except NoSuchTableError:
            found = set()
        if not found:
            tables = inspector.get_table_names() + inspector.get_view_names()
            there = ", ".join(sorted(tables)[:MAX_TABLES_SHOWN]) or "none"
            raise DataError(
                f"{self.options.source} needs the table {name}, found the tables {there}"
                f"{did_you_mean(name, tables)}; check the database, or use --query",
                rule="no-table",
            )
        if missing := [each for each in required if each not in found]:
            raise DataError(
                f"{self.options.source} needs the column {missing[0]} of the table {name}, found "
                f"the columns {', '.join(sorted(found))}; use --query",
                rule="missing-field",
            )
        return table(name, *(column(each) for each in (*required, *optional) if each in found))

    def check_cells(self, row: Sequence[Any], names: Sequence[str]) -> None:
        """Raise :class:`DataError` if a cell of a row is larger than a file may be."""
        limit = self.options.max_mb * 1_000_000
        for name, value in zip(names, row, strict=True):
            if isinstance(value, str | bytes | memoryview) and len(value) > limit:
                raise DataError(
                    f"the column {name!r} may have {self.options.max_mb} MB, found "
                    f"{len(value) / 1e6:.1f} MB; raise the limit with --max-mb",
                    rule="too-large",
                )


@contextmanager
def connect(url: DatabaseUrl, options: ReadOptions) -> Iterator[Database]:
    """Open a connection that only reads, and close it. Errors are :class:`DataError`, of one line."""
    from sqlalchemy.exc import SQLAlchemyError

    engine = _engine(url)
    is_connected = False
    try:
        with engine.connect() as connection:
            is_connected = True
            _only_read(connection, url.dialect)
            database = Database(connection, options)
            try:
                yield database
            finally:
                with suppress(SQLAlchemyError):  # the connection may be lost
                    database.close()
    except SQLAlchemyError as error:
        _fail(error, url, is_connected=is_connected)
    finally:
        engine.dispose()


def _engine(url: DatabaseUrl) -> Engine:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError
    from sqlalchemy.pool import NullPool

    about: dict[str, Any] = {"poolclass": NullPool, "hide_parameters": True}
    if url.dialect == "sqlite":
        file = _sqlite_file(url)
        about["creator"] = lambda: _open_sqlite(file)
    elif url.url.drivername in ("postgresql+psycopg", "postgresql+psycopg2"):
        defaults = {"connect_timeout": CONNECT_SECONDS, "application_name": "dagrec"}
        about["connect_args"] = {k: v for k, v in defaults.items() if k not in url.url.query}
        about["isolation_level"] = "REPEATABLE READ"  # all statements see the same state
        about["use_native_hstore"] = False
    try:
        return create_engine(url.url, **about)
    except NoSuchModuleError:
        raise DataError(
            f"must be a file, a folder or a database, found {url.url.drivername}://, which SQLAlchemy "
            f"does not know; write {EXAMPLES}, or install the package of its dialect",
            rule="bad-url",
        ) from None
    except ImportError as error:
        _fail_without_driver(error, url)
    except (ArgumentError, TypeError, ValueError) as error:
        raise DataError(
            f"must be the URL of a database, found {_reason(error, url)}; write {EXAMPLES}",
            rule="bad-url",
        ) from None


def _fail_without_driver(error: ImportError, url: DatabaseUrl) -> NoReturn:
    """Raise the error for a driver that is not installed or does not work."""
    feature = f"reading {url.url.drivername}://"
    package = (error.name or "").split(".")[0]
    if package == "psycopg" or "psycopg" in url.url.drivername.split("+"):
        missing = ModuleNotFoundError(name="psycopg[binary]")
        raise missing_package(feature, missing, "sql") from None
    raise ConfigError(
        f"{feature} needs the driver {package or 'of the database'!r}, found it not installed; install "
        "it, or name another driver in the URL, as in mysql+pymysql://"
    ) from None


def _sqlite_file(url: DatabaseUrl) -> Path:
    database = (url.url.database or "").removeprefix("file:")
    if database in ("", ":memory:"):
        raise DataError(
            "must name the file of a SQLite database, found none; write sqlite:///FILE", rule="bad-url"
        )
    file = Path(database)
    if not file.is_file():
        raise DataError(
            "must be the file of a SQLite database, found no such file; check the path (an absolute "
            "one has four slashes: sqlite:////folder/file)",
            rule="no-file",
        )
    return file


def _open_sqlite(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    # Text that is not UTF-8 is an error of its row, not of the whole query.
    connection.text_factory = lambda content: content.decode("utf-8", "surrogateescape")
    return connection


def _only_read(connection: Connection, dialect: str) -> None:
    """Let the transaction of a connection only read, where the database can."""
    if dialect == "postgresql":
        connection.execution_options(postgresql_readonly=True)
        _read_json_as_text(connection.connection.driver_connection)
    elif dialect == "sqlite":
        connection.exec_driver_sql("PRAGMA query_only = ON")
    elif dialect in READ_ONLY:
        connection.exec_driver_sql(READ_ONLY[dialect])


def _read_json_as_text(connection: DBAPIConnection | None) -> None:
    """Let psycopg return JSON as text, which is parsed within limits later."""
    adapters = getattr(connection, "adapters", None)
    if adapters is not None:
        from psycopg.types.string import TextLoader

        for name in ("json", "jsonb"):
            adapters.register_loader(name, TextLoader)


def _fail(error: Exception, url: DatabaseUrl, *, is_connected: bool) -> NoReturn:
    reason = _reason(error, url)
    if is_connected:
        raise DataError(
            f"the database must answer, found: {reason}; check --query or --source, and the rights of "
            "the user",
            rule="sql",
        ) from None
    raise DataError(
        f"the database must accept the connection, found: {reason}; check host, port, database, user "
        "and password",
        rule="no-connection",
    ) from None


def _reason(error: Exception, url: DatabaseUrl) -> str:
    """The message of a database in one line, without secrets."""
    message = str(getattr(error, "orig", None) or error).partition("\n[SQL:")[0]
    text = " ".join(url.without_secrets(message).split()).rstrip(".;")
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."
