"""n8n workflows: ``nodes[].name/type`` and ``connections{name: {kind: [[{node, ...}]]}}``.

They come as exports, as answers of the REST API (``{"data": [...]}``) or under ``workflow``. The key of
a node is its type. All nodes are services, except comments (``stickyNote``), which are dropped. Links
of every kind (``main``, ``ai_tool`` ...) are read, from the named node to its target; their ports are
the kind and index, such as ``main/0``. n8n identifies nodes by name; if two nodes have the same name,
the later one gets the links, as in n8n itself, and links to nodes that are gone are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache, partial

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import (
    Json,
    describe_value,
    join_texts,
    optional_id,
    plain_text,
    require_id,
    require_list,
    require_object,
)
from dagrec.errors import DataError

COMMENT = "stickyNote"
ABOUT = ("id", "name", "description", "owner", "createdAt", "updatedAt")
"""What an object can say about the workflow in it, as in answers of the library of templates."""
MAX_WRAPPERS = 3


def _recognises(content: Content, options: ReadOptions) -> bool:
    return _is_workflow(_unwrapped(content.first)) or _is_page(content.first)


def _is_workflow(value: Json) -> bool:
    return isinstance(value, dict) and "nodes" in value and "connections" in value


def _unwrapped(value: Json) -> Json:
    """The workflow of an object with a ``workflow``, with the fields that only the object has."""
    outer: dict[str, Json] = {}
    for _ in range(MAX_WRAPPERS):
        if not isinstance(value, dict) or _is_workflow(value) or "workflow" not in value:
            break
        outer |= {name: value[name] for name in ABOUT if value.get(name) not in (None, "")}
        value = value["workflow"]
    return outer | value if _is_workflow(value) and outer else value


def _is_page(value: dict[str, Json]) -> bool:
    """Whether an object is an answer of n8n's REST API."""
    items = value.get("data")
    if isinstance(items, list):
        return any(map(_is_workflow, items)) or (not items and "nextCursor" in value)
    return _is_workflow(items)


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    for item in content.items():
        if item.error is not None:
            reading.reject(item.error.at(item.place))
        elif isinstance(item.value, dict) and not _is_workflow(item.value) and _is_page(item.value):
            data = item.value["data"]
            for number, workflow in enumerate(data if isinstance(data, list) else [data], start=1):
                yield Document(f"{item.place}, data {number}", partial(draft, workflow, reading))
        else:
            yield Document(item.place, partial(draft, _unwrapped(item.value), reading))


def draft(document: Json, reading: Reading) -> Draft:
    """Return a draft from a parsed workflow. Raises :class:`DataError`, which names the field."""
    workflow = require_object(document, "a workflow")
    for name in ("nodes", "connections"):
        if name not in workflow:
            raise DataError(f"an n8n workflow needs {name!r}; add it", rule="missing-field")
    nodes: list[Node] = []
    node_ids: dict[str, str | None] = {}  # name -> node id, None for a comment
    for i, item in enumerate(require_list(workflow["nodes"], "nodes"), start=1):
        node = require_object(item, f"node {i}")
        name = require_id(node.get("name"), f"node {i}: name")
        key = require_id(node.get("type"), f"node {i} ({name}): type")
        if key.endswith(COMMENT) and key.rpartition(".")[2] == COMMENT:
            reading.notes["comment nodes dropped"] += 1
            node_ids.setdefault(name, None)
            continue
        if node_ids.get(name) is not None:
            reading.notes["names used twice"] += 1
        id_ = f"{name}#{i}" if name in node_ids else name
        node_ids[name] = id_
        nodes.append(Node(id_, key, text=_text(node, name, key), operation=_operation(node)))
    times = [field for field in ("updatedAt", "createdAt") if workflow.get(field) not in (None, "")]
    return Draft(
        id=optional_id(workflow.get("id"), "id"),
        nodes=nodes,
        links=_links(workflow, node_ids, reading),
        owner=optional_id(workflow.get("owner"), "owner"),
        time=reading.time(workflow[times[0]], times[0]) if times else None,
        goal=join_texts(workflow.get("name"), workflow.get("description")),
    )


