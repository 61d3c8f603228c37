"""The composition of the samples in the formats of visual editors, and more of their documents."""

from __future__ import annotations

from typing import Any

Json = Any


def node_red(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    about = {"z": id_, "x": 100, "y": 40, "name": "", "info": ""}
    first, cut, join = (
        {"wires": [[number(2)], [number(3)]]},
        {"wires": [[number(3)]]},
        {"wires": [[number(2)] * back]},
    )
    return {
        "rev": "abc",
        "flows": [
            {"id": id_, "type": "tab", "label": "Join", "disabled": False, "info": ""},
            {"id": number(1), "type": "inject", **about, **first},
            {"id": number(2), "type": "cut", **about, **cut},
            {"id": number(3), "type": None if broken else "join", **about, **join},
            {"id": "c", "type": "broker", "name": "local"},
        ],
    }


def comfyui(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    def node(id_: int, type_: str, *sockets: str) -> Json:
        inputs = [{"name": name, "type": "IMAGE", "link": 1} for name in sockets]
        outputs = [{"name": "IMAGE", "type": "IMAGE", "links": [1], "slot_index": 0}]
        return {"id": number(id_), "type": type_, "mode": 0, "inputs": inputs, "outputs": outputs}

    ends = [(1, 2, 0), (2, 3, 0), (1, 3, 1)] + [(3, 2, 1)] * back
    links = [[i, number(a), 0, number(b), slot, "IMAGE"] for i, (a, b, slot) in enumerate(ends, 1)]
    return {
        "id": id_,
        "last_node_id": 3,
        "last_link_id": len(links),
        "nodes": [node(1, "input"), node(2, "cut", "a", "b"), node(3, "join", "a", "b")],
        "links": links + [[9, 1]] * broken,
        "extra": {"ds": {"scale": 1}, "info": {"name": "Join"}},
        "version": 0.4,
    }


def react_flow(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    def node(id_: int, type_: str) -> Json:
        return {"id": number(id_), "type": "custom", "data": {"type": type_, "title": f"My {type_}"}}

    links = [(1, 2), (2, 3), (1, 3)] + [(3, 2)] * back
    edges = [{"source": number(a), "target": number(b), "sourceHandle": "out"} for a, b in links]
    return {
        "id": id_,
        "name": "Join",
        "user_id": "ann",
        "updated_at": "2024-05-01T12:00:00",
        "nodes": [node(1, "input"), node(2, "cut"), node(3, "join")],
        "edges": edges + [{"source": "1"}] * broken,
        "viewport": {"x": 0, "y": 0, "zoom": 1},
    }


def step_functions(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    return {
        "name": id_,
        "definition": {
            "Comment": "Join",
            "StartAt": number(1),
            "States": {
                "1": {"Type": "Choice", "Choices": [{"Next": number(2)}], "Default": number(3)},
                "2": {"Type": "Task", "Resource": "cut", "Next": number(3), "Comment": "first"},
                "3": {
                    "Type": "Task",
                    "Resource": "join",
                    "Catch": [{"ErrorEquals": ["States.ALL"], "Next": number(2)}] * back,
                    "Next": number(9) if broken else None,
                },
            },
        },
    }


NODE_RED_LINKS = [
    {"id": "t", "type": "tab", "label": "Two"},
    {"id": "s", "type": "subflow", "name": "Twice", "in": [], "out": []},
    {"id": "a", "type": "subflow:s", "z": "t", "wires": [["j"], None]},
    {"id": "j", "type": "junction", "z": "t", "wires": [["o"]]},
    {"id": "o", "type": "link out", "z": "t", "links": ["i"], "wires": []},
    {"id": "i", "type": "link in", "z": "t", "links": ["o"], "wires": [["b"]]},
    {"id": "b", "type": "debug", "z": "t", "name": "Show", "wires": []},
]
SUBGRAPH = {
    "id": "w",
    "nodes": [
        {"id": 1, "type": "load", "outputs": [{"name": "x", "type": "X"}]},
        {"id": 2, "type": "inner", "inputs": [{"name": "x", "type": "X"}]},
        {"id": 3, "type": "save", "inputs": [{"name": "y", "type": "Y"}]},
        {"id": 4, "type": "SetNode", "widgets_values": ["v"]},
        {"id": 5, "type": "GetNode", "widgets_values": ["v"]},
    ],
    "links": [[1, 1, 0, 2, 0, "X"], [2, 2, 0, 4, 0, "Y"], [3, 5, 0, 3, 0, "Y"], None],
    "definitions": {
        "subgraphs": [
            {
                "id": "inner",
                "name": "Work",
                "nodes": [{"id": 1, "type": "work"}, {"id": 2, "type": "Reroute"}],
                "links": [
                    {"id": 1, "origin_id": -10, "origin_slot": 0, "target_id": 2, "target_slot": 0},
                    {"id": 2, "origin_id": 2, "origin_slot": 0, "target_id": 1, "target_slot": 0},
                    {"id": 3, "origin_id": 1, "origin_slot": 0, "target_id": -20, "target_slot": 0},
                ],
            }
        ]
    },
}
PROMPT = {
    "prompt": {
        "1": {"class_type": "load", "inputs": {"file": "a.png", "size": [512, 512]}},
        "2": {"class_type": "save", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Save it"}},
    },
    "prompt_id": "p",
}
FLOWISE_NODES = [
    {
        "id": f"{name}_0",
        "type": "customNode",
        "data": {"name": name, "label": name.title(), "outputAnchors": []},
    }
    for name in ("model", "chain")
]
FLOWISE_EDGE = {
    "source": "model_0",
    "sourceHandle": "model_0-output-model-Model|Base",
    "target": "chain_0",
    "targetHandle": "chain_0-input-llm-Base",
}
FLOWISE = {"nodes": FLOWISE_NODES, "edges": [FLOWISE_EDGE]}
DIFY = {
    "kind": "app",
    "app": {"name": "Sum", "description": "Adds up", "mode": "workflow"},
    "workflow": {
        "graph": {
            "nodes": [
                {"id": "1", "type": "custom", "data": {"type": "start", "title": "Start"}},
                {"id": "2", "type": "custom", "data": {"type": "iteration", "title": "Each"}},
                {
                    "id": "2start",
                    "type": "custom-iteration-start",
                    "parentId": "2",
                    "data": {"type": "iteration-start"},
                },
                {
                    "id": "3",
                    "type": "custom",
                    "parentId": "2",
                    "data": {"type": "tool", "provider_name": "math", "tool_name": "add"},
                },
                {"id": "4", "type": "custom-note", "data": {"type": "", "text": "hello"}},
            ],
            "edges": [
                {"source": "1", "sourceHandle": "source", "target": "2", "targetHandle": "target"},
                {"source": "2start", "sourceHandle": "source", "target": "3"},
            ],
        }
    },
}
PARALLEL = {
    "Comment": "Two at once",
    "StartAt": "Both",
    "States": {
        "Both": {
            "Type": "Parallel",
            "Branches": [
                {"StartAt": "A", "States": {"A": {"Type": "Pass", "End": True}}},
                {"StartAt": "B", "States": {"B": {"Type": "Succeed"}}},
            ],
            "Next": "Each",
        },
        "Each": {
            "Type": "Map",
            "ItemProcessor": {
                "StartAt": "A",
                "States": {"A": {"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage.sync"}},
            },
            "End": True,
        },
    },
}
DOCUMENTS = {
    "node-red-links": {"flows": NODE_RED_LINKS},
    "node-red-single": {"id": "t", "label": "One", "nodes": NODE_RED_LINKS[2:], "configs": []},
    "comfyui-subgraph": SUBGRAPH,
    "comfyui-prompt": PROMPT,
    "react-flow-flowise": FLOWISE,
    "react-flow-dify": DIFY,
    "step-functions-parallel": PARALLEL,
}
