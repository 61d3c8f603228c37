"""Graphs of React Flow: ``nodes[].id/type/data`` and ``edges[].source/target`` with handles.

Many editors save them: Langflow (under ``data``), Flowise, Dify (under ``workflow.graph``, as YAML or
JSON), and others. The key of a node is the most specific name of its type: ``data.name`` in Flowise,
``data.type`` in Langflow and Dify (the provider and name for tools of Dify), else ``data.type`` or
``type``. The ports are the names in the handles, without the ids of nodes. Notes and groups are
dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import (
    Json,
    join_texts,
    optional_id,
    parse_json,
    require_id,
    require_list,
    require_object,
)
from dagrec.data.formats.editors import join_links, known_links, name_of, port, written_name
from dagrec.errors import DataError

COLLECTIONS = ("flows", "ChatFlow", "AgentFlow", "AgentFlowV2", "AssistantFlow")
"""Fields of exports of Langflow and Flowise that hold many flows."""
GENERIC_TYPES = frozenset({"custom", "customNode", "genericNode", "default", "agentFlow"})
"""Types that say how a node is drawn, not what it does."""
TYPE_NAMES = ("type", "nodeType", "kind")
"""Fields of ``data`` that name the type of a node."""
NOTES = re.compile(r"(custom-)?(sticky-?)?note(node|agentflow)?|comment|annotation(node)?|group", re.I)
"""Types of notes and frames."""
STARTS = frozenset({"iteration-start", "loop-start"})
"""Types of the nodes of Dify that stand for the start of an iteration or a loop."""


def _recognises(content: Content, options: ReadOptions) -> bool:
    first = content.first
    return _graph_of(first) is not None or _has_text(first) or bool(_collected(first))


def _is_graph(value: Json) -> bool:
    """Whether an object has the nodes and edges of React Flow, and is not of networkx."""
    if not isinstance(value, dict) or "multigraph" in value or "directed" in value:
        return False
    nodes, edges = value.get("nodes"), value.get("edges")
    if not isinstance(nodes, list) or not isinstance(edges, list):
        return False
    if edges and not (isinstance(edges[0], dict) and {"source", "target"} <= edges[0].keys()):
        return False
    if not nodes:
        return "viewport" in value
    return any(
        isinstance(node, dict)
        and (isinstance(node.get("data"), dict) or isinstance(node.get("position"), dict))
        for node in nodes
    )


def _graph_of(flow: Json) -> dict[str, Json] | None:
    """Return the graph of a flow: itself, or where Langflow and Dify keep it."""
    if not isinstance(flow, dict):
        return None
    workflow = flow.get("workflow")
    inner = workflow.get("graph") if isinstance(workflow, dict) else flow.get("graph")
    graphs: list[Json] = [flow, flow.get("data"), inner]
    return next((graph for graph in graphs if _is_graph(graph)), None)


def _has_text(flow: Json) -> bool:
    """Whether a flow is of Flowise's API, where the graph is text."""
    text = flow.get("flowData") if isinstance(flow, dict) else None
    return isinstance(text, str) and text.lstrip().startswith("{")


def _collected(value: dict[str, Json]) -> list[Json]:
    """Return the flows of an export of many."""
    for name in COLLECTIONS:
        flows = value.get(name)
        if isinstance(flows, list) and any(_graph_of(flow) or _has_text(flow) for flow in flows):
            return [flow for each in COLLECTIONS for flow in _list(value.get(each))]
    return []


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    for item in content.items():
        if item.error is not None:
            reading.reject(item.error.at(item.place))
            continue
        flows = _collected(item.value) if isinstance(item.value, dict) else []
        for number, flow in enumerate(flows, start=1):
            yield Document(f"{item.place}, flow {number}", partial(draft, flow, reading))
        if not flows:
            yield Document(item.place, partial(draft, item.value, reading))


