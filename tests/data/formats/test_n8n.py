"""The reader of n8n exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Node, Wire, compose
from dagrec.data.dataset import Dataset
from dagrec.data.formats import read, read_composition, read_document
from dagrec.errors import DataError
from tests.data.formats.drawn import compositions, is_same


def load(folder: Path, nodes: list[Any], connections: dict[str, Any], **more: Any) -> Dataset:
    file = folder / "workflow.json"
    file.write_text(json.dumps({"nodes": nodes, "connections": connections, **more}))
    return read(file)


def node(name: str, type_: str = "base.set") -> dict[str, str]:
    return {"name": name, "type": type_}


def to(*names: str) -> list[list[dict[str, Any]]]:
    return [[{"node": name, "type": "main", "index": 0}] for name in names]


def test_links_of_all_kinds_and_outputs_are_read(tmp_path: Path) -> None:
    connections = {
        "a": {"main": [*to("b"), [], None, *to("c")]},
        "model": {"ai_languageModel": to("c")},
        "b": {"main": None},
        "c": {},
    }
    nodes = [node("a"), node("b"), node("c", "ai.agent"), node("model", "ai.model")]
    (composition,) = load(tmp_path, nodes, connections).compositions
    assert composition.links == (("a", "b"), ("a", "c"), ("model", "c"))
    assert [n.key for n in composition.nodes] == ["base.set", "base.set", "ai.agent", "ai.model"]
    assert all(n.is_service for n in composition.nodes)


def test_comments_and_their_links_are_dropped_and_counted(tmp_path: Path) -> None:
    nodes = [node("a"), node("note", "n8n-nodes-base.stickyNote"), node("b")]
    dataset = load(tmp_path, nodes, {"a": {"main": to("b", "note")}, "note": {"main": to("b")}})
    (composition,) = dataset.compositions
    assert composition.links == (("a", "b"),)
    assert [n.id for n in composition.nodes] == ["a", "b"]
    assert dict(dataset.report.notes) == {
        "comment nodes dropped": 1,
        "links of comment nodes dropped": 2,
    }


def test_later_node_with_same_name_gets_links(tmp_path: Path) -> None:
    dataset = load(tmp_path, [node("a"), node("b"), node("a", "base.if")], {"a": {"main": to("b")}})
    (composition,) = dataset.compositions
    assert [(n.id, n.key) for n in composition.nodes] == [
        ("a", "base.set"),
        ("b", "base.set"),
        ("a#3", "base.if"),
    ]
    assert composition.links == (("a#3", "b"),)
    assert dict(dataset.report.notes) == {"names used twice": 1}


def test_comment_does_not_get_links_of_node_with_same_name(tmp_path: Path) -> None:
    nodes = [node("a"), node("b"), node("a", "n8n-nodes-base.stickyNote")]
    dataset = load(tmp_path, nodes, {"a": {"main": to("b")}})
    assert dataset.compositions[0].links == (("a", "b"),)
    assert dict(dataset.report.notes) == {"comment nodes dropped": 1}


def test_cycles_are_broken_by_default(tmp_path: Path) -> None:
    dataset = load(tmp_path, [node("a"), node("b")], {"a": {"main": to("b")}, "b": {"main": to("a")}})
    assert dataset.compositions[0].links == (("a", "b"),)
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 1)


def test_time_is_last_update_or_creation(tmp_path: Path) -> None:
    both = {"createdAt": "2020-01-01", "updatedAt": "2021-01-01"}
    updated = load(tmp_path, [node("a")], {}, **both).compositions[0].time
    created = load(tmp_path, [node("a")], {}, **both | {"updatedAt": None}).compositions[0].time
    assert updated is not None
    assert created is not None
    assert updated - created == 366 * 86400


def test_duplicate_links_are_counted(tmp_path: Path) -> None:
    (ends,) = to("b")
    connections = {"a": {"main": [ends * 3, ends]}}
    dataset = load(tmp_path, [node("a"), node("b")], connections)
    assert dataset.compositions[0].links == (("a", "b"),)
    assert [wire.output for wire in dataset.compositions[0].wires] == ["main/0", "main/1"]
    assert dict(dataset.report.notes) == {"links given more than once": 2}


def test_links_to_nodes_that_are_gone_are_dropped_and_counted(tmp_path: Path) -> None:
    connections = {"a": {"main": to("b", "gone")}, "gone": {"main": to("a")}, "lost": {"main": [[]]}}
    dataset = load(tmp_path, [node("a"), node("b")], connections)
    assert dataset.compositions[0].links == (("a", "b"),)
    assert dict(dataset.report.notes) == {"links to nodes that are gone dropped": 2}


@pytest.mark.parametrize(
    ("connections", "id_", "name"),
    [({"id-a": {"main": to("b")}}, "id-a", "a"), ({"a": {"main": to("id-b")}}, "id-b", "b")],
)
def test_links_by_id_are_named_with_the_name_to_use(
    connections: dict[str, Any], id_: str, name: str, tmp_path: Path
) -> None:
    nodes = [node("a") | {"id": "id-a"}, node("b") | {"id": "id-b"}]
    with pytest.raises(DataError) as error:
        load(tmp_path, nodes, connections)
    assert error.value.rule == "link-by-id"
    assert f'must name nodes, found the id "{id_}"; use the name "{name}"' in str(error.value)


def test_ports_are_kind_and_index(tmp_path: Path) -> None:
    connections = {
        "a": {"main": [[], [{"node": "b", "type": "main", "index": 1}]]},
        "tool": {"ai_tool": [[{"node": "b"}, {"node": "a", "type": 5, "index": "x"}]]},
    }
    dataset = load(tmp_path, [node("a"), node("b"), node("tool")], connections)
    assert dataset.compositions[0].wires == (
        Wire("a", "b", "main/1", "main/1"),
        Wire("tool", "b", "ai_tool/0", "ai_tool/0"),
        Wire("tool", "a", "ai_tool/0", "ai_tool/0"),
    )


@pytest.mark.parametrize(
    ("name", "type_", "notes", "text"),
    [
        ("HTTP Request2", "n8n-nodes-base.httpRequest", None, None),
        ("HTTP Request2", "n8n-nodes-base.httpRequest", " asks twice ", "asks twice"),
        ("Ask the shop", "n8n-nodes-base.httpRequest", None, "Ask the shop"),
        ("Ask the shop", "n8n-nodes-base.httpRequest", "daily", "Ask the shop\ndaily"),
        ("Ask the shop", "n8n-nodes-base.httpRequest", True, "Ask the shop"),
        ("Ask", "base.http", ["daily"], "Ask"),
        ("Ask", "base.http", "Ask", "Ask"),
        ("Prüfen", "base.if", "", "Prüfen"),
        ("Ask", "base.http", "x" * 20_000, "Ask\n" + "x" * 9_996),
    ],
)
def test_text_is_chosen_name_and_notes(
    name: str, type_: str, notes: Any, text: str | None, tmp_path: Path
) -> None:
    dataset = load(tmp_path, [node(name, type_) | {"notes": notes}], {})
    assert dataset.compositions[0].nodes[0].text == text


@pytest.mark.parametrize(
    ("parameters", "operation"),
    [
        ({"resource": "message", "operation": "post"}, "message/post"),
        ({"operation": "append", "url": "x"}, "append"),
        ({"resource": {"a": 1}, "operation": 3}, None),
        ({}, None),
        ([], None),
        (None, None),
    ],
)
def test_operation_is_resource_and_operation(
    parameters: Any, operation: str | None, tmp_path: Path
) -> None:
    dataset = load(tmp_path, [node("a") | {"parameters": parameters}], {})
    assert dataset.compositions[0].nodes[0].operation == operation


def test_goal_is_name_and_description(tmp_path: Path) -> None:
    dataset = load(tmp_path, [node("a")], {}, name="Report", description="Every day.")
    assert dataset.compositions[0].goal == "Report\nEvery day."
    assert load(tmp_path, [node("a")], {}, name=7).compositions[0].goal is None


def workflow(id_: str) -> dict[str, Any]:
    connections = {"a": {"main": to("b")}}
    return {"id": id_, "nodes": [node("a"), node("b")], "connections": connections}


def read_value(folder: Path, value: Any) -> Dataset:
    file = folder / "workflows.json"
    file.write_text(json.dumps(value))
    return read(file)


def test_pages_of_the_api_are_read(tmp_path: Path) -> None:
    page = {"data": [workflow("1"), workflow("2")], "nextCursor": None}
    assert [c.id for c in read_value(tmp_path, page)] == ["1", "2"]
    pages = [page, {"data": [workflow("3")], "nextCursor": None}]
    assert [c.id for c in read_value(tmp_path, pages)] == ["1", "2", "3"]
    assert [c.id for c in read_value(tmp_path, {"data": workflow("4")})] == ["4"]
    broken = {"data": [workflow("1"), {"id": "2", "name": "b"}]}
    with pytest.raises(DataError, match="composition 1, data 2: an n8n workflow needs 'nodes'"):
        read_value(tmp_path, broken)


@pytest.mark.parametrize("data", [[], [1], ["a"], [{"nodes": []}], {}, None], ids=str)
def test_other_data_are_not_pages(data: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_value(tmp_path, {"data": data})
    assert error.value.rule == "unknown-format"


def test_workflow_in_object_has_its_fields(tmp_path: Path) -> None:
    inner = workflow("1") | {"name": "inner"}
    (composition,) = read_value(tmp_path, {"workflow": inner, "name": "outer", "id": 5})
    assert (composition.id, composition.goal) == ("1", "inner")
    del inner["id"], inner["name"]
    template = {"workflow": {"id": 5, "name": "Report", "createdAt": "2024-05-01", "workflow": inner}}
    (composition,) = read_value(tmp_path, template)
    assert (composition.id, composition.goal, composition.time) == ("5", "Report", 1714521600)
    assert composition.links == (("a", "b"),)


def test_request_is_read_like_a_file() -> None:
    back = {"b": {"main": to("a")}}
    looped = workflow("1") | {"connections": workflow("1")["connections"] | back}
    parsed = read_document({"workflow": looped})
    assert parsed.composition.links == (("a", "b"),)
    assert parsed.dropped == 1


PORTS = st.sampled_from(["main/0", "main/2", "ai_tool/0"])


@given(compositions(outputs=PORTS, inputs=PORTS))
def test_written_composition_is_read_back(composition: Composition) -> None:
    connections: dict[str, Any] = {}
    for source, target, output, input_ in composition.wires:
        (kind, index), (type_, end) = (str(port).split("/") for port in (output, input_))
        outputs = connections.setdefault(source, {}).setdefault(kind, [])
        outputs += [None] * (int(index) + 1 - len(outputs))
        outputs[int(index)] = outputs[int(index)] or []
        outputs[int(index)].append({"node": target, "type": type_, "index": int(end)})
    nodes = [{"name": n.id, "type": n.key, "notes": n.text} for n in composition.nodes]
    document = {"id": composition.id, "nodes": nodes, "connections": connections}
    named = [
        Node(n.id, n.key, text=n.id if n.text is None else f"{n.id}\n{n.text}")
        for n in composition.nodes
    ]
    expected = compose(composition.id, named, composition.wires, goal=composition.goal)[0]
    assert is_same(read_composition(document | {"description": composition.goal}), expected)
