"""A PostgreSQL server of its own for tests, and the tables of n8n and Galaxy as they make them."""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.processes import wait_until

PASSWORD = "pä:ss@w/ö%rd-8431"
PR_SET_PDEATHSIG = 1
SECRET = "8431"
"""The part of the password that is the same in every encoding."""


def program(name: str) -> str | None:
    """The path of a program of PostgreSQL, which Debian does not link in a folder of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@dataclass
class Server:
    """A running server with the user ``ann``, who has a password."""

    port: int
    databases: int = 0

    def url(self, database: str = "postgres", password: str = PASSWORD) -> str:
        url = sa.URL.create("postgresql", "ann", password, "127.0.0.1", self.port, database)
        return url.render_as_string(hide_password=False)

    def create_database(self) -> str:
        """Create a database, and return its URL."""
        self.databases += 1
        name = f"test_{self.databases}"
        engine = open_engine(self.url(), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return self.url(name)


@contextmanager
def postgres() -> Iterator[Server]:
    """Start a server on a free port, as a user who is not root, and stop it at the end."""
    user = next(u.pw_name for u in map(_user, ("postgres", "nobody")) if u) if _is_root() else None
    # Folders of pytest cannot be read by other users than that of the tests.
    folder = Path(tempfile.mkdtemp(prefix="dagrec-postgres-"))
    (folder / "password").write_text(PASSWORD, encoding="utf-8")
    if user is not None:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    data = folder / "data"
    initialise = [program("initdb"), "-D", data, "-U", "ann", "-A", "scram-sha-256", "-E", "UTF8"]
    initialise += ["--pwfile", folder / "password", "--no-locale", "--no-sync"]
    subprocess.run(list(map(str, initialise)), check=True, capture_output=True, cwd=folder, user=user)
    port = _free_port()
    options = ["-h", "127.0.0.1", "-p", port, "-k", folder, "-F", "-c", "statement_timeout=60s"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            list(map(str, [program("postgres"), "-D", data, *options])),
            stdout=log,
            stderr=log,
            cwd=folder,
            user=user,
            preexec_fn=_die_with_parent,
        )
    try:
        server = Server(port)
        engine = open_engine(server.url())
        wait_until(lambda: _answers(engine), "the PostgreSQL server answers", pause=0.1)
        engine.dispose()
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # disconnect all clients
        process.wait(60)
        shutil.rmtree(folder)


def _die_with_parent() -> None:
    """Let this process be stopped when the tests are killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


def _answers(engine: sa.Engine) -> bool:
    with suppress(sa.exc.OperationalError), engine.connect():
        return True
    return False


def _is_root() -> bool:
    return os.geteuid() == 0


def _user(name: str) -> pwd.struct_passwd | None:
    with suppress(KeyError):
        return pwd.getpwnam(name)
    return None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def open_engine(url: str, **options: Any) -> sa.Engine:
    """An engine that can write, for tests."""
    parsed = sa.make_url(url)
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    return sa.create_engine(parsed, poolclass=sa.pool.NullPool, **options)


def write(url: str, rows: Mapping[sa.Table, Sequence[Mapping[str, Any]]]) -> str:
    """Create tables with these rows, and return the URL."""
    engine = open_engine(url)
    with engine.begin() as connection:
        for table, values in rows.items():
            table.create(connection, checkfirst=True)
            if values:
                connection.execute(table.insert(), list(values))
    engine.dispose()
    return url


# n8n

JSON = sa.Text().with_variant(sa.JSON(), "postgresql")
TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")
WORKFLOW_ENTITY = sa.Table(
    "workflow_entity",
    sa.MetaData(),
    sa.Column("id", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(128), nullable=False),
    sa.Column("description", sa.Text),
    sa.Column("active", sa.Boolean, nullable=False),
    sa.Column("isArchived", sa.Boolean, nullable=False, default=False),
    sa.Column("nodes", JSON),
    sa.Column("connections", JSON),
    sa.Column("settings", sa.Text),
    sa.Column("pinData", sa.Text),
    sa.Column("versionId", sa.String(36)),
    sa.Column("createdAt", TIME),
    sa.Column("updatedAt", TIME),
)


