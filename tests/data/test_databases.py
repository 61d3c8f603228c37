"""Databases as sources: SQLite files, and a real PostgreSQL server."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

import dagrec
from dagrec.data.compositions import Composition, Wire
from dagrec.data.databases import galaxy
from dagrec.data.databases.urls import DatabaseUrl, is_url
from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions, read
from dagrec.errors import ConfigError, DagrecError, DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same
from tests.data.servers import (
    OUTPUT,
    SECRET,
    UPDATED,
    WORKFLOW_ENTITY,
    Galaxy,
    Server,
    open_engine,
    postgres,
    program,
    write,
)
from tests.processes import command

LOG = sa.Table(
    "log",
    sa.MetaData(),
    sa.Column("who", sa.Text),
    sa.Column("what", sa.Text),
    sa.Column("at", sa.DateTime(timezone=True)),
    sa.Column("amount", sa.Numeric(12, 3)),
)
CALLS = [
    {"who": who, "what": what, "at": UPDATED.replace(minute=minute), "amount": minute}
    for who, what, minute in [("ann", "join", 2), ("ann", "cut", 1), ("bob", "100%:x", 3)]
]
QUERY = 'SELECT who AS "user", what AS service, at AS time FROM log ORDER BY at'


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    if program("initdb") is None or program("postgres") is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with postgres() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/test.db"
    server: Server = request.getfixturevalue("server")
    return server.create_database()


def load(url: str, **options: Any) -> Dataset:
    return read(url, ReadOptions(**options))


def paths(data: Dataset) -> list[list[str]]:
    return [[node.key for node in composition.nodes] for composition in data]


def refuses(url: str, *parts: str, kind: type[DagrecError] = DataError, **options: Any) -> bool:
    """Assert that reading fails with an error of one line that has these parts and no password."""
    with pytest.raises(kind) as error:
        load(url, **options)
    message = str(error.value)
    assert "\n" not in message
    assert SECRET not in message, message
    return says(error, *parts)


# URLs


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("postgresql://ann:s3cret@host:5433/db", "postgresql://ann:***@host:5433/db"),
        ("postgres://ann:s3cret@host/db", "postgresql://ann:***@host/db"),
        ("postgresql+asyncpg://host/db", "postgresql://host/db"),
        (
            "postgresql://host/db?password=s3cret&sslmode=require&sslpassword=s3cret&x=s3cret",
            "postgresql://host/db?sslmode=require",
        ),
        ("mysql+pymysql://a:s3cret@[::1]/db", "mysql+pymysql://a:***@[::1]/db"),
        ("postgresql://ann:s3cret%40%2F@host/db", "postgresql://ann:***@host/db"),
        ("sqlite:///folder/ab.db", "sqlite:///folder/ab.db"),
    ],
)
def test_names_have_no_secrets(text: str, name: str) -> None:
    url = DatabaseUrl.of(text)
    assert url.name == name


def test_messages_have_no_secrets() -> None:
    url = DatabaseUrl.of("postgresql://ann:s3cr%40t@host/db?sslpassword=t0ken&sslmode=require&x=ab")
    message = "ann s3cr@t t0ken require, about"
    assert url.without_secrets(message) == "ann *** *** require, about"


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=4, max_size=12))
def test_no_url_shows_its_password(password: str) -> None:
    """However badly it is encoded, what follows ``user:`` is not shown."""
    secret = f"<{password}>8431"
    for text in (f"postgresql://ann:{secret}@host/db", f"postgresql:///ann:{secret}@host/db"):
        try:
            shown = DatabaseUrl.of(text).name
        except DataError as error:
            shown = str(error)
        assert SECRET not in shown


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("sqlite:///x", True),
        ("postgresql+psycopg://h/d", True),
        ("data/x.json", False),
        ("c:/data", False),
        (Path("sqlite:///x"), False),
        ("-", False),
    ],
)
def test_is_url(location: str | Path, expected: bool) -> None:
    assert is_url(location) is expected


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://ann:pw8431@host/x.json", ["an address (https://)", "download it"]),
        ("oops://ann:pw8431@host/x", ["oops://, which SQLAlchemy does not know", "sqlite:///FILE"]),
        ("postgresql://ann:p@w8431@host/x", ["one that cannot be read", "%40"]),
        ("postgresql://ann:p/w@8431@host/x", ["one that cannot be read"]),
        ("postgresql:///ann:8431@host/x", ["one that cannot be read"]),
        ("postgresql://host:8431x/x", ["one that cannot be read"]),
        ("sqlite://", ["must name the file"]),
        ("sqlite:///:memory:", ["must name the file"]),
        ("sqlite:///nowhere.db", ["sqlite:///nowhere.db: ", "no such file", "four slashes"]),
        ("postgresql://ann:pw8431@127.0.0.1:1/x", ["ann:***@127.0.0.1:1", "refused", "check host"]),
    ],
)
def test_invalid_urls_are_refused_without_their_password(url: str, parts: list[str]) -> None:
    assert refuses(url, *parts, query="SELECT 1")


def test_path_that_was_a_url_is_refused_without_its_password() -> None:
    with pytest.raises(DataError) as error:
        read(Path("postgresql://ann:8431@host/x"))
    assert says(error, "must be text with ://")
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("modules", "url", "parts"),
    [
        (["sqlalchemy"], "sqlite:///x.db", ["'sqlalchemy'", "install dagrec[sql]"]),
        (["psycopg"], "postgresql://host/x", ["postgresql", "'psycopg", "install dagrec[sql]"]),
        (["pymysql"], "mysql+pymysql://host/x", ["the driver 'pymysql'", "install it"]),
    ],
)
def test_missing_packages_are_named(
    modules: list[str], url: str, parts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    assert refuses(url, *parts, kind=ConfigError, query="SELECT 1")


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ["either --query SQL or --source (n8n-db, galaxy-db)", "found neither"]),
        ({"query": "SELECT 1", "source": "n8n-db"}, ["found both"]),
        ({"source": "n8n-db", "format": "calls"}, ["--source n8n-db has the format n8n"]),
        ({"query": "SELECT 1 AS a", "format": "native"}, ["the formats n8n, edges, calls", "native"]),
    ],
)
def test_options_must_fit(options: dict[str, Any], parts: list[str], tmp_path: Path) -> None:
    url = write(f"sqlite:///{tmp_path}/test.db", {LOG: CALLS})
    assert refuses(url, *parts, kind=ConfigError, **options)


@pytest.mark.parametrize("options", [{"query": "SELECT 1"}, {"source": "n8n-db"}])
def test_options_of_databases_are_refused_for_files(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, ReadOptions(**options))
    assert says(error, "--query and --source are for databases")


# Queries


def test_query_is_read_as_call_log(database: str) -> None:
    data = load(write(database, {LOG: CALLS}), query=QUERY)
    assert paths(data) == [["cut", "join"], ["100%:x"]]
    assert [composition.owner for composition in data] == ["ann", "bob"]
    assert data[0].time == UPDATED.replace(minute=2).timestamp()
    assert data.form == "paths"
    assert data.source == DatabaseUrl.of(database).name
    assert dict(data.report.formats) == {"calls": 1}


def test_column_options_name_columns_of_query(database: str) -> None:
    write(database, {LOG: CALLS})
    columns = {"owner_column": "who", "service_column": "what", "time_column": "at"}
    assert paths(load(database, query="SELECT * FROM log", **columns)) == [["cut", "join"], ["100%:x"]]
    wrong = columns | {"owner_column": "whos"}
    assert refuses(database, "did you mean who?", query="SELECT * FROM log", **wrong)


def test_percent_signs_and_colons_in_query_are_no_parameters(database: str) -> None:
    write(database, {LOG: CALLS})
    where = "WHERE what LIKE '%:x' AND what <> '%s' AND ':who' <> '%(who)s'"
    data = load(database, query=f"SELECT who AS owner, what AS service FROM log {where}")
    assert paths(data) == [["100%:x"]]


def test_numbers_and_sessions_of_query(database: str) -> None:
    write(database, {LOG: CALLS})
    query = "SELECT 1 AS owner, amount AS service, 1714557600 + 60 * amount AS time FROM log"
    data = load(database, query=query, session_gap=1.5)
    assert len(paths(data)) == 1
    assert [float(key) for key in paths(data)[0]] == [1, 2, 3]


def test_query_is_read_as_edge_list(database: str) -> None:
    query = (
        "SELECT 'w1' AS flow, 'a' AS source, 'b' AS target, NULL AS time UNION ALL "
        "SELECT 'w1', 'b', 'c', '2024-05-01' UNION ALL SELECT 'w2', 'a', NULL, NULL ORDER BY 1, 2"
    )
    write(database, {LOG: CALLS})
    data = load(database, query=query, composition_column="flow")
    assert [(c.id, c.links) for c in data] == [("w1", (("a", "b"), ("b", "c"))), ("w2", ())]
    assert data.form == "links"


def test_invalid_rows_of_query_are_named_or_skipped(database: str) -> None:
    write(database, {LOG: CALLS})
    query = "SELECT who AS owner, what AS service, CASE who WHEN 'bob' THEN 'noon' ELSE '2024-05-01' "
    query += "END AS time FROM log ORDER BY who"
    assert refuses(database, "row 3: time must be ISO 8601", "noon", query=query)
    data = load(database, query=query, on_error="skip")
    assert len(data) == 1
    assert dict(data.report.skipped) == {"bad-time": 1}
    assert SECRET not in data.report.problems[0]


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("SELECT who FROM nowhere", ["the database must answer", "nowhere", "check --query"]),
        ("SELEC who", ["the database must answer", "syntax error"]),
        ("SELECT who FROM log", ["the columns of a call log", 'found "who"', "with AS"]),
        ("SELECT who AS owner, who AS owner, what AS service FROM log", ['"owner" more than once']),
        ("SELECT 1 AS owner, 2 AS service FROM log WHERE 1 = 0", ["found none"]),
    ],
)
def test_invalid_queries_are_refused(query: str, parts: list[str], database: str) -> None:
    write(database, {LOG: CALLS})
    assert refuses(database, DatabaseUrl.of(database).name, *parts, query=query)


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM log",
        "DROP TABLE log",
        "INSERT INTO log (who) VALUES ('eve')",
        "SELECT 1; DELETE FROM log",
        "COMMIT; DELETE FROM log",
        "",
    ],
)
def test_nothing_is_written(query: str, database: str) -> None:
    write(database, {LOG: CALLS})
    assert refuses(database, query=query)
    assert len(load(database, query=QUERY)[0].nodes) == 2


def test_function_that_writes_is_refused_by_read_only_transaction(server: Server) -> None:
    url = write(server.create_database(), {LOG: CALLS})
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION clean() RETURNS text AS $$ DELETE FROM log; SELECT 'x' $$ LANGUAGE sql"
        )
    engine.dispose()
    query = "SELECT clean() AS owner, 'x' AS service"
    assert refuses(url, "read-only transaction", query=query)


def test_rows_are_limited_and_streamed(server: Server) -> None:
    """The rows that are not read are not even made."""
    start = time.process_time()
    query = "SELECT 1 AS owner, generate_series(1, 1000000000) AS service"
    assert refuses(server.url(), "1,500 rows, found more", "--max-rows", query=query, max_rows=1500)
    assert time.process_time() - start < 10
    data = load(server.url(), query=query.replace("1000000000", "1500"), max_rows=1500)
    assert len(data[0].nodes) == 1500


def test_large_cells_are_refused_or_skipped(database: str) -> None:
    rows = [CALLS[0] | {"what": "x" * 1_000_001}, CALLS[1]]
    write(database, {LOG: rows})
    parts = ["row 2: the column 'service' may have 1 MB, found 1.0 MB", "--max-mb"]
    assert refuses(database, *parts, query=QUERY, max_mb=1)
    data = load(database, query=QUERY, max_mb=1, on_error="skip")
    assert dict(data.report.skipped) == {"too-large": 1}


def test_binary_and_structured_cells_are_refused(server: Server) -> None:
    for value in ("'a'::bytea", "ARRAY[1, 2]"):
        query = f"SELECT {value} AS owner, 1 AS service"
        assert refuses(server.url(), "row 1: the column 'owner'", "CAST", query=query)


def test_text_that_is_not_utf8_is_an_error_of_its_row(tmp_path: Path) -> None:
    url = write(f"sqlite:///{tmp_path}/test.db", {LOG: CALLS})
    query = "SELECT CASE who WHEN 'bob' THEN CAST(x'ff' AS TEXT) ELSE who END AS owner, what AS service"
    data = load(url, query=f"{query} FROM log", on_error="skip")
    assert dict(data.report.skipped) == {"surrogate": 1}


def test_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    file = tmp_path / "test.db"
    file.write_text("This is text, which is longer than the header of a database. " * 20)
    assert refuses(f"sqlite:///{file}", "file is not a database", query=QUERY)


# n8n


def workflow(id_: str, **values: Any) -> dict[str, Any]:
    """A row of n8n: a webhook and what follows it."""
    nodes = [
        {"name": "Webhook", "type": "n8n-nodes-base.webhook", "typeVersion": 1},
        {"name": "Tell us", "type": "n8n-nodes-base.slack", "notes": "In #general"},
    ]
    link = {"node": "Tell us", "type": "main", "index": 0}
    row = {
        "id": id_,
        "name": "Alerts",
        "active": True,
        "isArchived": False,
        "nodes": nodes,
        "connections": {"Webhook": {"main": [[link]]}},
        "createdAt": UPDATED.replace(year=2023),
        "updatedAt": UPDATED,
    }
    return row | values


def write_n8n(url: str, *rows: dict[str, Any]) -> str:
    if url.startswith("sqlite"):
        for row in rows:
            for name in ("nodes", "connections"):
                if not isinstance(row[name], str):
                    row[name] = json.dumps(row[name])
            for name in ("createdAt", "updatedAt"):
                row[name] = row[name].strftime("%Y-%m-%d %H:%M:%S.000")
    return write(url, {WORKFLOW_ENTITY: rows})


def test_n8n_workflows_are_read(database: str) -> None:
    data = load(write_n8n(database, workflow("b"), workflow("a", name="Other")), source="n8n-db")
    first, second = data
    assert (first.id, second.id) == ("a", "b")
    assert second.goal == "Alerts"
    assert second.time == UPDATED.timestamp()
    assert second.wires == (Wire("Webhook", "Tell us", "main/0", "main/0"),)
    assert second.nodes[1].key == "n8n-nodes-base.slack"
    assert second.nodes[1].text == "Tell us\nIn #general"
    assert dict(data.report.formats) == {"n8n": 1}
    assert data.form == "links"


def test_archived_and_inactive_workflows_of_n8n_are_counted(database: str) -> None:
    rows = [workflow("a"), workflow("b", isArchived=True), workflow("c", active=False)]
    data = load(write_n8n(database, *rows), source="n8n-db")
    assert [composition.id for composition in data] == ["a", "c"]
    assert dict(data.report.notes) == {
        "archived workflows left out": 1,
        "workflows that are not active": 1,
    }


def test_query_of_n8n_workflows_can_select_and_add_owners(database: str) -> None:
    write_n8n(database, workflow("a"), workflow("b"))
    query = "SELECT id, name, nodes, connections, 'team' AS owner FROM workflow_entity WHERE id = 'b'"
    (only,) = load(database, query=query)
    assert (only.id, only.owner, only.time) == ("b", "team", None)


def test_invalid_workflows_of_n8n_are_named_or_skipped(database: str) -> None:
    write_n8n(database, workflow("a"), workflow("b", nodes=[{"name": "x"}]), workflow("c", nodes=7))
    assert refuses(database, "workflow b: node 1 (x): type", source="n8n-db")
    data = load(database, source="n8n-db", on_error="skip")
    assert len(data) == 1
    assert dict(data.report.skipped) == {"missing-id": 1, "wrong-type": 1}


def test_json_of_n8n_is_parsed_within_limits(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    rows = [workflow(id_, nodes=nodes) for id_, nodes in [("a", "[NaN]"), ("b", deep), ("c", "{")]]
    large = workflow("d", nodes=json.dumps([{"name": "x" * 1_000_000, "type": "t"}]))
    url = write_n8n(f"sqlite:///{tmp_path}/test.db", *rows, large, workflow("e"))
    data = load(url, source="n8n-db", on_error="skip", max_mb=1)
    assert [composition.id for composition in data] == ["e"]
    skipped = {"not-finite": 1, "too-deep": 1, "not-json": 1, "too-large": 1}
    assert dict(data.report.skipped) == skipped


def test_deep_json_of_postgres_is_an_error_of_its_workflow(server: Server) -> None:
    url = write_n8n(server.create_database(), workflow("a"))
    deep = "repeat('[', 5000) || repeat(']', 5000)"
    query = f"SELECT id, ({deep})::json AS nodes, connections FROM workflow_entity"
    assert refuses(url, "workflow a: nodes: JSON is nested too deeply", query=query)


@pytest.mark.parametrize("source", ["n8n-db", "galaxy-db"])
def test_missing_tables_and_columns_are_named(source: str, database: str) -> None:
    table = "workflow_entity" if source == "n8n-db" else "stored_workflow"
    write(database, {LOG: CALLS})
    parts = [f"{source} needs the table {table}, found the tables log", "check the database"]
    assert refuses(database, *parts, source=source)
    engine = open_engine(database)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE TABLE {table} (x INTEGER)")
    engine.dispose()
    parts = [f"needs the column id of the table {table}, found the columns x"]
    assert refuses(database, *parts, source=source)


PORTS = st.integers(0, 3).map(lambda index: f"main/{index}")


@contextmanager
def sqlite_file(rows: Mapping[sa.Table, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """The URL of a SQLite file with these rows, which is removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield write(f"sqlite:///{folder}/test.db", rows)


