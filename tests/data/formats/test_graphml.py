"""The reader of GraphML."""

from __future__ import annotations

import tempfile
from pathlib import Path

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Wire
from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions, read
from dagrec.data.formats.base import Reading, compose_draft
from dagrec.data.formats.content import Content
from dagrec.data.formats.graphml import FORMAT, MAX_DEPTH
from dagrec.errors import DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same

PORTS = st.sampled_from([None, "main/0", "x & y", "<z>"])
HEADER = '<?xml version="1.0" encoding="UTF-8"?>\n'
GRAPHML = '<graphml xmlns="http://graphml.graphdrawing.org/xmlns" xmlns:y="http://www.yworks.com/xml/graphml">'


def load(folder: Path, *parts: str, **options: str) -> Dataset:
    """Read a file with these elements in the root."""
    file = folder / "w.graphml"
    file.write_text(f"{HEADER}{GRAPHML}\n{''.join(parts)}</graphml>")
    return read(file, ReadOptions.model_validate(options))


def graph(*parts: str, about: str = 'edgedefault="directed"') -> str:
    return f"<graph {about}>{''.join(parts)}</graph>"


AB = '<node id="a"/><node id="b"/>'


def test_file_of_networkx_is_read(tmp_path: Path) -> None:
    made = nx.DiGraph(owner="ann", goal="Sell")
    made.add_node("a", key="cut", kind="data", text="ä < b", time=1_588_334_400, operation="all")
    made.add_node(7)
    made.add_edge("a", 7, output="out", input="in", weight=0.5)
    nx.write_graphml(made, tmp_path / "w.graphml")
    dataset = read(tmp_path)
    assert dict(dataset.report.formats) == {"graphml": 1}
    assert dataset.form == "links"
    (composition,) = dataset
    first, second = composition.nodes
    assert (first.id, first.key, first.kind, first.text) == ("a", "cut", "data", "ä < b")
    assert (first.time, first.operation) == (1_588_334_400.0, "all")
    assert (second.id, second.key, second.kind) == ("7", "7", "service")
    assert (composition.owner, composition.goal) == ("ann", "Sell")
    assert composition.wires == (Wire("a", "7", "out", "in"),)


def test_defaults_of_keys_apply(tmp_path: Path) -> None:
    keys = (
        '<key id="k" for="node" attr.name="kind" attr.type="string"><default>data</default></key>'
        '<key id="o" for="all" attr.name="owner"><default>ann</default></key>'
        '<key id="g" for="graph" attr.name="goal"><default>Sell</default></key>'
        '<key id="p" for="edge" attr.name="output"><default>main</default></key>'
    )
    edges = '<edge source="a" target="b"/><edge source="a" target="c"><data key="p">x</data></edge>'
    nodes = AB + '<node id="c"><data key="k">service</data></node>'
    (composition,) = load(tmp_path, keys, graph(nodes, edges))
    assert [n.kind for n in composition.nodes] == ["data", "data", "service"]
    assert (composition.owner, composition.goal) == ("ann", "Sell")
    assert composition.wires == (Wire("a", "b", "main"), Wire("a", "c", "x"))


def test_ports_of_edges_are_read(tmp_path: Path) -> None:
    node = '<node id="a"><port name="out"/></node><node id="b"><port name="in"/></node>'
    edge = '<edge source="a" target="b" sourceport="out" targetport="in"/>'
    (composition,) = load(tmp_path, graph(node, edge))
    assert composition.wires == (Wire("a", "b", "out", "in"),)


def test_labels_of_yed_are_texts_and_groups_are_dropped(tmp_path: Path) -> None:
    keys = '<key id="d6" for="node" yfiles.type="nodegraphics"/>'

    def node(id_: str, label: str, inside: str = "") -> str:
        shape = f"<y:ShapeNode><y:Geometry x='1'/><y:NodeLabel>{label}<y:LabelModel/></y:NodeLabel>"
        return f'<node id="{id_}"><data key="d6">{shape}</y:ShapeNode></data>{inside}</node>'

    inner = graph(node("n0::n0", "Cut"), node("n0::n1", "Join"))
    edge = (
        '<edge source="n0::n0" target="n1"><data key="d10"><y:EdgeLabel>yes</y:EdgeLabel></data></edge>'
    )
    outer = graph(node("n0", "Group", inner), node("n1", " Plot "), edge, about='id="G"')
    dataset = load(tmp_path, keys, outer)
    assert [(n.id, n.text) for n in dataset[0].nodes] == [
        ("n0::n0", "Cut"),
        ("n0::n1", "Join"),
        ("n1", "Plot"),
    ]
    assert dataset[0].id == "G"
    assert dataset.report.notes == {"groups dropped": 1}
    linked = outer.replace('source="n0::n0"', 'source="n0"')
    assert len(load(tmp_path, keys, linked)[0].nodes) == 4


