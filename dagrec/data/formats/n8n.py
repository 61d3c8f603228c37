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
from functools import partial

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


def _recognises(content: Content, options: ReadOptions) -> bool:
    first = content.first
    return _is_workflow(first) or _is_workflow(first.get("workflow")) or _is_page(first)


def _is_workflow(value: Json) -> bool:
    return isinstance(value, dict) and "nodes" in value and "connections" in value


def _is_page(value: dict[str, Json]) -> bool:
    """Whether an object is an answer of n8n's REST API."""
    items = value.get("data")
    if isinstance(items, list):
        return all(map(_is_workflow, items)) and bool(items or "nextCursor" in value)
    return _is_workflow(items)


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    for item in content.items():
        if item.error is not None:
            reading.reject(item.error.at(item.place))
            continue
        value = item.value
        if isinstance(value, dict) and not _is_workflow(value):
            if _is_page(value):
                data = value["data"]
                for number, workflow in enumerate(data if isinstance(data, list) else [data], start=1):
                    place = f"{item.place}, data {number}"
                    yield Document(place, partial(draft, workflow, reading))
                continue
            value = value.get("workflow", value)
        yield Document(item.place, partial(draft, value, reading))


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
        if key.rpartition(".")[2] == COMMENT:
            reading.notes["comment nodes dropped"] += 1
            node_ids.setdefault(name, None)
            continue
        if node_ids.get(name) is not None:
            reading.notes["names used twice"] += 1
        id_ = f"{name}#{i}" if name in node_ids else name
        node_ids[name] = id_
        nodes.append(Node(id=id_, key=key, text=_text(node, name), operation=_operation(node)))
    ids = {str(node["id"]): node["name"] for node in workflow["nodes"] if node.get("id")}
    times = [field for field in ("updatedAt", "createdAt") if workflow.get(field) not in (None, "")]
    return Draft(
        id=optional_id(workflow.get("id"), "id"),
        nodes=nodes,
        links=_links(require_object(workflow["connections"], "connections"), node_ids, ids, reading),
        owner=optional_id(workflow.get("owner"), "owner"),
        time=reading.time(workflow[times[0]], times[0]) if times else None,
        goal=join_texts(workflow.get("name"), workflow.get("description")),
    )


def _text(node: dict[str, Json], name: str) -> str | None:
    """What the user wrote: the name unless n8n chose it, and the notes."""
    type_ = str(node["type"]).rpartition(".")[2]
    chosen = re.sub(r"[\W\d_]+", "", name).lower() != re.sub(r"[\W\d_]+", "", type_).lower()
    return join_texts(name if chosen else None, node.get("notes"))


def _operation(node: dict[str, Json]) -> str | None:
    """The resource and operation that are set, such as ``message/post``."""
    parameters = node.get("parameters")
    if not isinstance(parameters, dict):
        return None
    parts = [plain_text(parameters.get(name)) for name in ("resource", "operation")]
    return "/".join(part for part in parts if part) or None


def _links(
    connections: dict[str, Json],
    node_ids: dict[str, str | None],
    names_by_id: dict[str, Json],
    reading: Reading,
) -> list[Wire]:
    links: list[Wire] = []
    for name, kind, index, end in _ends(connections):
        where = f"connections of {name!r}, {kind!r}"
        target = require_id(end.get("node"), f"{where}: node")
        gone = [each for each in (name, target) if each not in node_ids]
        for each in gone:
            if each in names_by_id:
                raise DataError(
                    f"{where}: connections must name nodes, found the id {describe_value(each)}; use "
                    f"the name {describe_value(names_by_id[each])}",
                    rule="link-by-id",
                )
        if gone:
            reading.notes["links to nodes that are gone dropped"] += 1
            continue
        source_id, target_id = node_ids[name], node_ids[target]
        if source_id is None or target_id is None:
            reading.notes["links of comment nodes dropped"] += 1
            continue
        input_ = f"{end.get('type') or kind}/{end.get('index') or 0}"
        links.append(Wire(source_id, target_id, f"{kind}/{index}", input_))
    return links


def _ends(connections: dict[str, Json]) -> Iterator[tuple[str, str, int, dict[str, Json]]]:
    """Yield the source, the kind, the index of the output and the other end of each connection."""
    for name, kinds in connections.items():
        for kind, outputs in require_object(kinds, f"connections of {name!r}").items():
            where = f"connections of {name!r}, {kind!r}"
            # An output without connections is null or an empty array.
            for index, output in enumerate(require_list(outputs if outputs is not None else [], where)):
                for end in require_list(output if output is not None else [], where):
                    if end is not None:
                        yield name, kind, index, require_object(end, where)


FORMAT = Format(
    name="n8n",
    description="n8n workflows: exports, JSON lines, or pages of the REST API",
    on_cycle="break",  # loops are common in n8n
    recognises=_recognises,
    documents=_documents,
    fields=("nodes", "connections", "pinData", "settings", "versionId"),
)