@given(compositions(outputs=PORTS, inputs=PORTS))
def test_n8n_rows_are_read_as_they_were_written(written: Composition) -> None:
    connections: dict[str, Any] = {}
    for wire in written.wires:
        assert wire.output is not None
        assert wire.input is not None
        outputs = connections.setdefault(wire.source, {"main": [[] for _ in range(4)]})["main"]
        end = {"node": wire.target, "type": "main", "index": int(wire.input[-1])}
        outputs[int(wire.output[-1])].append(end)
    nodes = [{"name": node.id, "type": node.key, "notes": node.text} for node in written.nodes]
    row = workflow(
        written.id,
        name=written.goal or "",
        nodes=json.dumps(nodes),
        connections=json.dumps(connections),
        createdAt=None,
        updatedAt=None,
    )
    with sqlite_file({WORKFLOW_ENTITY: [row]}) as url:
        (found,) = load(url, source="n8n-db")
    # The reader adds the names of nodes to their texts.
    pairs = zip(written.nodes, found.nodes, strict=True)
    assert all((after.text or "").endswith(before.text or "") for before, after in pairs)
    assert is_same(replace(found, nodes=written.nodes), written)
    assert [(node.id, node.key) for node in found.nodes] == [(n.id, n.key) for n in written.nodes]


