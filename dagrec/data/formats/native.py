"""The native JSON: ``{"nodes": [...], "links": [...]}``, bare or under ``"composition"``.

A node with a ``mid`` is a service and one without is a table, unless ``kind`` is given. The key is
``<kind>_<mid, or id>``, unless ``key`` is given. Ids can be strings or integers. A link can name the
``output`` of its source and the ``input`` of its target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dagrec.data.compositions import Composition, Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions, documents_of_items
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import (
    Json,
    optional_id,
    optional_text,
    require_id,
    require_list,
    require_object,
)
from dagrec.errors import DataError

FIELDS = ("composition", "nodes", "links")
OTHERS = frozenset({"connections", "edges", "multigraph"})
"""Fields of n8n, React Flow and networkx, which have nodes, too."""


def _recognises(content: Content, options: ReadOptions) -> bool:
    outer = content.first
    inner = outer.get("composition")
    if isinstance(inner, dict):
        return "nodes" in inner or "links" in inner
    return "composition" in outer or _looks_native(outer)


def _looks_native(value: dict[str, Json]) -> bool:
    """Whether an object has nodes, and is not of another tool."""
    return "nodes" in value and not OTHERS & set(value)


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    yield from documents_of_items(content, reading, draft)


def draft(document: Json, reading: Reading) -> Draft:
    """Return a draft from parsed JSON. Raises :class:`DataError`, which names the field."""
    outer = require_object(document, "a composition")
    inner = require_object(outer["composition"], "composition") if "composition" in outer else outer
    for name in ("nodes", "links"):
        if name not in inner:
            raise DataError(f"a composition needs {name!r}, an array; add it", rule="missing-field")
    items = require_list(inner["nodes"], "nodes")
    if not items:
        raise DataError("a composition needs at least one node, found none; add it", rule="no-nodes")
    table = re.compile(reading.options.table_mid) if reading.options.table_mid else None
    nodes, owners = [], set()
    for i, item in enumerate(items, start=1):
        node, owner = _node(require_object(item, f"node {i}"), f"node {i}", table, reading)
        nodes.append(node)
        if owner is not None:
            owners.add(owner)
    links = []
    for i, item in enumerate(require_list(inner["links"], "links"), start=1):
        link = require_object(item, f"link {i}")
        source = require_id(link.get("source"), f"link {i}: source")
        target = require_id(link.get("target"), f"link {i}: target")
        output, input_ = (optional_id(link.get(end), f"link {i}: {end}") for end in ("output", "input"))
        links.append(Wire(source, target, output, input_))

    def field(name: str) -> Json:
        return inner[name] if inner.get(name) is not None else outer.get(name)

    id_ = field("id")
    owner = field("owner")
    times = [node.time for node in nodes if node.is_service and node.time is not None]
    time = reading.time(field("time"), "time")
    return Draft(
        id=None if id_ is None else require_id(id_, "id"),
        nodes=nodes,
        links=links,
        # Without an owner, a composition gets the owner of its nodes if they all have the same one.
        owner=require_id(owner, "owner") if owner is not None else _single(owners),
        # Without a time, a composition gets the time of its last service.
        time=time if time is not None else max(times, default=None),
        goal=optional_text(field("goal"), "goal"),
    )


def to_document(composition: Composition) -> Json:
    """Return a composition as the native JSON that :func:`draft` reads."""
    nodes = []
    for n in composition.nodes:
        node = {"id": n.id, "key": n.key, "kind": n.kind, "text": n.text, "time": n.time}
        nodes.append(node if n.operation is None else node | {"operation": n.operation})
    links = []
    for link in composition.links:
        for wire in composition.ports.get(link, (Wire(*link),)):
            ports = {"output": wire.output, "input": wire.input}
            present = {name: port for name, port in ports.items() if port is not None}
            links.append({"source": wire.source, "target": wire.target, **present})
    about = {"id": composition.id, "owner": composition.owner, "time": composition.time}
    if composition.goal is not None:
        about["goal"] = composition.goal
    return {**about, "nodes": nodes, "links": links}


def _node(
    item: dict[str, Json], where: str, table: re.Pattern[str] | None, reading: Reading
) -> tuple[Node, str | None]:
    id_ = require_id(item.get("id"), f"{where}: id")
    mid = None if item.get("mid") is None else require_id(item["mid"], f"{where}: mid")
    key = None if item.get("key") is None else require_id(item["key"], f"{where}: key")
    kind = optional_text(item.get("kind"), f"{where}: kind")
    if kind is None:
        is_table = key is None and (mid is None or (table is not None and table.search(mid)))
        kind = "table" if is_table else "service"
    owner = item.get("owner")
    started = item.get("start_time") if item.get("time") is None else item["time"]
    node = Node(
        id=id_,
        key=key or f"{kind}_{id_ if mid is None else mid}",
        kind=kind,
        text=optional_text(item.get("text"), f"{where}: text"),
        time=reading.time(started, f"{where}: start_time"),
        operation=optional_text(item.get("operation"), f"{where}: operation"),
    )
    return node, None if owner is None else require_id(owner, f"{where}: owner")


def _single(owners: set[str]) -> str | None:
    return next(iter(owners)) if len(owners) == 1 else None


FORMAT = Format(
    name="native",
    description="JSON of nodes and links: an object, an array of them, or JSON lines",
    recognises=_recognises,
    documents=_documents,
    examples="paths",
    fields=FIELDS,
)
