"""The reader of Node-RED flows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition
from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions, read, read_composition
from dagrec.errors import DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same

Json = Any
TAB = {"id": "t", "type": "tab", "label": "Heating", "disabled": False, "info": "Keeps it warm"}


def node(id_: str, type_: str, *wires: Json, z: str = "t", **more: Json) -> dict[str, Json]:
    return {"id": id_, "type": type_, "z": z, "x": 10, "y": 20, "wires": list(wires)} | more


def load(folder: Path, *items: Json, options: ReadOptions | None = None) -> Dataset:
    file = folder / "flows.json"
    file.write_text(json.dumps(items))
    return read(file, options)


def only(dataset: Dataset) -> Composition:
    (composition,) = dataset.compositions
    return composition


def test_tab_is_a_composition_with_its_label_and_description_as_goal(tmp_path: Path) -> None:
    other = {"id": "u", "type": "tab", "label": "Lights"}
    dataset = load(
        tmp_path, TAB, other, node("a", "inject", ["b"]), node("b", "debug"), node("c", "mqtt", z="u")
    )
    first, second = dataset.compositions
    assert (first.id, first.goal) == ("t", "Heating\nKeeps it warm")
    assert [n.key for n in first.nodes] == ["inject", "debug"]
    assert first.links == (("a", "b"),)
    assert (second.id, second.goal, second.links) == ("u", "Lights", ())
    assert dict(dataset.report.formats) == {"node-red": 1}


def test_output_of_a_link_is_the_index_of_its_wires(tmp_path: Path) -> None:
    switch = node("s", "switch", ["a"], None, [], ["b", None])
    composition = only(load(tmp_path, TAB, switch, node("a", "debug"), node("b", "debug")))
    assert [(w.target, w.output, w.input) for w in composition.wires] == [
        ("a", "0", None),
        ("b", "3", None),
    ]


def test_text_of_a_node_is_its_name_and_description(tmp_path: Path) -> None:
    named = node("a", "function", name="Add one", info="Counts up")
    composition = only(load(tmp_path, TAB, named, node("b", "debug", name="debug 1", info=3)))
    assert [n.text for n in composition.nodes] == ["Add one\nCounts up", None]


def test_configuration_nodes_comments_and_groups_are_dropped_and_counted(tmp_path: Path) -> None:
    dataset = load(
        tmp_path,
        TAB,
        {"id": "m", "type": "mqtt-broker", "name": "local", "port": "1883"},
        {"id": "n", "type": "ui_group", "z": "t", "name": "in a tab"},
        node("c", "comment", name="Read me"),
        {"id": "g", "type": "group", "z": "t", "nodes": ["a"], "x": 0, "y": 0, "w": 9, "h": 9},
        node("a", "mqtt in"),
    )
    assert [n.id for n in only(dataset).nodes] == ["a"]
    assert dict(dataset.report.notes) == {
        "configuration nodes dropped": 2,
        "comment nodes dropped": 1,
        "groups dropped": 1,
    }


def test_nodes_without_position_or_wires_in_a_tab_are_nodes(tmp_path: Path) -> None:
    without_position = {"id": "a", "type": "inject", "z": "t", "wires": [["b"]]}
    without_wires = {"id": "b", "type": "debug", "z": "t", "x": 1, "y": 2}
    assert only(load(tmp_path, TAB, without_position, without_wires)).links == (("a", "b"),)


def test_selection_without_its_tab_is_a_composition(tmp_path: Path) -> None:
    dataset = load(tmp_path, node("a", "inject", ["b"], z="gone"), node("b", "debug", z="gone"))
    assert (only(dataset).id, only(dataset).goal, only(dataset).links) == ("gone", None, (("a", "b"),))


def test_nodes_of_old_exports_without_z_are_a_composition(tmp_path: Path) -> None:
    items = [node("a", "inject", ["b"], z=""), node("b", "debug", z="")]
    assert only(load(tmp_path, *items)).links == (("a", "b"),)


def test_subflow_is_a_composition_and_its_instances_have_its_name(tmp_path: Path) -> None:
    definition = {"id": "s", "type": "subflow", "name": "Dim", "info": "slowly", "in": [], "out": []}
    dataset = load(
        tmp_path,
        definition,
        TAB,
        node("x", "delay", ["y"], z="s"),
        node("y", "change", z="s"),
        node("a", "subflow:s", ["b"]),
        node("b", "subflow:elsewhere"),
    )
    inner, outer = dataset.compositions
    assert (inner.id, inner.goal, inner.links) == ("s", "Dim\nslowly", (("x", "y"),))
    assert [n.key for n in outer.nodes] == ["subflow:Dim", "subflow:elsewhere"]


def test_junctions_are_replaced_by_the_links_through_them(tmp_path: Path) -> None:
    dataset = load(
        tmp_path,
        TAB,
        node("a", "inject", [], ["j"]),
        node("j", "junction", ["k"]),
        node("k", "junction", ["b", "c"]),
        node("b", "debug"),
        node("c", "debug"),
    )
    assert [w[:3] for w in only(dataset).wires] == [("a", "b", "1"), ("a", "c", "1")]
    assert [n.id for n in only(dataset).nodes] == ["a", "b", "c"]
    assert dict(dataset.report.notes) == {"junctions replaced by links": 2}


def test_link_nodes_are_linked_by_name_in_their_tab(tmp_path: Path) -> None:
    dataset = load(
        tmp_path,
        TAB,
        {"id": "u", "type": "tab", "label": "Other"},
        node("o", "link out", links=["i", "far", "gone"]),
        node("i", "link in", ["d"], links=["o", "call"]),
        node("call", "link call", ["d"], links=["i"]),
        node("d", "debug"),
        node("far", "link in", z="u", links=["o"]),
    )
    first = dataset.compositions[0]
    assert set(first.links) == {("o", "i"), ("call", "i"), ("i", "d"), ("call", "d")}
    assert dict(dataset.report.notes) == {
        "links to nodes in other tabs dropped": 1,
        "links to nodes that are gone dropped": 1,
    }


def test_wires_to_nodes_that_are_gone_and_to_comments_are_dropped(tmp_path: Path) -> None:
    dataset = load(
        tmp_path, TAB, node("a", "inject", ["gone", "c", "b"]), node("c", "comment"), node("b", "x")
    )
    assert only(dataset).links == (("a", "b"),)
    assert dict(dataset.report.notes) == {
        "comment nodes dropped": 1,
        "links of comment nodes dropped": 1,
        "links to nodes that are gone dropped": 1,
    }


def test_disabled_and_empty_tabs_are_counted(tmp_path: Path) -> None:
    disabled = TAB | {"disabled": True}
    empty = {"id": "e", "type": "tab", "label": "Empty"}
    dataset = load(tmp_path, disabled, empty, node("a", "inject", d=True))
    assert len(dataset.compositions) == 1
    assert dict(dataset.report.notes) == {
        "disabled tabs": 1,
        "disabled nodes": 1,
        "empty tabs dropped": 1,
    }


def test_cycles_are_broken_by_default(tmp_path: Path) -> None:
    dataset = load(tmp_path, TAB, node("a", "delay", ["b"]), node("b", "switch", ["a"]))
    assert only(dataset).links == (("a", "b"),)
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 1)


def test_answers_of_the_admin_api_are_read(tmp_path: Path) -> None:
    nodes = [node("a", "inject", ["b"]), node("b", "debug")]
    file = tmp_path / "flows.json"
    file.write_text(json.dumps({"rev": "1", "flows": [TAB, *nodes]}))
    all_flows = only(read(file))
    single = {"id": "t", "label": "Heating", "info": "Keeps it warm", "nodes": nodes, "configs": []}
    for text in (json.dumps(single), json.dumps([single])):
        file.write_text(text)
        assert only(read(file)) == all_flows


def test_invalid_node_costs_only_its_tab(tmp_path: Path) -> None:
    other = {"id": "u", "type": "tab", "label": "Other"}
    items = [TAB, other, node("a", "inject", 3), node("b", "debug", z="u"), 7]  # type: ignore[arg-type]
    with pytest.raises(DataError) as error:
        load(tmp_path, *items)
    assert says(error, "node 5 must be an object, found 7")
    dataset = load(tmp_path, *items, options=ReadOptions(on_error="skip"))
    assert only(dataset).id == "u"
    assert dict(dataset.report.skipped) == {"wrong-type": 2}
    assert any("tab 1: node 3: wires must be an array, found 3" in p for p in dataset.report.problems)


@pytest.mark.parametrize(
    "value",
    [
        [{"id": "a", "type": "person", "wires": 3}],
        [{"id": "a", "type": "tab"}],
        {"flows": [{"id": "a", "type": "x"}]},
        {"flows": []},
        [{"name": "a", "wires": []}],
    ],
)
def test_other_json_is_not_recognised(value: Json, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(json.dumps(value))
    with pytest.raises(DataError) as error:
        read(file)
    assert error.value.rule == "unknown-format"


def as_flow(composition: Composition) -> list[Json]:
    """Write a composition as Node-RED does."""
    items: list[Json] = [{"id": composition.id, "type": "tab", "label": composition.goal or ""}]
    for n in composition.nodes:
        wires: list[list[str]] = [[] for _ in range(4)]
        for wire in composition.wires:
            if wire.source == n.id:
                wires[int(wire.output or 0)].append(wire.target)
        items.append(node(n.id, n.key, *wires, z=composition.id, name=n.text or ""))
    return items


@given(compositions(outputs=st.sampled_from("0123"), inputs=st.none()))
def test_written_composition_is_read_back(composition: Composition) -> None:
    assert is_same(read_composition(as_flow(composition)), composition)