def test_several_graphs_and_compositions_of_a_file_are_read(tmp_path: Path) -> None:
    keys = '<key id="c" for="node" attr.name="composition" attr.type="string"/>'
    split = "".join(f'<node id="{i}"><data key="c">w{i}</data></node>' for i in (1, 2))
    dataset = load(tmp_path, keys, graph(AB, about='id="first"'), graph(split))
    assert [c.id for c in dataset] == ["first", "w1", "w2"]


def test_file_without_namespace_or_with_prefix_is_read(tmp_path: Path) -> None:
    file = tmp_path / "w.xml"
    file.write_text("<!-- made by hand --><graphml><graph><node id='a'/></graph></graphml>")
    assert read(file)[0].nodes[0].key == "a"
    file.write_text(
        '<g:graphml xmlns:g="http://graphml.graphdrawing.org/xmlns"><g:graph edgedefault="directed">'
        '<g:node id="a"/></g:graph></g:graphml>'
    )
    assert read(file)[0].nodes[0].key == "a"


def test_document_type_without_entities_is_allowed(tmp_path: Path) -> None:
    file = tmp_path / "w.graphml"
    file.write_text(f'<!DOCTYPE graphml SYSTEM "graphml.dtd"><graphml>{graph(AB)}</graphml>')
    assert len(read(file)[0].nodes) == 2


@pytest.mark.parametrize(
    ("parts", "rule", "message"),
    [
        (
            graph(AB, '<edge source="a" target="b"/>', about='edgedefault="undirected"'),
            "undirected",
            "graph 1: a graph must be directed",
        ),
        (
            graph(AB, '<edge source="a" target="b" directed="false"/>'),
            "undirected",
            "graph 1: a graph must be directed",
        ),
        (graph(AB, "<hyperedge/>"), "wrong-type", "graph 1: a link must have one source"),
        (graph(), "no-nodes", "graph 1: a composition needs at least one node"),
        (graph("<node/>"), "missing-id", "graph 1: node 1: id must be"),
        (graph(AB, '<edge source="a"/>'), "missing-id", "graph 1: edge 1: target must be"),
        (graph(AB, '<edge source="a" target="z"/>'), "dangling-link", "found 'z'"),
        (graph(AB, AB), "duplicate-id", "node 'a': an id may occur once"),
        (
            graph('<node id="a"><data key="time">noon</data></node>'),
            "bad-time",
            "graph 1: node 'a': time must be",
        ),
        ("<graph>", "not-xml", "not XML at line 3"),
        ("&undeclared;", "not-xml", "not XML at line 3"),
        ("<graph>" * (MAX_DEPTH + 1), "too-deep", "200 elements inside of each other"),
    ],
)
def test_invalid_file_is_named(parts: str, rule: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, parts)
    assert error.value.rule == rule
    assert says(error, "w.graphml: ", message)


def test_directed_edges_of_undirected_graph_are_read(tmp_path: Path) -> None:
    edge = '<edge source="a" target="b" directed="true"/>'
    assert load(tmp_path, graph(AB, edge, about='edgedefault="undirected"'))[0].links == (("a", "b"),)


@pytest.mark.parametrize("kind", ["", "%"])
def test_declared_entities_are_refused(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "w.graphml"
    bomb = "".join(f'<!ENTITY {kind} e{i + 1} "{f"&e{i};" * 10}">' for i in range(9))
    file.write_text(f'<!DOCTYPE graphml [<!ENTITY {kind} e0 "x">{bomb}]><graphml>&e9;</graphml>')
    with pytest.raises(DataError) as error:
        read(file)
    assert says(error, "XML must not declare entities")


@pytest.mark.parametrize("text", ["<svg><graph/></svg>", "<p>graphml</p>", "graphml", "{}", "[]"])
def test_other_text_is_not_recognised(text: str) -> None:
    assert not FORMAT.recognises(Content(text), ReadOptions())


@given(written=compositions(outputs=PORTS, inputs=PORTS))
def test_written_graph_is_read_again(written: Composition) -> None:
    made = written.to_networkx()
    # GraphML has no null.
    for attributes in (made.graph, *(attributes for _, attributes in made.nodes(data=True))):
        for name in [name for name, value in attributes.items() if value is None]:
            del attributes[name]
    with tempfile.TemporaryFile() as file:
        nx.write_graphml(made, file)
        file.seek(0)
        text = file.read().decode()
    (document,) = FORMAT.documents(Content(text), Reading())
    assert is_same(compose_draft(document.draft(), "none", "fail")[0], written)
