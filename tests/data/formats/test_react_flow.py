"""The reader of nodes and edges of React Flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Wire
from dagrec.data.dataset import Dataset
from dagrec.data.formats import read, read_composition
from dagrec.errors import DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same

Json = Any


def node(id_: str, type_: str | None = None, **data: Json) -> dict[str, Json]:
    return {"id": id_, "type": type_, "position": {"x": 0, "y": 0}, "data": data}


def edge(source: str, target: str, output: Json = None, input_: Json = None) -> dict[str, Json]:
    ends = {"id": f"{source}-{target}", "source": source, "target": target}
    return ends | {"sourceHandle": output, "targetHandle": input_}


def load(folder: Path, document: Json, name: str = "flow.json") -> Dataset:
    file = folder / name
    as_yaml = yaml.safe_dump(document, allow_unicode=True)
    file.write_text(json.dumps(document) if name.endswith("json") else as_yaml)
    return read(file)


def only(dataset: Dataset) -> Composition:
    (composition,) = dataset.compositions
    return composition


def keys(dataset: Dataset) -> list[str]:
    return [n.key for n in only(dataset).nodes]


# React Flow itself


def test_nodes_and_edges_of_any_editor_are_read(tmp_path: Path) -> None:
    document = {
        "nodes": [node("1", "input", label="Ask"), node("2", "custom", type="mail", label="Send it")],
        "edges": [edge("1", "2", "out", None)],
        "viewport": {"x": 0, "y": 0, "zoom": 1},
        "name": "Mailer",
        "description": "Sends mail",
    }
    dataset = load(tmp_path, document)
    assert dict(dataset.report.formats) == {"react-flow": 1}
    assert only(dataset).goal == "Mailer\nSends mail"
    assert only(dataset).wires == (Wire("1", "2", "out", None),)
    assert [(n.key, n.text) for n in only(dataset).nodes] == [("input", "Ask"), ("mail", "Send it")]


def test_key_is_the_most_specific_type(tmp_path: Path) -> None:
    nodes = [
        node("a", "custom", type="llm", name="x"),
        node("b", "llmNode", name="My model"),
        node("c", "custom", nodeType="http"),
        node("d", "custom", name="parser"),
        node("e", "custom", label="?"),
        node("f"),
        node("g", "default", type="", kind="db"),
    ]
    assert keys(load(tmp_path, {"nodes": nodes, "edges": []})) == [
        *("llm", "llmNode", "http", "parser", "custom", "default", "db")
    ]


def test_notes_and_groups_are_dropped_with_their_edges(tmp_path: Path) -> None:
    nodes = [
        node("a", "x"),
        node("n", "noteNode"),
        node("g", "group"),
        node("s", "custom", type="stickyNote"),
    ]
    document = {"nodes": nodes, "edges": [edge("a", "n"), edge("a", "gone")]}
    dataset = load(tmp_path, document)
    assert keys(dataset) == ["x"]
    assert dict(dataset.report.notes) == {
        "comment nodes dropped": 3,
        "links of comment nodes dropped": 1,
        "links to nodes that are gone dropped": 1,
    }


def test_cycles_are_broken_by_default(tmp_path: Path) -> None:
    document = {"nodes": [node("a", "x"), node("b", "y")], "edges": [edge("a", "b"), edge("b", "a")]}
    dataset = load(tmp_path, document)
    assert only(dataset).links == (("a", "b"),)
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 1)


# Langflow


def component(id_: str, type_: str, display_name: str) -> dict[str, Json]:
    return node(id_, "genericNode", type=type_, id=id_, node={"display_name": display_name})


def handle(**fields: Json) -> str:
    return json.dumps(fields, ensure_ascii=False).replace('"', "œ")


OUTPUT = handle(dataType="ChatInput", id="ChatInput-a1", name="message", output_types=["Message"])
INPUT = handle(fieldName="input_value", id="Agent-b2", inputTypes=["Message"], type="str")
LANGFLOW = {
    "id": "f1",
    "name": "Helper",
    "description": "Answers",
    "user_id": "ann",
    "updated_at": "2025-01-01T00:00:00+00:00",
    "data": {
        "nodes": [
            component("ChatInput-a1", "ChatInput", "Chat Input"),
            component("Agent-b2", "Agent", "Help desk"),
            node("note-c3", "noteNode", type="note", node={"description": "Read me"}),
        ],
        "edges": [edge("ChatInput-a1", "Agent-b2", OUTPUT, INPUT)],
        "viewport": {},
    },
}


def test_flow_of_langflow_is_read(tmp_path: Path) -> None:
    dataset = load(tmp_path, LANGFLOW)
    composition = only(dataset)
    assert (composition.id, composition.owner) == ("f1", "ann")
    assert (composition.goal, composition.time) == ("Helper\nAnswers", 1735689600.0)
    assert [(n.key, n.text) for n in composition.nodes] == [("ChatInput", None), ("Agent", "Help desk")]
    assert composition.wires == (Wire("ChatInput-a1", "Agent-b2", "message", "input_value"),)


def test_export_of_many_flows_has_many_compositions(tmp_path: Path) -> None:
    dataset = load(tmp_path, {"folder_name": "Mine", "flows": [LANGFLOW, LANGFLOW | {"id": "f2"}]})
    assert [c.id for c in dataset.compositions] == ["f1", "f2"]
    assert dict(dataset.report.formats) == {"react-flow": 1}


def test_handles_of_old_langflow_are_read(tmp_path: Path) -> None:
    nodes = [component("LLM-a", "LLM", "LLM"), component("Chain-b", "Chain", "Chain")]
    edges = [edge("LLM-a", "Chain-b", "LLM|LLM-a|BaseModel|Runnable", "BaseModel|llm|Chain-b")]
    composition = only(load(tmp_path, {"data": {"nodes": nodes, "edges": edges}}))
    assert composition.wires == (Wire("LLM-a", "Chain-b", "BaseModel", "llm"),)


@pytest.mark.parametrize("text", ["{œname", "{œnameœ: [1]}", "{", "{}"])
def test_odd_handles_cost_no_composition(text: str, tmp_path: Path) -> None:
    document = {"nodes": [node("a", "x"), node("b", "y")], "edges": [edge("a", "b", text, 3)]}
    assert only(load(tmp_path, document)).wires[0].input == "3"


# Flowise


def anchor(name: str, label: str) -> dict[str, Json]:
    return node(f"{name}_0", "customNode", name=name, type=name.title(), label=label, inputAnchors=[])


FLOWISE = {
    "description": "Chats",
    "nodes": [
        anchor("chatOpenAI", "ChatOpenAI"),
        anchor("llmChain", "Summarise"),
        node("note_0", "stickyNote", name="stickyNote", inputAnchors=[]),
        anchor("agentflow", "Agentflow"),
    ],
    "edges": [
        edge(
            "chatOpenAI_0",
            "llmChain_0",
            "chatOpenAI_0-output-chatOpenAI-ChatOpenAI|BaseChatModel",
            "llmChain_0-input-model-BaseLanguageModel",
        ),
        edge("llmChain_0", "agentflow_0", "llmChain_0-output-1", "agentflow_0"),
    ],
}


def test_flow_of_flowise_is_read(tmp_path: Path) -> None:
    composition = only(load(tmp_path, FLOWISE))
    assert [(n.key, n.text) for n in composition.nodes] == [
        ("chatOpenAI", None),
        ("llmChain", "Summarise"),
        ("agentflow", None),
    ]
    assert composition.wires == (
        Wire("chatOpenAI_0", "llmChain_0", "chatOpenAI", "model"),
        Wire("llmChain_0", "agentflow_0", "1", None),
    )


def test_flow_of_the_api_of_flowise_is_read(tmp_path: Path) -> None:
    answer = {"id": "f", "name": "Chat", "flowData": json.dumps(FLOWISE), "updatedDate": "2025-01-01"}
    for document in (answer, [answer], {"ChatFlow": [], "AgentFlow": [answer]}):
        composition = only(load(tmp_path, document))
        assert (composition.id, composition.goal, len(composition.links)) == ("f", "Chat", 2)


def test_flow_data_that_is_no_json_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, {"flowData": "{nodes"})
    assert error.value.rule == "not-json"


# Dify


def block(id_: str, type_: str, title: str, **more: Json) -> dict[str, Json]:
    return {"id": id_, "type": "custom", "data": {"type": type_, "title": title, "desc": "", **more}}


DIFY = {
    "kind": "app",
    "version": "0.3.0",
    "app": {"name": "Triage", "description": "Sorts messages", "mode": "workflow"},
    "workflow": {
        "graph": {
            "nodes": [
                block("1711", "start", "Start"),
                block("1712", "if-else", "Is it urgent?"),
                block("1713", "tool", "Look up", provider_name="wiki", tool_name="search"),
                block("1714", "iteration", "For each", desc="one by one"),
                {"id": "1714start", "parentId": "1714", "data": {"type": "iteration-start"}},
                block("1715", "llm", "LLM") | {"parentId": "1714"},
                {"id": "1716", "type": "custom-note", "data": {"type": "", "text": "todo"}},
            ],
            "edges": [
                edge("1711", "1712", "source", "target"),
                edge("1712", "1713", "true", "target"),
                edge("1712", "1714", "false", "target"),
                edge("1714start", "1715", "source", "target"),
            ],
        }
    },
}


@pytest.mark.parametrize("name", ["app.yml", "app.yaml", "app.json"])
def test_app_of_dify_is_read(name: str, tmp_path: Path) -> None:
    composition = only(load(tmp_path, DIFY, name))
    assert composition.goal == "Triage\nSorts messages"
    assert [(n.key, n.text) for n in composition.nodes] == [
        ("start", None),
        ("if-else", "Is it urgent?"),
        ("wiki/search", "Look up"),
        ("iteration", "For each\none by one"),
        ("llm", None),
    ]
    assert set(composition.wires) == {
        Wire("1711", "1712", "source", "target"),
        Wire("1712", "1713", "true", "target"),
        Wire("1712", "1714", "false", "target"),
        Wire("1714", "1715", "iteration-start", "target"),
    }


# What is refused


@pytest.mark.parametrize(
    "value",
    [
        {"nodes": [{"id": "a"}], "edges": [{"source": "a", "target": "a"}]},
        {"nodes": [{"id": "a", "data": {}}], "edges": [{"from": "a", "to": "a"}]},
        {"app": {"mode": "chat"}, "model_config": {}},
        {"flows": [{"id": "a"}]},
    ],
)
def test_other_json_is_not_recognised(value: Json, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, value)
    assert error.value.rule == "unknown-format"


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ([3, node("a", "x")], [], "node 1 must be an object, found 3"),
        ([node("", "x")], [], 'node 1: id must be a non-empty string or an integer, found ""'),
        ([node("a", "x", type=[3])], [], "node 1 (a): type must be a non-empty string or an integer"),
        ([node("a", "x")], [edge("a", "a"), 3], "edge 2 must be an object, found 3"),
        ([node("a", "x")], [edge("a", "a"), {"source": "a"}], "edge 2: target must be a non-empty"),
    ],
)
def test_invalid_value_is_named(nodes: Json, edges: Json, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, {"nodes": nodes, "edges": edges})
    assert says(error, f"composition 1: {message}")


# Round trips

PORTS = st.none() | st.sampled_from(["source", "true", "out 1", "é"])


@given(compositions(outputs=PORTS, inputs=PORTS))
def test_written_composition_is_read_back(composition: Composition) -> None:
    document = {
        "id": composition.id,
        "name": composition.goal,
        "nodes": [node(n.id, "custom", type=n.key, title=n.text) for n in composition.nodes],
        "edges": [edge(*wire) for wire in _wires(composition)],
    }
    assert is_same(read_composition(document), composition)


@given(compositions(outputs=PORTS, inputs=PORTS))
def test_composition_written_as_langflow_is_read_back(composition: Composition) -> None:
    edges = [
        edge(w.source, w.target, handle(id=w.source, name=w.output), handle(fieldName=w.input))
        for w in _wires(composition)
    ]
    nodes = [component(n.id, n.key, n.text or "") for n in composition.nodes]
    document = {
        "id": composition.id,
        "description": composition.goal,
        "data": {"nodes": nodes, "edges": edges},
    }
    assert is_same(read_composition(document), composition)


def _wires(composition: Composition) -> list[Wire]:
    """The links with and without ports."""
    ports = composition.ports
    return [wire for link in composition.links for wire in ports.get(link, (Wire(*link),))]