# Galaxy


def test_latest_version_of_each_galaxy_workflow_is_read(database: str) -> None:
    tables = Galaxy()
    for tool in ("old", "host/repos/devs/cut/cut1/1.0"):
        version = tables.workflow()
        source = tables.step(version, 0, label="Reads")
        target = tables.step(version, 1, tool, label="Cut them")
        tables.connect(source, target, "output", "input1")
    tables.stored(version, name="My flow", user_id=12)
    data = load(write(database, tables.rows), source="galaxy-db")
    (only,) = data
    assert (only.id, only.owner, only.goal) == ("1", "12", "My flow")
    assert only.time == UPDATED.timestamp()
    assert [(n.id, n.key, n.kind, n.text) for n in only.nodes] == [
        ("0", "__input__", "data", "Reads"),
        ("1", "cut1", "service", "Cut them"),
    ]
    assert only.wires == (Wire("0", "1", "output", "input1"),)
    assert dict(data.report.formats) == {"galaxy-ga": 1}


def test_galaxy_workflows_that_are_deleted_or_empty_are_counted(database: str) -> None:
    tables = Galaxy()
    for has_errors in (False, True):
        version = tables.workflow(has_errors=has_errors)
        tables.step(version, 0, "cut")
        tables.stored(version)
    tables.stored(version, deleted=True)
    tables.stored(None)
    tables.stored(tables.workflow())
    data = load(write(database, tables.rows), source="galaxy-db")
    assert [composition.id for composition in data] == ["1", "2"]
    assert dict(data.report.notes) == {
        "deleted workflows left out": 1,
        "workflows with errors": 1,
        "workflows without steps left out": 2,
    }


