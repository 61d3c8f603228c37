"""Python objects into data sets: what they become, and how wrong ones are refused."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dagrec
from dagrec.data.compositions import Wire
from dagrec.data.dataset import Dataset
from dagrec.errors import ConfigError, DagrecError, DataError
from tests.checks import says

PATHS = [["a", "b"], ["c"]]
NOON = 1_577_880_000.0
"""2020-01-01 12:00 UTC."""


def keys(data: Dataset) -> list[list[str]]:
    """The keys of each composition, in the order of its nodes."""
    return [[node.key for node in composition.nodes] for composition in data]


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine stands in a zone that is nine hours from UTC."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# Paths


def test_from_paths_makes_a_chain_of_each_path() -> None:
    data = dagrec.from_paths([["table_1", "clean", "plot", "clean"], (7, "plot")])
    assert keys(data) == [["table_1", "clean", "plot", "clean"], ["7", "plot"]]
    assert data[0].links == (("1", "2"), ("2", "3"), ("3", "4"))
    assert [composition.id for composition in data] == ["path-0", "path-1"]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([["table_1", "clean", "plot", "clean"], (7, "plot")], {"clean", "plot"}),
        ([["a", "b"], ["b", "c"]], {"b", "c"}),
        ([["b", "c"], ["a", "b"]], {"b", "c"}),
        ([["a", "a"]], {"a"}),
        ([["a"], ["b"]], set()),
        ([[1, 2], ["2", "3"], ["3", 1.0]], {"1", "2", "3"}),
    ],
    ids=["tables", "begins later", "begins earlier", "follows itself", "alone", "numbers"],
)
def test_from_paths_takes_for_services_what_follows_another_key(paths: Any, expected: set[str]) -> None:
    data = dagrec.from_paths(paths)
    nodes = [node for composition in data for node in composition.nodes]
    assert {node.key for node in nodes if node.is_service} == expected
    assert all(node.kind == ("service" if node.key in expected else "data") for node in nodes)
    assert data.report.notes == {}


@pytest.mark.parametrize("services", [["table", "new"], lambda key: key in ("table", "new"), []])
def test_from_paths_asks_nobody_else_where_services_are_given(services: Any) -> None:
    paths = [["table", "clean", "plot"], ["new"]]
    data = dagrec.from_paths(paths, services=services)
    kinds = {node.key: node.kind for composition in data for node in composition.nodes}
    begins = "data" if services == [] else "service"
    assert kinds == {"table": begins, "clean": "data", "plot": "data", "new": begins}


@pytest.mark.parametrize(
    "paths",
    [
        (["a", "b"], ["c"]),
        iter([["a", "b"], ["c"]]),
        pd.Series([["a", "b"], ["c"]]),
        [np.array(["a", "b"]), pd.Series(["c"])],
    ],
    ids=["tuple", "iterator", "series", "arrays"],
)
def test_from_paths_takes_any_iterable_of_any_sequences(paths: Any) -> None:
    assert keys(dagrec.from_paths(paths)) == PATHS


def test_from_paths_takes_integers_of_every_library() -> None:
    assert keys(dagrec.from_paths([[1, np.int64(2), 3.0, np.float32(4)]])) == [["1", "2", "3", "4"]]


@pytest.mark.parametrize("services", [["clean", 7], {"clean", 7}, lambda key: key in ("clean", "7")])
def test_from_paths_knows_services_from_data(services: Any) -> None:
    data = dagrec.from_paths([["table", "clean", 7]], services=services)
    assert [node.kind for node in data[0].nodes] == ["data", "service", "service"]
    assert data.report.notes == {}


def test_from_paths_counts_services_that_no_path_has() -> None:
    data = dagrec.from_paths([["a", "b"]], services=["b", "clena", "plto"])
    assert data.report.notes == {"services that no path has": 2}
    assert repr(data).splitlines()[-1] == "note: services that no path has: 2"


def test_from_paths_lets_errors_of_a_users_own_function_through() -> None:
    with pytest.raises(ZeroDivisionError):
        dagrec.from_paths(PATHS, services=lambda _: 1 / 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "moment",
    [
        "2020-01-01T12:00",
        "2020-01-01 14:00+02:00",
        NOON,
        int(NOON),
        np.int64(NOON),
        datetime(2020, 1, 1, 12),
        datetime(2020, 1, 1, 12, tzinfo=UTC),
        datetime(2020, 1, 1, 7, tzinfo=timezone(timedelta(hours=-5))),
        pd.Timestamp("2020-01-01 12:00"),
        pd.Timestamp("2020-01-01 21:00", tz="Asia/Tokyo"),
        np.datetime64("2020-01-01T12:00"),
        np.datetime64("2020-01-01T12:00", "ns"),
    ],
    ids=lambda value: f"{type(value).__name__} {value}",
)
@pytest.mark.usefixtures("far_from_utc")
def test_times_of_every_kind_mean_the_same_moment(moment: Any) -> None:
    assert dagrec.from_paths([["a"]], times=[moment])[0].time == NOON


def test_a_date_is_its_midnight() -> None:
    times = [date(2020, 1, 1), np.datetime64("2020-01-01"), "2020-01-01"]
    data = dagrec.from_paths([["a"]] * 3, times=times)
    assert [composition.time for composition in data] == [NOON - 12 * 3600] * 3


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NaT, pd.NA, np.datetime64("NaT")])
def test_missing_owners_and_times_stay_missing(missing: Any) -> None:
    data = dagrec.from_paths(PATHS, owners=[missing, "ann"], times=[missing, 5])
    assert [(c.owner, c.time) for c in data] == [(None, None), ("ann", 5.0)]


def test_from_paths_takes_owners_and_times_from_any_iterable() -> None:
    data = dagrec.from_paths(iter(PATHS), owners=iter(["ann", 2]), times=pd.Series([1, 2]))
    assert [(c.owner, c.time) for c in data] == [("ann", 1.0), ("2", 2.0)]


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        (None, ("paths", "found nothing", "list of paths")),
        (5, ("paths", "found 5")),
        ("abc", ("paths", 'found "abc"')),
        ({"a": ["b"]}, ("paths", "found dict")),
        ([], ("at least one composition", "found none", "give it some")),
        ([["a"], []], ("paths[1]", "at least one key", "found none", "leave it out")),
        ([["a"], None], ("paths[1]", "list of node keys", "found nothing", "write ['a', 'b']")),
        (["ab"], ("paths[0]", "list of node keys", 'found "ab"')),
        ([b"ab"], ("paths[0]", "found bytes")),
        ([{"a", "b"}], ("paths[0]", "found set")),
        ([np.array("a")], ("paths[0]", 'found "a"')),
        ([["a", None]], ("paths[0][1]", "text or an integer", "found nothing", "fill it in")),
        ([["a", float("nan")]], ("paths[0][1]", "found nothing")),
        ([["a", pd.NA]], ("paths[0][1]", "found nothing")),
        ([["a", ""]], ("paths[0][1]", "non-empty", 'found ""')),
        ([[1.5]], ("paths[0][0]", "found 1.5", "write it as text")),
        ([[True]], ("paths[0][0]", "found true")),
        ([[["a"]]], ("paths[0][0]", "found list")),
        ([np.array([["a"], ["b"]])], ("paths[0][0]", "found list")),
        ([["\ud800"]], ("paths[0][0]", "\\ud800")),
        ([[10**5000]], ("paths[0][0]", "found an integer of")),
        ([10**5000], ("paths[0]", "found an integer of")),
    ],
)
def test_from_paths_refuses_what_is_no_path(paths: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as error:
        dagrec.from_paths(paths)
    assert says(error, *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"owners": ["ann"]}, ("owners", "each of 2 paths", "found 1", "write None")),
        ({"owners": ["ann"] * 3}, ("owners", "each of 2 paths", "found 3")),
        ({"owners": "xy"}, ("owners", "list", 'found "xy"')),
        ({"owners": 5}, ("owners", "list", "found 5")),
        ({"owners": {"a": 1, "b": 2}}, ("owners", "found dict")),
        ({"owners": ["ann", 1.5]}, ("paths[1]: owner", "found 1.5")),
        ({"times": [1]}, ("times", "each of 2 paths", "found 1")),
        ({"times": 5}, ("times", "list", "found 5")),
        ({"times": ["x", 1]}, ("paths[0]: time", "ISO 8601", 'found "x"', "correct it")),
        ({"times": [1, True]}, ("paths[1]: time", "found true")),
        ({"times": [float("inf"), 1]}, ("paths[0]: time", "found Infinity")),
        ({"times": [10**5000, 1]}, ("paths[0]: time", "found an integer of")),
        ({"times": [np.array([1, 2]), 1]}, ("paths[0]: time", "found ndarray")),
        ({"times": [timedelta(1), 1]}, ("paths[0]: time", "found timedelta")),
        ({"services": "ab"}, ("services", "list of keys or a function", 'found "ab"')),
        ({"services": 5}, ("services", "found 5")),
        ({"services": [["a"]]}, ("services: a key", "found list")),
    ],
)
def test_from_paths_refuses_wrong_options(options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as error:
        dagrec.from_paths(PATHS, **options)
    assert says(error, *parts)


# Data frames


LOG = {
    "user": ["bob", "ann", "ann", "bob", "ann"],
    "item": ["plot", "join", "clean", "clean", "plot"],
    "at": [4, 2, 1, 3, 3],
}
BY_TIME = {"ann": ["clean", "join", "plot"], "bob": ["clean", "plot"]}


def by_owner(data: Dataset) -> dict[str | None, list[str]]:
    return {composition.owner: [node.key for node in composition.nodes] for composition in data}


def read_log(frame: Any, **options: Any) -> Dataset:
    return dagrec.from_dataframe(frame, owner="user", service="item", **options)


@pytest.mark.parametrize("make", [dict, pd.DataFrame], ids=["dict of lists", "pandas"])
def test_from_dataframe_puts_rows_into_the_order_of_time(make: Any) -> None:
    data = read_log(make(LOG), time="at")
    assert by_owner(data) == BY_TIME
    assert [composition.time for composition in data] == [4.0, 3.0]
    assert [node.time for node in data[1].nodes] == [1.0, 2.0, 3.0]


def test_from_dataframe_keeps_the_order_of_rows_without_times() -> None:
    data = read_log(LOG)
    assert by_owner(data) == {"ann": ["join", "clean", "plot"], "bob": ["plot", "clean"]}
    assert [composition.time for composition in data] == [None, None]


def test_from_dataframe_keeps_the_order_of_rows_at_equal_times() -> None:
    frame = {"user": ["ann"] * 4, "item": ["d", "a", "c", "b"], "at": [2, 1, 1, 1]}
    assert keys(read_log(frame, time="at")) == [["a", "c", "b", "d"]]


def test_from_dataframe_looks_at_cells_and_not_at_the_index() -> None:
    frame = pd.DataFrame(LOG, index=[9, 9, 0, 3, -1]).iloc[::-1]
    assert by_owner(read_log(frame, time="at")) == BY_TIME


@pytest.mark.parametrize(
    "at",
    [
        pd.to_datetime([4, 2, 1, 3, 3], unit="h"),
        pd.to_datetime([4, 2, 1, 3, 3], unit="h").tz_localize("Europe/Vienna"),
        pd.to_datetime([4, 2, 1, 3, 3], unit="h").astype(str),
        pd.to_datetime([4, 2, 1, 3, 3], unit="h").strftime("%Y-%m-%dT%H:%M:%SZ"),
        pd.to_datetime([4, 2, 1, 3, 3], unit="D").date,
        pd.array([4, 2, 1, 3, 3], dtype="Int64"),
        [4.5, 2.5, 1.5, 3.5, 3.5],
    ],
    ids=["naive", "zone", "text", "ISO", "dates", "Int64", "floats"],
)
def test_from_dataframe_reads_times_of_every_kind(at: Any) -> None:
    assert by_owner(read_log(pd.DataFrame(LOG | {"at": at}), time="at")) == BY_TIME


@pytest.mark.usefixtures("far_from_utc")
def test_from_dataframe_takes_a_time_without_a_zone_as_utc() -> None:
    moments = ["2020-01-01 12:00", "2020-01-01 13:00"]
    frame = pd.DataFrame({"user": [1, 1], "item": [2, 3], "at": pd.to_datetime(moments)})
    text = frame.assign(at=moments)
    zoned = frame.assign(at=frame["at"].dt.tz_localize("UTC"))
    for each in (frame, text, zoned):
        assert [node.time for node in read_log(each, time="at")[0].nodes] == [NOON, NOON + 3600]


def test_from_dataframe_writes_ids_as_integers_whatever_their_column_holds() -> None:
    """pandas makes floats of a column of integers with gaps."""
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [7, 8, 7], "gap": [7, 8, None]})
    assert keys(read_log(frame)) == [["7", "8"], ["7"]]
    whole = frame[:2].assign(item=frame["gap"])
    assert whole["item"].dtype == float
    assert keys(read_log(whole)) == [["7", "8"]]
    for kind in ("int32", "Int64", "category", "string", "object"):
        assert keys(read_log(frame.astype({"item": kind}))) == [["7", "8"], ["7"]], kind


def test_session_gap_begins_a_new_path_after_a_longer_pause() -> None:
    frame = {"user": ["ann"] * 4, "item": ["a", "b", "c", "d"], "at": [0, 60, 180, 181]}
    assert keys(read_log(frame, time="at", session_gap=1)) == [["a", "b"], ["c", "d"]]
    assert keys(read_log(frame, time="at", session_gap=2.5)) == [["a", "b", "c", "d"]]
    assert keys(read_log(frame, time="at", session_gap=np.float64(0.5))) == [["a"], ["b"], ["c", "d"]]


def test_from_dataframe_takes_columns_that_are_named_by_numbers() -> None:
    frame = pd.DataFrame([["ann", "a"], ["ann", "b"]])
    assert keys(dagrec.from_dataframe(frame, owner=0, service=1)) == [["a", "b"]]


@pytest.mark.parametrize(
    ("frame", "parts"),
    [
        (None, ("named columns", "found NoneType", "dict of lists")),
        ("log.csv", ("named columns", "found str")),
        ([LOG], ("named columns", "found list")),
        (np.zeros((2, 3)), ("named columns", "found ndarray")),
        ({}, ("column 'user'", "owner", "the columns are none")),
        (pd.DataFrame(), ("column 'user'", "the columns are none")),
        (pd.DataFrame(LOG)[:0], ("at least one composition", "found none")),
        ({"users": ["a"], "item": ["b"], "at": [1]}, ("column 'user'", "did you mean users?")),
        (
            pd.DataFrame([[1, 2, 3, 4]], columns=["user", "user", "item", "at"]),
            ("column 'user'", "must occur once", "found 2", "rename"),
        ),
        (LOG | {"item": ["a"]}, ("equal lengths", "5 owners", "1 services", "5 times")),
        (LOG | {"at": [1, 2]}, ("equal lengths", "2 times")),
        (LOG | {"item": "abcde"}, ("column 'item'", "list of cells", 'found "abcde"')),
        (LOG | {"item": None}, ("column 'item'", "list of cells", "found nothing")),
        (LOG | {"user": ["a", "b", None, "c", "d"]}, ("row 2: user", "found nothing", "fill it in")),
        (LOG | {"item": [1.0, float("nan"), 1, 1, 1]}, ("row 1: item", "found nothing")),
        (LOG | {"item": [1, 2, 3, 4, pd.NA]}, ("row 4: item", "found nothing")),
        (LOG | {"item": [1, 2, 2.5, 4, 5]}, ("row 2: item", "found 2.5")),
        (LOG | {"item": [1, 2, np.array([1, 2]), 4, 5]}, ("row 2: item", "found ndarray")),
        (LOG | {"at": [1, None, 3, 4, 5]}, ("row 1: at", "must be a time", "found none", "fill it in")),
        (LOG | {"at": [1, 2, 3, pd.NaT, 5]}, ("row 3: at", "found none")),
        (LOG | {"at": [1, 2, 3, 4, "yesterday"]}, ("row 4: at", "ISO 8601", 'found "yesterday"')),
    ],
)
def test_from_dataframe_refuses_what_is_no_log(frame: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as error:
        read_log(frame, time="at")
    assert says(error, *parts)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"owner": "usr"}, ("column 'usr'", "owner", "did you mean user?")),
        ({"service": "tool"}, ("column 'tool'", "service", "the columns are user, item, at")),
        ({"time": "att"}, ("column 'att'", "time", "did you mean at?")),
        ({"owner": None}, ("column for the owner", "found None", "name it")),
        ({"owner": 5}, ("column 5", "owner", "the columns are")),
        ({"owner": ["user"]}, ("column ['user']",)),
        ({"session_gap": 3}, ("session_gap", "needs a time column")),
        ({"session_gap": -3, "time": "at"}, ("session_gap", "positive", "found -3", "leave it out")),
        ({"session_gap": "3", "time": "at"}, ("session_gap", "positive", "found '3'")),
        ({"session_gap": float("nan"), "time": "at"}, ("session_gap", "found nan")),
        ({"session_gap": True, "time": "at"}, ("session_gap", "found True")),
        ({"session_gap": math.inf, "time": "at"}, ("session_gap", "positive", "found inf")),
        ({"session_gap": 10**400, "time": "at"}, ("session_gap", "positive", "found 1000")),
        ({"session_gap": 10**5000, "time": "at"}, ("session_gap", "positive", "found int too long")),
    ],
)
def test_from_dataframe_refuses_wrong_options(options: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises((DataError, ConfigError)) as error:
        dagrec.from_dataframe(LOG, **{"owner": "user", "service": "item", **options})
    assert says(error, *parts)


# Graphs


def graph(attributes: dict[str, Any] | None = None, **about: Any) -> nx.DiGraph:
    """a -> b, with attributes of a and of the graph."""
    made = nx.DiGraph([("a", "b")], **about)
    made.nodes["a"].update(attributes or {})
    return made


def test_from_networkx_reads_attributes_of_nodes_and_graph() -> None:
    made = graph({"key": 7, "kind": "table", "text": "cities", "time": "2020-01-01T12:00"})
    made.graph.update(id="mine", owner=np.int64(3), time=pd.Timestamp("2020-01-01 12:00"))
    (composition,) = dagrec.from_networkx(made)
    assert (composition.id, composition.owner, composition.time) == ("mine", "3", NOON)
    first, second = composition.nodes
    assert (first.id, first.key, first.kind, first.text, first.time) == (
        "a",
        "7",
        "table",
        "cities",
        NOON,
    )
    assert (second.id, second.key, second.kind, second.text) == ("b", "b", "service", None)
    assert composition.links == (("a", "b"),)


def test_from_networkx_names_graphs_by_their_name_or_position() -> None:
    graphs = [graph(), graph(name="mine"), graph(id=0, name="other"), graph(name="")]
    assert [c.id for c in dagrec.from_networkx(iter(graphs))] == ["graph-0", "mine", "0", "graph-3"]


def test_from_networkx_takes_nodes_of_any_kind() -> None:
    made = nx.DiGraph([(1, "x"), ("x", ("y", 2))])
    assert keys(dagrec.from_networkx(made)) == [["1", "x", "('y', 2)"]]


def test_from_networkx_counts_links_given_more_than_once() -> None:
    data = dagrec.from_networkx(nx.MultiDiGraph([("a", "b"), ("a", "b"), ("b", "c")]))
    assert data[0].links == (("a", "b"), ("b", "c"))
    assert data.report.notes == {"links given more than once": 1}


def test_from_networkx_breaks_or_skips_cycles_and_counts_them() -> None:
    circle = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "b")])
    broken = dagrec.from_networkx([circle, graph()], on_cycle="break")
    assert [len(composition.links) for composition in broken] == [2, 1]
    assert (broken.report.cycles, broken.report.broken_links) == (1, 1)
    skipped = dagrec.from_networkx([circle, graph()], on_cycle="skip")
    assert keys(skipped) == [["a", "b"]]
    assert skipped.report.skipped == {"cycle": 1}
    assert "graphs[0]" in skipped.report.problems[0]


@pytest.mark.parametrize(
    ("graphs", "parts"),
    [
        (None, ("graphs", "networkx", "found nothing")),
        (5, ("graphs", "networkx", "found 5")),
        ("abc", ("graphs", 'found "abc"')),
        ([], ("at least one composition", "found none")),
        ([graph(), None], ("graphs[1]", "directed networkx graph", "found NoneType", "DiGraph")),
        (
            nx.Graph([(1, 2)]),
            ("graphs[0]", "directed networkx graph", "found Graph", "networkx.DiGraph"),
        ),
        ([graph(), nx.DiGraph()], ("graphs[1]", "at least one node", "found none")),
        (
            nx.DiGraph([("a", "b"), ("b", "a")]),
            ("graphs[0]", "'b' -> 'a'", "cycle"),
        ),
        (nx.DiGraph([("a", "a")]), ("graphs[0]", "'a' -> 'a'", "cycle")),
        (nx.DiGraph([(1, "1")]), ("graphs[0]", "node '1'", "found it twice", "rename one")),
        (nx.DiGraph([("", "a")]), ("graphs[0]", "a node", "non-empty", 'found ""')),
        (nx.DiGraph([("\ud800", "a")]), ("graphs[0]", "a node", "\\ud800")),
        (graph({"key": 1.5}), ("graphs[0]", "node 'a': key", "found 1.5")),
        (graph({"key": ""}), ("graphs[0]", "node 'a': key", 'found ""')),
        (graph({"kind": 3}), ("graphs[0]", "node 'a': kind", "must be text", "found 3")),
        (graph({"text": ["x"]}), ("graphs[0]", "node 'a': text", "must be text", "found list")),
        (graph({"time": "noon"}), ("graphs[0]", "node 'a': time", 'found "noon"')),
        (graph(owner=1.5), ("graphs[0]", "owner", "found 1.5")),
        (graph(time="noon"), ("graphs[0]", "time", 'found "noon"')),
        (graph(id=[1]), ("graphs[0]", "id", "found list")),
        (graph(name=np.array([1, 2])), ("graphs[0]", "id", "found ndarray")),
    ],
)
def test_from_networkx_refuses_what_is_no_composition(graphs: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as error:
        dagrec.from_networkx(graphs)
    assert says(error, *parts)


def test_from_networkx_says_what_was_skipped_where_nothing_is_left() -> None:
    with pytest.raises(DataError) as error:
        dagrec.from_networkx([nx.DiGraph([("a", "a")])] * 2, on_cycle="skip")
    assert says(error, "at least one composition", "2 skipped", "graphs[0]", "cycle")


@pytest.mark.parametrize("on_cycle", ["brek", None, 5, ["skip"]])
def test_from_networkx_refuses_an_unknown_way_with_cycles(on_cycle: Any) -> None:
    with pytest.raises(ConfigError) as error:
        dagrec.from_networkx(graph(), on_cycle=on_cycle)
    assert says(error, "on_cycle", "fail, skip or break", repr(on_cycle))


def test_graphs_go_both_ways() -> None:
    made = nx.DiGraph([("t", "x"), ("t", "y"), ("y", "z")], id="mine", owner="ann", time=5.0)
    made.nodes["t"].update(key="table_1", kind="table", text="cities", time=1.5)
    data = dagrec.from_networkx([made])
    again = dagrec.from_networkx([data[0].to_networkx()])
    assert again.compositions == data.compositions
    assert again.fingerprint == data.fingerprint


def test_read_compositions_go_through_networkx_unchanged_but_for_the_order_of_links() -> None:
    data = dagrec.read("data/compositions.json")
    again = dagrec.from_networkx(composition.to_networkx() for composition in data)
    for before, after in zip(data, again, strict=True):
        assert (after.id, after.nodes, after.owner, after.time) == (
            before.id,
            before.nodes,
            before.owner,
            before.time,
        )
        assert sorted(after.links) == sorted(before.links)
        assert after.signature == before.signature


def test_from_networkx_reads_ports_operations_and_goal() -> None:
    made = nx.MultiDiGraph(goal="sell")
    made.add_node("a", operation="get")
    made.add_edge("a", "b", output=0, input="in")
    made.add_edge("a", "b", output=1)
    made.add_edge("a", "b", output=1)
    data = dagrec.from_networkx(made)
    assert data[0].goal == "sell"
    assert data[0].nodes[0].operation == "get"
    assert data[0].links == (("a", "b"),)
    assert data[0].wires == (Wire("a", "b", "0", "in"), Wire("a", "b", "1"))
    assert data.report.notes == {"links given more than once": 1}
    assert dagrec.from_networkx(data[0].to_networkx()).compositions == data.compositions


def test_from_networkx_splits_graph_by_composition_of_nodes() -> None:
    made = nx.DiGraph([("a", "b"), ("b", "b"), ("c", "a")], owner="ann")
    for node, name in (("a", "x"), ("b", 7), ("c", "x")):
        made.nodes[node]["composition"] = name
    data = dagrec.from_networkx(made, on_cycle="skip")
    assert [(c.id, c.owner, c.links) for c in data] == [("x", "ann", (("c", "a"),))]
    assert data.report.skipped == {"cycle": 1}
    assert data.report.notes == {"links between two compositions dropped": 1}


def test_from_networkx_takes_time_of_last_service_unless_graph_has_one() -> None:
    made = graph({"time": 5.0})
    assert dagrec.from_networkx(made)[0].time == 5.0
    made.graph["time"] = None
    assert dagrec.from_networkx(made)[0].time is None


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda made: made.graph.update(goal=5), "graphs[0]: goal must be text, found 5"),
        (lambda made: made.nodes["a"].update(operation=[]), "node 'a': operation must be text"),
        (lambda made: made.nodes["a"].update(composition="x"), "node 'b': composition must be given"),
        (lambda made: made.edges["a", "b"].update(output=0.5), "link 'a' -> 'b': output"),
        (lambda made: made.edges["a", "b"].update(input=""), "link 'a' -> 'b': input"),
    ],
)
def test_from_networkx_names_invalid_attributes(change: Any, part: str) -> None:
    made = graph()
    change(made)
    with pytest.raises(DataError) as error:
        dagrec.from_networkx(made)
    assert says(error, part)


# Junk


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.characters(categories=["Cs"]),
    st.binary(max_size=3),
    st.datetimes(),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=14))])),
    st.dates(),
    st.timedeltas(),
    st.complex_numbers(),
    st.sampled_from(
        [pd.NA, pd.NaT, np.int8(1), np.float32("nan"), np.datetime64("NaT"), np.zeros(2), object]
    ),
    st.just(5000).map(lambda digits: 10**digits),
)
HASHABLE = st.one_of(
    st.integers(0, 3), st.text(max_size=2), st.booleans(), st.tuples(st.integers(0, 1))
)
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(HASHABLE, inner, max_size=2),
        st.sets(HASHABLE, max_size=2),
    ),
    max_leaves=6,
)
KEYS = st.one_of(st.text("abc", min_size=1, max_size=2), st.integers(0, 9), JUNK)


def check_made_or_refused(make: Any) -> None:
    """It gives a whole data set, or an error of dagrec."""
    try:
        data = make()
    except DagrecError:
        return
    assert len(data) > 0
    for composition in data:
        assert all(isinstance(node.key, str) and node.key for node in composition.nodes)
        assert len(composition.order) == len(composition.nodes)
    assert repr(data)
    assert data._repr_html_().startswith("<div>")
    assert data.fingerprint == Dataset.of(data.compositions, data.report, source="x").fingerprint


@given(JUNK, JUNK, JUNK, JUNK)
def test_from_paths_takes_or_refuses_any_junk(
    paths: Any, owners: Any, times: Any, services: Any
) -> None:
    check_made_or_refused(lambda: dagrec.from_paths(paths))
    if not callable(services):
        options = {"owners": owners, "times": times, "services": services}
        check_made_or_refused(lambda: dagrec.from_paths(PATHS, **options))


@given(st.lists(st.lists(KEYS, min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_from_paths_takes_or_refuses_paths_of_junk(paths: list[list[Any]], data: st.DataObject) -> None:
    each = st.lists(JUNK, min_size=len(paths), max_size=len(paths))
    owners, times = data.draw(st.none() | each), data.draw(st.none() | each)
    check_made_or_refused(lambda: dagrec.from_paths(paths, owners=owners, times=times))


@given(st.lists(st.tuples(KEYS, KEYS, JUNK), max_size=4), st.booleans(), st.none() | JUNK)
def test_from_dataframe_takes_or_refuses_cells_of_junk(
    rows: list[tuple[Any, Any, Any]], as_pandas: bool, gap: Any
) -> None:
    columns = zip(*rows, strict=True) if rows else [(), (), ()]
    frame: Any = {
        name: list(cells) for name, cells in zip(("user", "item", "at"), columns, strict=True)
    }
    if as_pandas:
        frame = pd.DataFrame({name: pd.Series(cells, dtype=object) for name, cells in frame.items()})
    check_made_or_refused(lambda: read_log(frame, time="at", session_gap=gap))
    check_made_or_refused(lambda: read_log(frame))


@given(JUNK, JUNK, JUNK)
def test_from_dataframe_takes_or_refuses_any_junk(frame: Any, owner: Any, service: Any) -> None:
    check_made_or_refused(lambda: dagrec.from_dataframe(frame, owner=owner, service=service))
    check_made_or_refused(lambda: dagrec.from_dataframe(LOG, owner=owner, service=service))
    check_made_or_refused(lambda: dagrec.from_dataframe({"a": frame}, owner="a", service="a"))


@given(
    st.lists(st.tuples(HASHABLE, HASHABLE), max_size=4),
    st.dictionaries(
        st.sampled_from(["key", "kind", "text", "time", "operation", "owner", "goal", "composition"]),
        JUNK,
        max_size=2,
    ),
    st.dictionaries(st.sampled_from(["id", "name", "owner", "time", "goal"]), JUNK, max_size=2),
    st.sampled_from([nx.DiGraph, nx.MultiDiGraph, nx.Graph]),
    st.sampled_from(["fail", "skip", "break"]),
)
def test_from_networkx_takes_or_refuses_attributes_of_junk(
    links: list[Any], attributes: dict[str, Any], about: dict[str, Any], kind: Any, on_cycle: Any
) -> None:
    made = kind(links)
    made.graph.update(about)
    for node in list(made)[:1]:
        made.nodes[node].update(attributes)
    check_made_or_refused(lambda: dagrec.from_networkx([made], on_cycle=on_cycle))


@given(JUNK, JUNK)
def test_from_networkx_takes_or_refuses_any_junk(graphs: Any, on_cycle: Any) -> None:
    check_made_or_refused(lambda: dagrec.from_networkx(graphs))
    check_made_or_refused(lambda: dagrec.from_networkx(graph(), on_cycle=on_cycle))
