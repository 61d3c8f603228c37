"""Compositions from a SQLite file: n8n's table, and queries of call logs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import dagrec
from dagrec.errors import ConfigError, DataError
from tests.checks import says

COLUMNS = 'id varchar, name text, active bool, nodes text, connections text, "createdAt" text, "updatedAt" text'


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    pytest.importorskip("sqlalchemy")
    file = tmp_path / "n8n.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute(f"create table workflow_entity({COLUMNS})")
        for number in range(3):
            nodes = [{"id": "1", "name": "A", "type": "a"}, {"id": "2", "name": "B", "type": "b"}]
            links = {"A": {"main": [[{"node": "B", "type": "main", "index": 0}]]}}
            cells = (str(number), f"goal {number}", 1, json.dumps(nodes), json.dumps(links))
            database.execute(
                "insert into workflow_entity values(?, ?, ?, ?, ?, ?, ?)",
                (*cells, "2024-01-01", "2024-01-02"),
            )
        database.execute("create table log(owner text, service text, time integer)")
        rows = [("ann", "cut", 2), ("ann", "join", 1), ("bob", "cut", 3), ("bob", "plot", 4)]
        database.executemany("insert into log values(?, ?, ?)", rows)
        database.commit()
    yield f"sqlite:///{file}"


def test_workflows_of_n8n_are_read(url: str) -> None:
    data = dagrec.read(url, source="n8n-db")
    assert [composition.id for composition in data] == ["0", "1", "2"]
    assert [composition.goal for composition in data] == ["goal 0", "goal 1", "goal 2"]
    assert data[0].links == (("A", "B"),)
    assert data.form == "links"


def test_rows_of_query_are_a_call_log(url: str) -> None:
    data = dagrec.read(url, query="select owner, service, time from log")
    assert [[node.key for node in composition.nodes] for composition in data] == [
        ["join", "cut"],
        ["cut", "plot"],
    ]


@pytest.mark.parametrize(
    "query", ["drop table log", "delete from log", "insert into log values(1, 2, 3)"]
)
def test_database_is_opened_read_only(query: str, url: str) -> None:
    with pytest.raises(DataError):
        dagrec.read(url, query=query)
    assert len(dagrec.read(url, query="select owner, service, time from log")) == 2


@pytest.mark.parametrize("query", ["select owner from nowhere", "select owner, service", "x"])
def test_invalid_query_is_named_in_one_line(query: str, url: str) -> None:
    with pytest.raises(DataError) as error:
        dagrec.read(url, query=query)
    assert says(error, url, "--query")
    assert "\n" not in str(error.value)


def test_number_of_rows_is_limited(url: str) -> None:
    with pytest.raises(DataError) as error:
        dagrec.read(url, query="select owner, service, time from log", max_rows=3)
    assert says(error, "3", "rows")


def test_url_without_query_and_source_is_rejected(url: str) -> None:
    with pytest.raises((ConfigError, DataError)) as error:
        dagrec.read(url)
    assert says(error, "--query", "--source")


def test_password_is_not_in_messages() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(DataError) as error:
        dagrec.read("postgresql://ann:hunter2@127.0.0.1:1/db", source="n8n-db")
    assert says(error, "postgresql://ann:***@127.0.0.1:1/db")
    assert "hunter2" not in str(error.value)


def test_password_is_not_in_data_set(url: str) -> None:
    data = dagrec.read(url, source="n8n-db")
    assert data.source == url