def nested(by_id: bool = True) -> Galaxy:
    """A workflow: input > a sub-workflow (input > cut > join) > plot."""
    tables = Galaxy()
    inner = tables.workflow()
    inner_input = tables.step(inner, 0, label="Table")
    cut = tables.step(inner, 1, "cut")
    join = tables.step(inner, 2, "join")
    tables.connect(inner_input, cut, "output", "input")
    tables.connect(cut, join)
    tables.add(OUTPUT, workflow_step_id=join, output_name="out", label="Joined")
    outer = tables.workflow()
    source = tables.step(outer, 0)
    sub = tables.step(outer, 1, type="subworkflow", subworkflow_id=inner)
    plot = tables.step(outer, 2, "plot")
    more = {"input_subworkflow_step_id": inner_input} if by_id else {}
    tables.connect(source, sub, "output", "Table", **more)
    tables.connect(sub, plot, "Joined")
    tables.stored(outer)
    return tables


@pytest.mark.parametrize("by_id", [True, False])
def test_sub_workflows_of_galaxy_are_expanded(by_id: bool, database: str) -> None:
    data = load(write(database, nested(by_id).rows), source="galaxy-db")
    assert paths(data) == [["__input__", "cut", "join", "plot"]]
    assert set(data[0].links) == {("0", "1.1"), ("1.1", "1.2"), ("1.2", "2")}
    assert data.report.notes["sub-workflows expanded"] == 1


