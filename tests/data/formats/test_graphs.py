"""Graphs with attributes, and the reader of node-link JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dagrec
from dagrec.data.compositions import Composition, Wire
from dagrec.data.dataset import Dataset
from dagrec.data.formats import read, read_composition
from dagrec.errors import DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same

Json = Any
NOON = 1_588_334_400.0
PORTS = st.sampled_from([None, "main/0", "out put", "x"])


def document(nodes: list[Json], links: str = "", edges: str = "edges", **graph: Json) -> Json:
    """Node-link JSON of nodes, which can be ids, and links like ``a>b``."""
    ends = [word.split(">") for word in links.split()]
    return {
        "directed": True,
        "multigraph": False,
        "graph": graph,
        "nodes": [node if isinstance(node, dict) else {"id": node} for node in nodes],
        edges: [{"source": source, "target": target} for source, target in ends],
    }


def load(folder: Path, value: Json) -> Dataset:
    file = folder / "graph.json"
    file.write_text(json.dumps(value))
    return read(file)


@pytest.mark.parametrize("edges", ["links", "edges"])
def test_nodes_are_services_whose_key_is_their_id(edges: str, tmp_path: Path) -> None:
    graph = nx.DiGraph([("cut", "join"), ("cut", "plot"), (7, "plot")])
    dataset = load(tmp_path, nx.node_link_data(graph, edges=edges))
    assert dict(dataset.report.formats) == {"node-link": 1}
    assert dataset.form == "links"
    (composition,) = dataset
    assert [(n.id, n.key, n.kind) for n in composition.nodes] == [
        (name, name, "service") for name in ("cut", "join", "plot", "7")
    ]
    assert composition.links == (("cut", "join"), ("cut", "plot"), ("7", "plot"))


def test_attributes_of_nodes_links_and_graph_are_read(tmp_path: Path) -> None:
    node = {"id": 1, "key": 5, "kind": "data", "text": " a note ", "operation": "get", "time": NOON}
    value = document([node, {"id": 2, "label": "Send"}], name="w", owner=3, goal=" Sell ", time=NOON)
    value["edges"] = [{"source": 1, "target": 2, "output": 0, "input": "in", "weight": 2}]
    (composition,) = load(tmp_path, value)
    first, second = composition.nodes
    assert (first.key, first.kind, first.text) == ("5", "data", "a note")
    assert (first.operation, first.time) == ("get", NOON)
    assert (second.key, second.text) == ("2", "Send")
    assert (composition.id, composition.owner, composition.goal) == ("w", "3", "Sell")
    assert composition.time == NOON
    assert composition.wires == (Wire("1", "2", "0", "in"),)


def test_parallel_links_are_wires(tmp_path: Path) -> None:
    graph = nx.MultiDiGraph()
    graph.add_edge("a", "b", output="x")
    graph.add_edge("a", "b", output="y")
    graph.add_edge("a", "b", output="y")
    dataset = load(tmp_path, nx.node_link_data(graph))
    assert dataset[0].links == (("a", "b"),)
    assert dataset[0].wires == (Wire("a", "b", "x"), Wire("a", "b", "y"))
    assert dataset.report.notes["links given more than once"] == 1


def test_owner_goal_and_time_are_those_of_nodes_unless_graph_has_them(tmp_path: Path) -> None:
    early, late = NOON - 5, NOON
    nodes = [
        {"id": 1, "owner": "ann", "time": early, "goal": "Sell"},
        {"id": 2, "owner": "ann", "time": late},
        {"id": 3, "time": late + 9, "kind": "data", "goal": "Sell"},
    ]
    (composition,) = load(tmp_path, document(nodes))
    assert (composition.owner, composition.time, composition.goal) == ("ann", late, "Sell")
    (composition,) = load(tmp_path, document(nodes, owner=None, time=early, goal="Buy"))
    assert (composition.owner, composition.time, composition.goal) == (None, early, "Buy")
    (composition,) = load(tmp_path, document([*nodes, {"id": 4, "owner": "bob"}]))
    assert composition.owner is None


def test_composition_of_nodes_splits_graph(tmp_path: Path) -> None:
    nodes = [
        {"id": id_, "composition": name, "goal": f"goal of {name}"}
        for id_, name in zip("abcd", ["x", 7, "x", 7], strict=True)
    ]
    dataset = load(tmp_path, document(nodes, "a>c b>d c>d", owner="ann", id="all"))
    assert [(c.id, c.owner, c.goal) for c in dataset] == [
        ("x", "ann", "goal of x"),
        ("7", "ann", "goal of 7"),
    ]
    assert [c.links for c in dataset] == [(("a", "c"),), (("b", "d"),)]
    assert dataset.report.notes == {"links between two compositions dropped": 1}
    again = dagrec.from_networkx(nx.node_link_graph(document(nodes, "a>c b>d c>d", owner="ann")))
    assert again.compositions == dataset.compositions
    assert again.report.notes == dataset.report.notes


def test_graph_in_a_request_is_read() -> None:
    composition = read_composition(document(["a", "b"], "a>b"))
    assert composition.links == (("a", "b"),)
    parts = [{"id": "a", "composition": "x"}, {"id": "b", "composition": "y"}]
    with pytest.raises(DataError) as error:
        read_composition(document(parts))
    assert says(error, "one composition", "several")


def test_attributes_of_graph_can_be_pairs(tmp_path: Path) -> None:
    value = document(["a"]) | {"graph": [["name", "w"], ["owner", "ann"]]}
    (composition,) = load(tmp_path, value)
    assert (composition.id, composition.owner) == ("w", "ann")


@pytest.mark.parametrize(
    ("change", "rule", "message"),
    [
        ({"directed": False}, "undirected", "a graph must be directed, found an undirected one"),
        ({"nodes": []}, "no-nodes", "at least one node, found none"),
        ({"nodes": 5}, "wrong-type", "nodes must be an array, found 5"),
        ({"nodes": [1]}, "wrong-type", "node 1 must be an object, found 1"),
        ({"nodes": [{"key": "a"}]}, "missing-id", "node 1: id must be"),
        ({"nodes": [{"id": ["a", 1]}]}, "wrong-type", "node 1: id must be"),
        ({"nodes": [{"id": "a", "key": 0.5}]}, "wrong-type", "node 'a': key must be"),
        ({"nodes": [{"id": "a", "kind": 5}]}, "wrong-type", "node 'a': kind must be a string"),
        ({"nodes": [{"id": "a", "time": "noon"}]}, "bad-time", "node 'a': time must be ISO 8601"),
        ({"nodes": [{"id": "a"}, {"id": "a"}]}, "duplicate-id", "node 'a': an id may occur once"),
        ({"edges": [{"source": "a"}]}, "missing-id", "link 1: target must be"),
        ({"edges": [{"source": "a", "target": "z"}]}, "dangling-link", "found 'z'"),
        ({"edges": [{"source": "a", "target": "a"}]}, "cycle", "closes a cycle"),
        ({"graph": [1]}, "wrong-type", "graph must be an object, found an array of 1"),
        (
            {"nodes": [{"id": "a", "composition": "x"}, {"id": "b"}]},
            "missing-id",
            "node 'b': composition must be given for every node or for none, found nothing",
        ),
        (
            {
                "nodes": [{"id": "a", "composition": "x"}, {"id": "b", "composition": "y"}],
                "edges": [{"source": "z", "target": "b"}],
            },
            "dangling-link",
            "composition 1, y: link 'z' -> 'b': its source",
        ),
    ],
)
def test_invalid_graph_is_named(change: Json, rule: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, document(["a", "b"], "a>b") | change)
    assert error.value.rule == rule
    assert says(error, "graph.json: composition 1", message)


def test_later_graph_without_nodes_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, [document(["a"]), {"directed": True, "links": []}])
    assert says(error, "composition 2: a graph needs 'nodes'")


def test_graph_of_data_only_says_so(tmp_path: Path) -> None:
    nodes = [{"id": "a", "kind": "data"}, {"id": "b", "kind": "table"}]
    with pytest.raises(DataError) as error:
        load(tmp_path, document(nodes, "a>b"))
    assert says(error, "at least one node must be a service", "nodes of kind data, table", "kind")


@given(written=compositions(outputs=PORTS, inputs=PORTS), edges=st.sampled_from(["links", "edges"]))
def test_written_graph_is_read_again(written: Composition, edges: str) -> None:
    graph = written.to_networkx()
    assert is_same(
        read_composition(json.loads(json.dumps(nx.node_link_data(graph, edges=edges)))), written
    )
    (again,) = dagrec.from_networkx(graph)
    assert is_same(again, written)