def _text(node: dict[str, Json], name: str, key: str) -> str | None:
    """What the user wrote: the name unless n8n chose it, and the notes."""
    type_ = _letters(key.rpartition(".")[2])
    notes = node.get("notes")
    if name[:1].lower() == type_[:1] and _letters(name) == type_:
        return plain_text(notes)
    return join_texts(name, notes) if notes else plain_text(name)


@lru_cache(maxsize=10_000)
def _letters(text: str) -> str:
    """The letters of a text, in lower case."""
    return re.sub(r"[\W\d_]+", "", text).lower()


def _operation(node: dict[str, Json]) -> str | None:
    """The resource and operation that are set, such as ``message/post``."""
    parameters = node.get("parameters")
    if not parameters or not isinstance(parameters, dict):
        return None
    resource, operation = parameters.get("resource"), parameters.get("operation")
    if resource is None and operation is None:
        return None
    return "/".join(part for part in (plain_text(resource), plain_text(operation)) if part) or None


def _links(workflow: dict[str, Json], node_ids: dict[str, str | None], reading: Reading) -> list[Wire]:
    links: list[Wire] = []
    gone = dropped = 0
    names_by_id: dict[str, str] | None = None
    for name, kind, index, end in _ends(require_object(workflow["connections"], "connections")):
        target = end.get("node")
        if not isinstance(target, str) or target not in node_ids:
            target = require_id(target, f"{_where(name, kind)}: node")
        if name not in node_ids or target not in node_ids:
            if names_by_id is None:
                names_by_id = _names_by_id(workflow["nodes"])
            for each in (name, target):
                if each not in node_ids and each in names_by_id:
                    raise DataError(
                        f"{_where(name, kind)}: connections must name nodes, found the id "
                        f"{describe_value(each)}; use the name {describe_value(names_by_id[each])}",
                        rule="link-by-id",
                    )
            gone += 1
            continue
        source_id, target_id = node_ids[name], node_ids[target]
        if source_id is None or target_id is None:
            dropped += 1
            continue
        output = _port(kind, index)
        links.append(Wire(source_id, target_id, output, _input(end, kind)))
    if gone:
        reading.notes["links to nodes that are gone dropped"] += gone
    if dropped:
        reading.notes["links of comment nodes dropped"] += dropped
    return links


def _ends(connections: dict[str, Json]) -> Iterator[tuple[str, str, int, dict[str, Json]]]:
    """Yield the source, the kind, the index of the output and the other end of each connection."""
    for name, kind, outputs in _outputs(connections):
        for index, output in enumerate(outputs):
            if output is None:
                continue
            if not isinstance(output, list):
                require_list(output, _where(name, kind))
            for end in output:
                if isinstance(end, dict):
                    yield name, kind, index, end
                elif end is not None:
                    require_object(end, _where(name, kind))


def _outputs(connections: dict[str, Json]) -> Iterator[tuple[str, str, list[Json]]]:
    """Yield the source, the kind and the outputs, those without connections as null or empty."""
    for name, kinds in connections.items():
        for kind, outputs in require_object(kinds, f"connections of {name!r}").items():
            if outputs is not None:
                yield name, kind, require_list(outputs, _where(name, kind))


def _where(name: str, kind: str) -> str:
    return f"connections of {name!r}, {kind!r}"


def _input(end: dict[str, Json], kind: str) -> str | None:
    """The input that a connection leads to; it has the kind of the output if it names none."""
    type_, index = end.get("type"), end.get("index")
    is_named = isinstance(type_, str) and type_ != ""
    return _port(type_ if is_named else kind, index if type(index) is int else 0)


@lru_cache(maxsize=1000)
def _port(kind: str, index: int) -> str | None:
    return plain_text(f"{kind}/{index}")


def _names_by_id(nodes: list[dict[str, Json]]) -> dict[str, str]:
    """The names of nodes by their ids, which connections must not use."""
    return {str(node["id"]): str(node["name"]) for node in nodes if node.get("id")}


FORMAT = Format(
    name="n8n",
    description="n8n workflows: exports, JSON lines, or pages of the REST API",
    on_cycle="break",  # loops are common in n8n
    recognises=_recognises,
    documents=_documents,
    fields=("nodes", "connections", "pinData", "settings", "versionId"),
)