# Galaxy

GALAXY = sa.MetaData()
STORED = sa.Table(
    "stored_workflow",
    GALAXY,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("create_time", sa.DateTime),
    sa.Column("update_time", sa.DateTime),
    sa.Column("user_id", sa.Integer),
    sa.Column("latest_workflow_id", sa.Integer),
    sa.Column("name", sa.Text),
    sa.Column("deleted", sa.Boolean, default=False),
)
WORKFLOW = sa.Table(
    "workflow",
    GALAXY,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("stored_workflow_id", sa.Integer),
    sa.Column("parent_workflow_id", sa.Integer),
    sa.Column("name", sa.Text),
    sa.Column("has_errors", sa.Boolean, default=False),
)
STEP = sa.Table(
    "workflow_step",
    GALAXY,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("workflow_id", sa.Integer, nullable=False),
    sa.Column("subworkflow_id", sa.Integer),
    sa.Column("type", sa.String(64)),
    sa.Column("tool_id", sa.Text),
    sa.Column("tool_inputs", sa.LargeBinary),
    sa.Column("order_index", sa.Integer, nullable=False),
    sa.Column("label", sa.Unicode(255)),
)
INPUT = sa.Table(
    "workflow_step_input",
    GALAXY,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("workflow_step_id", sa.Integer),
    sa.Column("name", sa.Text),
)
CONNECTION = sa.Table(
    "workflow_step_connection",
    GALAXY,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("output_step_id", sa.Integer),
    sa.Column("input_step_input_id", sa.Integer),
    sa.Column("output_name", sa.Text),
    sa.Column("input_subworkflow_step_id", sa.Integer),
)
OUTPUT = sa.Table(
    "workflow_output",
    GALAXY,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("workflow_step_id", sa.Integer, nullable=False),
    sa.Column("output_name", sa.String(255)),
    sa.Column("label", sa.Unicode(255)),
)
UPDATED = datetime(2024, 5, 1, 10, tzinfo=UTC)


@dataclass
class Galaxy:
    """Rows of Galaxy's tables. Ids are given by their number."""

    rows: dict[sa.Table, list[dict[str, Any]]] = field(
        default_factory=lambda: {table: [] for table in GALAXY.sorted_tables}
    )

    def add(self, table: sa.Table, **values: Any) -> int:
        """Add a row, and return its id."""
        id_ = len(self.rows[table]) + 1
        row = dict.fromkeys(column.name for column in table.columns)
        self.rows[table].append({**row, "id": id_, **values})
        return id_

    def stored(self, workflow: int | None, **values: Any) -> int:
        time = UPDATED.replace(tzinfo=None)
        known = {"name": "flow", "user_id": 7, "update_time": time, "deleted": False}
        return self.add(STORED, latest_workflow_id=workflow, **(known | values))

    def workflow(self, *, has_errors: bool = False) -> int:
        return self.add(WORKFLOW, has_errors=has_errors)

    def step(self, workflow: int, order: int, tool: str | None = None, **values: Any) -> int:
        known = {"type": "tool" if tool else "data_input", "tool_id": tool, "order_index": order}
        return self.add(STEP, workflow_id=workflow, **(known | values))

    def connect(
        self, source: int, target: int, output: str = "out", input_: str = "in", **values: Any
    ) -> None:
        """Connect two steps by their ids. The connections of an input share its row."""
        about = {"workflow_step_id": target, "name": input_}
        found = [row["id"] for row in self.rows[INPUT] if about.items() <= row.items()]
        id_ = found[0] if found else self.add(INPUT, **about)
        self.add(
            CONNECTION, output_step_id=source, input_step_input_id=id_, output_name=output, **values
        )