def test_sub_workflow_is_shared_by_workflows(database: str) -> None:
    tables = nested()
    other = tables.workflow()
    first, second = (
        tables.step(other, order, type="subworkflow", subworkflow_id=1) for order in (0, 1)
    )
    tables.connect(first, second, "2:out", "0:Table")
    tables.stored(other)
    data = load(write(database, tables.rows), source="galaxy-db")
    assert ("0.2", "1.1") in data[1].links


def test_more_workflows_than_a_batch_are_read(monkeypatch: pytest.MonkeyPatch, database: str) -> None:
    monkeypatch.setattr(galaxy, "BATCH", 3)
    tables = Galaxy()
    for number in range(8):
        version = tables.workflow()
        tables.connect(tables.step(version, 0), tables.step(version, 1, f"tool{number}"))
        tables.stored(version)
    data = load(write(database, tables.rows), source="galaxy-db")
    assert [composition.nodes[1].key for composition in data] == [f"tool{n}" for n in range(8)]
    assert all(len(composition.links) == 1 for composition in data)


def test_sub_workflows_that_multiply_are_refused(tmp_path: Path) -> None:
    """Fifteen levels with two sub-workflows each would have 32,768 steps."""
    tables = Galaxy()
    inner = tables.workflow()
    tables.step(inner, 0, "cut")
    for _ in range(15):
        outer = tables.workflow()
        for order in (0, 1):
            tables.step(outer, order, type="subworkflow", subworkflow_id=inner)
        inner = outer
    tables.stored(inner)
    url = write(f"sqlite:///{tmp_path}/test.db", tables.rows)
    assert refuses(url, "workflow 1: a workflow may have 10,000 steps", source="galaxy-db")


