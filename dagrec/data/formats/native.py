"""The native JSON: ``{"nodes": [...], "links": [...]}``, bare or under ``"composition"``.

A node with a ``mid`` is a service and one without is a table, unless ``kind`` is given. The key is
``<kind>_<mid, or id>``, unless ``key`` is given. Ids can be strings or integers.
"""

from __future__ import annotations

import re

from dagrec.data.compositions import Composition, Node
from dagrec.data.formats.documents import (
    Json,
    optional_text,
    require_id,
    require_list,
    require_object,
)
from dagrec.data.formats.draft import Draft, Format, ReadOptions, parse_time
from dagrec.errors import DataError


def _recognises(first: str | dict[str, Json]) -> bool:
    return isinstance(first, dict) and (
        "composition" in first or ("nodes" in first and "connections" not in first)
    )


def draft(document: Json, options: ReadOptions) -> Draft:
    """Return a draft from parsed JSON. Raises :class:`DataError`, which names the field."""
    outer = require_object(document, "a composition")
    inner = require_object(outer["composition"], "composition") if "composition" in outer else outer
    for name in ("nodes", "links"):
        if name not in inner:
            raise DataError(f"a composition needs {name!r}, an array; add it", rule="missing-field")
    items = require_list(inner["nodes"], "nodes")
    if not items:
        raise DataError("a composition needs at least one node, found none; add it", rule="no-nodes")
    table = re.compile(options.table_mid) if options.table_mid else None
    nodes, owners = [], set()
    for i, item in enumerate(items, start=1):
        node, owner = _node(require_object(item, f"node {i}"), f"node {i}", table)
        nodes.append(node)
        if owner is not None:
            owners.add(owner)
    links = []
    for i, item in enumerate(require_list(inner["links"], "links"), start=1):
        link = require_object(item, f"link {i}")
        source = require_id(link.get("source"), f"link {i}: source")
        links.append((source, require_id(link.get("target"), f"link {i}: target")))

    def field(name: str) -> Json:
        return inner[name] if inner.get(name) is not None else outer.get(name)

    id_ = field("id")
    owner = field("owner")
    times = [node.time for node in nodes if node.is_service and node.time is not None]
    time = parse_time(field("time"), "time")
    return Draft(
        id=None if id_ is None else require_id(id_, "id"),
        nodes=nodes,
        links=links,
        # Without an owner, a composition gets the owner of its nodes if they all have the same one.
        owner=require_id(owner, "owner") if owner is not None else _single(owners),
        # Without a time, a composition gets the time of its last service.
        time=time if time is not None else max(times, default=None),
    )


def to_document(composition: Composition) -> Json:
    """Return a composition as the native JSON that :func:`draft` reads."""
    nodes = [
        {"id": n.id, "key": n.key, "kind": n.kind, "text": n.text, "time": n.time}
        for n in composition.nodes
    ]
    links = [{"source": source, "target": target} for source, target in composition.links]
    about = {"id": composition.id, "owner": composition.owner, "time": composition.time}
    return {**about, "nodes": nodes, "links": links}


def _node(item: dict[str, Json], where: str, table: re.Pattern[str] | None) -> tuple[Node, str | None]:
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
        time=parse_time(started, f"{where}: start_time"),
    )
    return node, None if owner is None else require_id(owner, f"{where}: owner")


def _single(owners: set[str]) -> str | None:
    return next(iter(owners)) if len(owners) == 1 else None


FORMAT = Format(
    name="native",
    description="JSON of nodes and links: an object, an array of them, or JSON lines",
    on_cycle="fail",
    recognises=_recognises,
    draft=draft,
)
