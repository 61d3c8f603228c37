"""The reader of n8n exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dagrec.data.dataset import Dataset
from dagrec.data.formats import read


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