def test_sub_workflow_of_itself_is_refused(tmp_path: Path) -> None:
    tables = Galaxy()
    version = tables.workflow()
    tables.step(version, 0, type="subworkflow", subworkflow_id=version)
    tables.stored(version)
    url = write(f"sqlite:///{tmp_path}/test.db", tables.rows)
    assert refuses(url, "workflow 1: sub-workflows may be nested 20 deep", source="galaxy-db")


def test_workflow_with_too_many_rows_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(galaxy, "MAX_ROWS", 6)
    tables = nested()
    large = tables.workflow()
    for order in range(7):
        tables.step(large, order, "cut")
    tables.stored(large)
    url = write(f"sqlite:///{tmp_path}/test.db", tables.rows)
    data = load(url, source="galaxy-db", on_error="skip")
    assert len(data) == 1
    assert dict(data.report.skipped) == {"too-large": 1}


def test_broken_rows_of_galaxy_are_counted_or_named(tmp_path: Path) -> None:
    tables = nested()
    version = tables.workflow()
    for _ in range(2):
        step = tables.step(version, 0, "cut")
    tables.stored(version)
    other = tables.workflow()
    tables.connect(999, tables.step(other, 0, "cut"))
    tables.stored(other)
    url = write(f"sqlite:///{tmp_path}/test.db", tables.rows)
    assert step
    assert refuses(url, "workflow 2: the steps of a workflow must have distinct", source="galaxy-db")
    data = load(url, source="galaxy-db", on_error="skip")
    assert data.report.notes["links to steps that are gone dropped"] == 1
    assert dict(data.report.skipped) == {"duplicate-id": 1}