def draft(document: Json, reading: Reading) -> Draft:
    """Return a draft from a parsed flow. Raises :class:`DataError`, which names the field."""
    flow = require_object(document, "a flow")
    graph = _graph_of(flow)
    if graph is None:
        graph = require_object(parse_json(flow["flowData"]), "flowData") if _has_text(flow) else flow
    for name in ("nodes", "edges"):
        if name not in graph:
            raise DataError(f"a flow needs {name!r}; add it", rule="missing-field")
    nodes: list[Node] = []
    dropped: set[str] = set()
    starts: list[Wire] = []
    for i, item in enumerate(require_list(graph["nodes"], "nodes"), start=1):
        node = require_object(item, f"node {i}")
        id_ = require_id(node.get("id"), f"node {i}: id")
        data = node["data"] if isinstance(node.get("data"), dict) else {}
        key = require_id(_key(node, data), f"node {i} ({id_}): type")
        if NOTES.fullmatch(key) or NOTES.fullmatch(name_of(node.get("type"))):
            reading.notes["comment nodes dropped"] += 1
            dropped.add(id_)
        else:
            nodes.append(Node(id=id_, key=key, text=_text(data, key)))
            if key in STARTS and node.get("parentId"):
                starts.append(Wire(require_id(node["parentId"], f"node {i}: parentId"), id_, key))
    wires = starts + _wires(graph, reading)
    wires = known_links(wires, {node.id for node in nodes}, dropped, reading.notes)
    passing = {wire.target for wire in starts}
    app = flow["app"] if isinstance(flow.get("app"), dict) else flow
    times = [name for name in ("updated_at", "updatedDate") if flow.get(name) not in (None, "")]
    return Draft(
        id=optional_id(flow.get("id"), "id"),
        nodes=[node for node in nodes if node.id not in passing],
        links=join_links(wires, passing),
        owner=optional_id(flow.get("user_id"), "user_id"),
        time=reading.time(flow[times[0]], times[0]) if times else None,
        goal=join_texts(app.get("name"), app.get("title"), app.get("description")),
    )


def _key(node: dict[str, Json], data: dict[str, Json]) -> Json:
    """Return the most specific name of the type of a node."""
    name = data.get("name")
    if name and ("inputAnchors" in data or "outputAnchors" in data or "baseClasses" in data):
        return name
    if data.get("type") == "tool" and (tool := name_of(data.get("tool_name"))):
        provider = name_of(data.get("provider_name")) or name_of(data.get("provider_id"))
        return f"{provider}/{tool}" if provider else tool
    for field in TYPE_NAMES:
        if data.get(field) not in (None, "", {}, []):
            return data[field]
    drawn = node.get("type") or "default"
    return name if name and isinstance(drawn, str) and drawn in GENERIC_TYPES else drawn


def _text(data: dict[str, Json], key: str) -> str | None:
    """What the user wrote: the title unless it is that of the type, and Dify's description."""
    component = data.get("node")
    name = component.get("display_name") if isinstance(component, dict) else None
    title = data.get("label") or data.get("title") or name
    return join_texts(written_name(title, key, name_of(data.get("type"))), data.get("desc"))


def _wires(graph: dict[str, Json], reading: Reading) -> list[Wire]:
    wires = []
    for i, item in enumerate(require_list(graph["edges"], "edges"), start=1):
        edge = require_object(item, f"edge {i}")
        source = require_id(edge.get("source"), f"edge {i}: source")
        target = require_id(edge.get("target"), f"edge {i}: target")
        output = _handle(edge.get("sourceHandle"), source, "output")
        wires.append(Wire(source, target, output, _handle(edge.get("targetHandle"), target, "input")))
    return wires


def _handle(handle: Json, node_id: str, side: str) -> str | None:
    """Return the name of an output or input in a handle, without the id of the node."""
    if not isinstance(handle, str) or handle == node_id:
        return port(handle) if type(handle) is int else None
    if handle.startswith("{"):  # Langflow: JSON with other quotes
        try:
            fields = parse_json(handle.replace("œ", '"'))
        except DataError:
            return port(handle)
        return port(fields.get("name" if side == "output" else "fieldName"))
    parts = handle.split("|")
    if len(parts) > 2 and node_id in parts[1:]:  # Langflow before version 0.6
        return port(parts[1] if side == "input" else parts[2])
    if handle.startswith(f"{node_id}-{side}-"):  # Flowise: id-output-name-types
        return port(handle.removeprefix(f"{node_id}-{side}-").partition("-")[0])
    return port(handle.removeprefix(f"{node_id}-"))


FORMAT = Format(
    name="react-flow",
    description="nodes and edges of React Flow: Langflow, Flowise, Dify and others",
    on_cycle="break",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".json", ".jsonl", ".yml", ".yaml"),
    fields=("nodes", "edges", "viewport", "data", "app", "workflow", "flowData"),
)
