"""The native JSON: ``{"nodes": [...], "links": [...]}``, bare or under ``"composition"``.

A node with a ``mid`` is a service, one without is a table, unless ``kind`` says otherwise; the key is
``<kind>_<mid, or id>``, or what the node gives as ``key``. Ids may be strings or integers.
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
    """A composition from its parsed JSON. Raises :class:`DataError` naming the field."""
    outer = require_object(document, "a composition")
    inner = require_object(outer["composition"], "composition") if "composition" in outer else outer
    for name in ("nodes", "links"):
        if name not in inner:
            raise DataError(f"a composition needs {name!r}, an array; add it", rule="missing-field")
    items = require_list(inner["nodes"], "nodes")
    if not items:
        raise DataError("a composition needs at least one node, found none; add it", rule="no-nodes")
    table = re.compile(options.table_mid) if options.table_mid else None
    nodes, owners = [], {}
    for i, item in enumerate(items, start=1):
        node, owner = _node(require_object(item, f"node {i}"), f"node {i}", table)
        nodes.append(node)
        if owner is not None:
            owners[owner] = True
    links = []
    for i, item in enumerate(require_list(inner["links"], "links"), start=1):
        link = require_object(item, f"link {i}")
        source = require_id(link.get("source"), f"link {i}: source")
        links.append((source, require_id(link.get("target"), f"link {i}: target")))

    def outermost(name: str) -> Json:
        return inner[name] if inner.get(name) is not None else outer.get(name)

    id_ = outermost("id")
    owner = outermost("owner")
    times = [node.time for node in nodes if node.is_service and node.time is not None]
    time = parse_time(outermost("time"), "time")
    return Draft(
        id=None if id_ is None else require_id(id_, "id"),
        nodes=nodes,
        links=links,
        # A composition has an owner of its own, or that of its nodes when they agree.
        owner=require_id(owner, "owner") if owner is not None else _only(owners),
        # Its time is that of its last service: only then was it what it is.
        time=time if time is not None else max(times, default=None),
    )


def to_document(composition: Composition) -> Json:
    """A composition as the native JSON that :func:`draft` reads."""
    nodes = [
        {"id": n.id, "key": n.key, "kind": n.kind, "text": n.text, "time": n.time}
        for n in composition.nodes
    ]
    links = [{"source": source, "target": target} for source, target in composition.links]
    about = {"id": composition.id, "owner": composition.owner, "time": composition.time}
    return {**about, "nodes": nodes, "links": links}


def _node(item: dict[str, Json], what: str, table: re.Pattern[str] | None) -> tuple[Node, str | None]:
    id_ = require_id(item.get("id"), f"{what}: id")
    mid = None if item.get("mid") is None else require_id(item["mid"], f"{what}: mid")
    key = None if item.get("key") is None else require_id(item["key"], f"{what}: key")
    kind = optional_text(item.get("kind"), f"{what}: kind")
    if kind is None:
        is_table = key is None and (mid is None or (table is not None and table.search(mid)))
        kind = "table" if is_table else "service"
    owner = item.get("owner")
    started = item.get("start_time") if item.get("time") is None else item["time"]
    node = Node(
        id=id_,
        key=key or f"{kind}_{id_ if mid is None else mid}",
        kind=kind,
        text=optional_text(item.get("text"), f"{what}: text"),
        time=parse_time(started, f"{what}: start_time"),
    )
    return node, None if owner is None else require_id(owner, f"{what}: owner")


def _only(owners: dict[str, bool]) -> str | None:
    return next(iter(owners)) if len(owners) == 1 else None


FORMAT = Format(
    name="native",
    about="JSON of nodes and links: an object, an array of them, or JSON lines",
    on_cycle="fail",
    recognises=_recognises,
    draft=draft,
)
