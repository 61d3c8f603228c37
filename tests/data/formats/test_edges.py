"""The reader of edge lists."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Wire
from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions, read
from dagrec.data.formats.base import Reading, compose_draft
from dagrec.data.formats.content import Content
from dagrec.data.formats.edges import FORMAT
from dagrec.errors import DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same

PORTS = st.sampled_from([None, "main/0", "a,b", 'say "x"'])
NOON = 1_714_564_800.0


def load(folder: Path, text: str, **options: object) -> Dataset:
    file = folder / "edges.csv"
    file.write_text(text)
    return read(file, ReadOptions.model_validate(options))


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::", " "])
@pytest.mark.parametrize("names", [("source", "target"), ("From", "To"), ("SRC", "dst")])
def test_file_without_composition_column_is_one_composition(
    names: tuple[str, str], separator: str, tmp_path: Path
) -> None:
    rows = [names, ("cut", "join"), ("join", "plot")]
    dataset = load(tmp_path, "\n".join(separator.join(row) for row in rows))
    assert dict(dataset.report.formats) == {"edges": 1}
    assert dataset.form == "links"
    (composition,) = dataset
    assert [(n.id, n.key, n.kind) for n in composition.nodes] == [
        (name, name, "service") for name in ("cut", "join", "plot")
    ]
    assert composition.links == (("cut", "join"), ("join", "plot"))
    assert composition.id == "edges-1"


@pytest.mark.parametrize("name", ["composition", "workflow", "Graph", "dag"])
def test_rows_of_composition_can_be_anywhere(name: str, tmp_path: Path) -> None:
    dataset = load(tmp_path, f"target,{name},source\nb,x,a\nb,y,a\nc,x,b\n")
    assert [(c.id, c.links) for c in dataset] == [
        ("x", (("a", "b"), ("b", "c"))),
        ("y", (("a", "b"),)),
    ]


def test_further_columns_are_read(tmp_path: Path) -> None:
    text = (
        "source,target,source_key,target_key,source_kind,target_kind,output,input,user,timestamp,weight\n"
        "1,2,input,cut,data,,out,in,ann,2024-05-01,5\n"
        "2,3,,join,,service,,,ann,2024-05-01T12:00:00,\n"
    )
    (composition,) = load(tmp_path, text)
    assert [(n.id, n.key, n.kind) for n in composition.nodes] == [
        ("1", "input", "data"),
        ("2", "cut", "service"),
        ("3", "join", "service"),
    ]
    assert composition.wires == (Wire("1", "2", "out", "in"),)
    assert (composition.owner, composition.time) == ("ann", NOON)


def test_owners_of_composition_that_differ_are_no_owner(tmp_path: Path) -> None:
    assert load(tmp_path, "source,target,owner\na,b,ann\nb,c,bob\n")[0].owner is None


def test_row_with_one_name_is_node_without_link(tmp_path: Path) -> None:
    (composition,) = load(tmp_path, "source,target\na,\n,b\nb,c\n")
    assert [n.id for n in composition.nodes] == ["a", "b", "c"]
    assert composition.links == (("b", "c"),)


def test_columns_can_be_named(tmp_path: Path) -> None:
    text = "caller,callee,release,who,when,source,target\na,b,1,ann,5,x,y\na,c,2,ann,6,x,y\n"
    options = {
        "source_column": "caller",
        "target_column": "callee",
        "composition_column": "release",
        "owner_column": "who",
        "time_column": "when",
    }
    dataset = load(tmp_path, text, **options)
    assert [(c.id, c.links, c.owner, c.time) for c in dataset] == [
        ("1", (("a", "b"),), "ann", 5.0),
        ("2", (("a", "c"),), "ann", 6.0),
    ]
    (composition,) = load(tmp_path, "caller,to\na,b\n", source_column="caller")
    assert composition.links == (("a", "b"),)


def test_columns_without_header_have_numbers(tmp_path: Path) -> None:
    options = {"source_column": "2", "target_column": "3", "composition_column": "1"}
    dataset = load(tmp_path, "x,a,b\nx,b,c\n", **options)
    assert dataset[0].links == (("a", "b"), ("b", "c"))


def test_call_log_with_source_and_target_is_a_call_log(tmp_path: Path) -> None:
    text = "owner,service,time,source,target\nann,cut,5,a,b\nann,join,6,b,c\n"
    assert dict(load(tmp_path, text).report.formats) == {"calls": 1}
    assert dict(load(tmp_path, text, source_column="source").report.formats) == {"edges": 1}
    text = "source,target,kind\na,b,c\n"
    dataset = load(tmp_path, text, service_column="target", owner_column="source")
    assert dict(dataset.report.formats) == {"calls": 1}


def test_links_given_twice_are_counted(tmp_path: Path) -> None:
    dataset = load(tmp_path, "source,target\na,b\na,b\n")
    assert dataset.report.notes == {"links given more than once": 1}


@pytest.mark.parametrize(
    ("rows", "rule", "message"),
    [
        ("x,,,,,", "missing-id", "composition x: line 2: a row needs a source or a target"),
        (",a,b,,,", "bad-row", "line 2: a row needs the name of its composition, found none"),
        ("x,a", "bad-row", "line 2: a row needs 6 columns, found 2"),
        ("x,a,b,noon,,", "bad-time", "composition x: line 2: time must be"),
        (
            "x,a,b,,cut,service\nx,a,c,,join,",
            "two-keys",
            "composition x: line 3: node 'a': must have one key in a composition, found 'join'",
        ),
        (
            "x,a,b,,,service\nx,a,c,,,data",
            "two-kinds",
            "composition x: line 3: node 'a': must have one kind",
        ),
        (
            f"x,{'a' * 1001},b,,,",
            "long-key",
            "composition x: line 2: the name of a node may have 1000 characters",
        ),
        ("x,a,b,,,\nx,b,a,,,", "cycle", "composition x: link 'b' -> 'a': closes a cycle"),
    ],
)
def test_invalid_row_is_named_or_its_composition_skipped(
    rows: str, rule: str, message: str, tmp_path: Path
) -> None:
    text = f"composition,source,target,time,source_key,source_kind\n{rows}\nz,a,b,,,\n"
    with pytest.raises(DataError) as error:
        load(tmp_path, text)
    assert error.value.rule == rule
    assert says(error, f"edges.csv: {message}")
    dataset = load(tmp_path, text, on_error="skip")
    assert [c.id for c in dataset] == ["z"]
    assert dict(dataset.report.skipped) == {rule: 1}


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, ("for the source (one of source, from, src)", "the columns a, to", "--source-column")),
        ({"source_column": "b"}, ("for the source (b)", "--source-column")),
        ({"source_column": "a", "target_column": "too"}, ("for the target (too)", "did you mean to?")),
        (
            {"source_column": "a", "composition_column": "c"},
            ("composition (c)", "--composition-column"),
        ),
    ],
)
def test_missing_column_is_named(
    options: dict[str, str], parts: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, "a,to\nx,y\n", format="edges", **options)
    assert error.value.rule == "missing-field"
    assert says(error, "edges.csv: a table needs a column", *parts)


def test_edge_list_of_data_only_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, "source,target,source_kind,target_kind\na,b,table,data\n")
    assert says(error, "at least one node must be a service", "nodes of kind data, table")


@pytest.mark.parametrize(
    "text", ["source\ttarget_id\n", "source,to\na,b\n", "{}", "[]", "from\n", "source target_"]
)
def test_other_text_is_not_recognised(text: str) -> None:
    assert not FORMAT.recognises(Content(text), ReadOptions())


@given(written=compositions(outputs=PORTS, inputs=PORTS))
def test_written_edges_are_read_again(written: Composition) -> None:
    keys = {n.id: n.key for n in written.nodes}
    names = ("composition", "source", "target", "source_key", "target_key", "output", "input")
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(names)
    # First the nodes, in their order, then the links.
    table.writerows([written.id, id_, "", key, "", "", ""] for id_, key in keys.items())
    for link in written.links:
        for wire in written.ports.get(link, (Wire(*link),)):
            table.writerow([written.id, *link, "", keys[wire.target], wire.output, wire.input])
    (document,) = FORMAT.documents(Content(file.getvalue()), Reading())
    read_again, _ = compose_draft(document.draft(), "none", "fail")
    # An edge list has neither goals nor texts.
    nodes = tuple(replace(node, text=None) for node in written.nodes)
    assert is_same(read_again, replace(written, nodes=nodes, goal=None))
