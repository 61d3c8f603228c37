"""The reader of DOT."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Wire
from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions, read
from dagrec.data.formats.base import Reading, compose_draft
from dagrec.data.formats.content import Content
from dagrec.data.formats.dot import FORMAT, MAX_DEPTH
from dagrec.errors import DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same

PORTS = st.sampled_from([None, "main/0", 'say "x"', "a:b"])


def load(folder: Path, text: str) -> Dataset:
    file = folder / "w.dot"
    file.write_text(text)
    return read(file)


def only(folder: Path, text: str) -> Composition:
    (composition,) = load(folder, text)
    return composition


def test_nodes_are_services_in_the_order_in_which_they_are_first_named(tmp_path: Path) -> None:
    dataset = load(tmp_path, "digraph { b; a -> b -> c; 3.5 [shape=box] ; -7 }")
    assert dict(dataset.report.formats) == {"dot": 1}
    assert dataset.form == "links"
    assert [(n.id, n.key, n.kind) for n in dataset[0].nodes] == [
        (name, name, "service") for name in ("b", "a", "c", "3.5", "-7")
    ]
    assert dataset[0].links == (("a", "b"), ("b", "c"))


def test_attributes_are_read(tmp_path: Path) -> None:
    composition = only(
        tmp_path,
        """
        digraph "my flow" {
            graph [rankdir=LR, owner=ann; goal="Sell\\nmore"]
            time = "2024-05-01"
            a [key="cut \\"it\\"", kind=data text="a\\lb\\\\" operation=all][time="2024-05-01T12:00"];
            a -> b [output="main/0", input=x, color=red];
        }""",
    )
    first = composition.nodes[0]
    assert (first.id, first.key, first.kind, first.text) == ("a", 'cut "it"', "data", "a\nb\\")
    assert (first.operation, first.time) == ("all", composition.time + 12 * 3600)  # type: ignore[operator]
    assert (composition.id, composition.owner, composition.goal) == ("my flow", "ann", "Sell\nmore")
    assert composition.wires == (Wire("a", "b", "main/0", "x"),)


def test_labels_are_texts_and_goals(tmp_path: Path) -> None:
    labels = ('"Cut it"', "<<b>A&amp;B</b><br/>C>", '"\\N"')
    nodes = [f"{name} [label={label}]" for name, label in zip("abc", labels, strict=True)]
    text = "\n".join(['digraph { label="Sell"', *nodes, "}"])
    composition = only(tmp_path, text)
    assert [n.text for n in composition.nodes] == ["Cut it", "A&B\nC", None]
    assert composition.goal == "Sell"
    assert only(tmp_path, "digraph { label=Sell; goal=Buy; a }").goal == "Buy"


def test_ports_of_graphviz_are_read_without_points_of_the_compass(tmp_path: Path) -> None:
    text = """digraph {
        a:out -> b:in:nw; b:n -> c:sw;
        "c:d" -> e [tailport="p:n", headport=s]
        a:out -> e [output=mine]
    }"""
    assert only(tmp_path, text).wires == (
        Wire("a", "b", "out", "in"),
        Wire("c:d", "e", "p", None),
        Wire("a", "e", "mine", None),
    )


def test_defaults_apply_to_what_comes_after_them_in_their_subgraph(tmp_path: Path) -> None:
    text = """digraph {
        a; node [kind=data]; edge [output=x]
        subgraph cluster_1 { label="not the goal"; node [kind=table]; b; { c } edge [output=y] b -> c }
        d -> a
    }"""
    composition = only(tmp_path, text)
    kinds = {n.id: n.kind for n in composition.nodes}
    assert kinds == {"a": "service", "b": "table", "c": "table", "d": "data"}
    assert composition.wires == (Wire("b", "c", "y"), Wire("d", "a", "x"))
    assert composition.goal is None


def test_links_of_subgraphs_are_those_of_all_their_nodes(tmp_path: Path) -> None:
    composition = only(tmp_path, "digraph { {a b} -> subgraph s { c; {d} } -> e }")
    assert composition.links == tuple(
        (source, target) for source, target in ("ac", "ad", "bc", "bd", "ce", "de")
    )


def test_comments_and_joined_texts_are_read(tmp_path: Path) -> None:
    text = """// a { digraph
        /* b */
    STRICT DiGraph{
# c
a->b/* d */;"c"+" d" -> "e\\
f" // g
}"""
    assert only(tmp_path, text).links == (("a", "b"), ("c d", "ef"))


def test_several_graphs_and_compositions_of_a_file_are_read(tmp_path: Path) -> None:
    text = "digraph one {a}\ndigraph { node [composition=two] b; node [composition=3] c; b -> c }"
    dataset = load(tmp_path, text)
    assert [c.id for c in dataset] == ["one", "two", "3"]
    assert dataset.report.notes == {"links between two compositions dropped": 1}


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        ("graph { a -- b }", "undirected", "graph 1: a graph must be directed"),
        ("digraph { }", "no-nodes", "graph 1: a composition needs at least one node"),
        ("digraph { a -> a }", "cycle", "graph 1: link 'a' -> 'a'"),
        ('digraph { "" }', "missing-id", "graph 1: the name of a node must be"),
        ("digraph { a [time=noon] }", "bad-time", "graph 1: node 'a': time must be"),
        ("digraph {\n a -- b }", "not-dot", 'at line 2: expected a name, found "--"'),
        ("digraph { a ->", "not-dot", "expected a name, found the end"),
        ("digraph { a", "not-dot", "expected a name, found the end"),
        ("digraph { a [key=] }", "not-dot", 'expected a name, found "]"'),
        ("digraph { a } b", "not-dot", 'expected graph or digraph, found "b"'),
        ("digraph { a } digraph x y {}", "not-dot", 'expected an opening brace, found "y"'),
        ('digraph { "a" + b }', "not-dot", 'expected a text in quotes, found "b"'),
        ("digraph { a.b }", "not-dot", "expected a name or a mark, found"),
        ('digraph { "a', "not-dot", "expected a name or a mark, found"),
        ("digraph { a [label=<b] }", "not-dot", "a text in HTML must end"),
        ("digraph " + "{" * (MAX_DEPTH + 2), "too-deep", "100 subgraphs inside of each other"),
    ],
)
def test_invalid_file_is_named(text: str, rule: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, text)
    assert error.value.rule == rule
    # The text that is found may have braces, and messages have no others.
    assert "w.dot: " in str(error.value)
    assert message in str(error.value)


def test_links_of_large_subgraphs_are_bounded(tmp_path: Path) -> None:
    ends = ["{" + " ".join(f"{end}{i}" for i in range(1001)) + "}" for end in "ab"]
    with pytest.raises(DataError) as error:
        load(tmp_path, "digraph {" + "->".join(ends) + "}")
    assert error.value.rule == "too-large"
    assert says(error, "a graph may have 1000000 links, found more; split it")


@pytest.mark.parametrize(
    "text",
    [
        "graph TD\n A --> B",
        "graphs { a }",
        "a -> b",
        "digraph",
        "{}",
        "/*" * 10_000 + "digraph {}",
        "/* a */" * 10_000,
        "# a\n" * 10_000,
        'digraph "' + '\\"' * 10_000,
    ],
)
def test_other_text_is_soon_not_recognised(text: str) -> None:
    start = time.process_time()
    assert not FORMAT.recognises(Content(text), ReadOptions())
    assert time.process_time() - start < 1


def dot(composition: Composition) -> str:
    """A composition in DOT. Labels and texts have escapes, other names have not."""

    def quote(text: str | None) -> str:
        return '"' + (text or "").replace('"', '\\"') + '"'

    def label(text: str | None) -> str:
        return quote((text or "").replace("\\", "\\\\").replace("\n", "\\n"))

    lines = [f"digraph {quote(composition.id)} " + "{", f"goal={label(composition.goal)}"]
    for node in composition.nodes:
        lines.append(f"{quote(node.id)} [key={quote(node.key)}, label={label(node.text)}]")
    for link in composition.links:
        for wire in composition.ports.get(link, (Wire(*link),)):
            given = f"output={quote(wire.output)} input={quote(wire.input)}"
            lines.append(f"{quote(wire.source)} -> {quote(wire.target)} [{given}]")
    return "\n".join([*lines, "}"])


@given(written=compositions(outputs=PORTS, inputs=PORTS))
def test_written_graph_is_read_again(written: Composition) -> None:
    content = Content(dot(written))
    assert FORMAT.recognises(content, ReadOptions())
    (document,) = FORMAT.documents(content, Reading())
    assert is_same(compose_draft(document.draft(), "none", "fail")[0], written)