NAMES = st.sampled_from(["out", "input 1", "ümlaut"])


@given(compositions(outputs=NAMES, inputs=NAMES))
def test_galaxy_rows_are_read_as_they_were_written(written: Composition) -> None:
    tables = Galaxy()
    version = tables.workflow()
    ids = {
        node.id: tables.step(version, order, node.key, label=node.text)
        for order, node in enumerate(written.nodes)
    }
    orders = {node.id: str(order) for order, node in enumerate(written.nodes)}
    for wire in written.wires:
        tables.connect(ids[wire.source], ids[wire.target], str(wire.output), str(wire.input))
    tables.stored(version, name=written.goal, user_id=None, update_time=None)
    with sqlite_file(tables.rows) as url:
        (found,) = load(url, source="galaxy-db")
    nodes = tuple(replace(node, id=orders[node.id]) for node in written.nodes)
    wires = tuple(
        wire._replace(source=orders[wire.source], target=orders[wire.target]) for wire in written.wires
    )
    links = tuple((orders[source], orders[target]) for source, target in written.links)
    assert is_same(found, replace(written, id="1", nodes=nodes, links=links, wires=wires))


# Passwords and commands


def test_wrong_password_is_refused_without_it(server: Server) -> None:
    url = server.url(password="wrong-8431")
    parts = ["ann:***@127.0.0.1", "must accept the connection", "password authentication failed"]
    assert refuses(url, *parts, query="SELECT 1")


def test_read_of_python_takes_urls(database: str) -> None:
    write(database, {LOG: CALLS})
    data = dagrec.read(database, query=QUERY, progress=False)
    assert len(data) == 2
    assert SECRET not in repr(data)
    with pytest.raises(ConfigError) as error:
        dagrec.read(database, progress=False)
    assert says(error, "found neither")
    assert SECRET not in str(error.value)


def test_commands_keep_the_password_out_of_everything(server: Server, tmp_path: Path) -> None:
    url = write(server.create_database(), {LOG: CALLS * 10})
    more = ["--json", "--query", QUERY]
    results = [
        command("train", url, "--store", tmp_path / "store", "--model", "markov", *more),
        command("inspect", url, "--query", QUERY),
        command("evaluate", url, "--model", "markov", "--repeats", "1", "--report", tmp_path, *more),
        command("bench", url, "--model", "markov", "--query", QUERY),
    ]
    for completed in results:
        assert completed.status == 0, completed.err
        assert SECRET not in completed.out + completed.err
    assert "postgresql://ann:***@127.0.0.1" in results[1].out
    assert "(calls)" in results[1].err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"ann:***@" in file.read_bytes() for file in files)
    assert not any(SECRET.encode() in file.read_bytes() for file in files)


def test_command_takes_test_file_beside_a_database(server: Server, tmp_path: Path) -> None:
    url = write(server.create_database(), {LOG: CALLS * 10})
    file = tmp_path / "test.csv"
    file.write_text("owner,service,time\neve,cut,1714557600\neve,join,1714557601\n")
    options = ["--query", QUERY, "--model", "markov"]
    completed = command("evaluate", url, "--test", file, *options)
    assert completed.status == 0, completed.err


def test_command_refuses_a_database_without_query(tmp_path: Path) -> None:
    completed = command("inspect", "postgresql://ann:pw8431@127.0.0.1:1/x", folder=tmp_path)
    assert completed.status == 2
    assert completed.err.startswith("dagrec: a database needs either --query SQL or --source")
    completed = command("inspect", "postgresql://ann:pw8431@127.0.0.1:1/x", "--source", "n8n-db")
    assert completed.status == 1
    assert "ann:***@127.0.0.1:1" in completed.err
    assert SECRET not in completed.err
