"""n8n workflow exports: ``nodes[].name/type`` and ``connections{name: {kind: [[{node, ...}]]}}``.

The key of a node is its type. All nodes are services, except comments (``stickyNote``), which are
dropped. Links of every kind (``main``, ``ai_tool`` ...) are read, from the named node to its target.
n8n identifies nodes by name; if two nodes have the same name, the later one gets the links, as in n8n
itself.
"""

from __future__ import annotations

from collections import Counter

from dagrec.data.compositions import Link, Node
from dagrec.data.formats.documents import (
    Json,
    describe_value,
    optional_text,
    require_id,
    require_list,
    require_object,
)
from dagrec.data.formats.draft import Draft, Format, ReadOptions, parse_time
from dagrec.errors import DataError

COMMENT = "stickyNote"


def _recognises(first: str | dict[str, Json]) -> bool:
    return isinstance(first, dict) and "nodes" in first and "connections" in first


def draft(document: Json, options: ReadOptions) -> Draft:
    """Return a draft from a parsed workflow. Raises :class:`DataError`, which names the field."""
    workflow = require_object(document, "a workflow")
    for name in ("nodes", "connections"):
        if name not in workflow:
            raise DataError(f"an n8n workflow needs {name!r}; add it", rule="missing-field")
    notes: Counter[str] = Counter()
    nodes: list[Node] = []
    node_ids: dict[str, str | None] = {}  # name -> node id, None for a comment
    for i, item in enumerate(require_list(workflow["nodes"], "nodes"), start=1):
        node = require_object(item, f"node {i}")
        name = require_id(node.get("name"), f"node {i}: name")
        key = require_id(node.get("type"), f"node {i} ({name}): type")
        if key.rpartition(".")[2] == COMMENT:
            notes["comment nodes dropped"] += 1
            node_ids.setdefault(name, None)
            continue
        if node_ids.get(name) is not None:
            notes["names used twice"] += 1
        id_ = f"{name}#{i}" if name in node_ids else name
        node_ids[name] = id_
        text = optional_text(node.get("notes"), f"node {i} ({name}): notes")
        nodes.append(Node(id=id_, key=key, text=text))
    id_value, owner = workflow.get("id"), workflow.get("owner")
    times = [field for field in ("updatedAt", "createdAt") if workflow.get(field) not in (None, "")]
    return Draft(
        id=None if id_value in (None, "") else require_id(id_value, "id"),
        nodes=nodes,
        links=_links(require_object(workflow["connections"], "connections"), node_ids, notes),
        owner=None if owner is None else require_id(owner, "owner"),
        time=parse_time(workflow[times[0]], times[0]) if times else None,
        notes=notes,
    )


def _links(
    connections: dict[str, Json], node_ids: dict[str, str | None], notes: Counter[str]
) -> list[Link]:
    def resolve(name: str, end: str) -> str | None:
        if name not in node_ids:
            raise DataError(
                f"connections of {name!r}: {end} must be the name of a node of the workflow, found "
                f"{describe_value(name)}, which does not exist; add the node or drop the connection",
                rule="dangling-link",
            )
        return node_ids[name]

    links: list[Link] = []
    for name, kinds in connections.items():
        source = resolve(name, "source")
        for kind, outputs in require_object(kinds, f"connections of {name!r}").items():
            where = f"connections of {name!r}, {kind!r}"
            # An output without connections is null or an empty array.
            for output in require_list(outputs if outputs is not None else [], where):
                for end in require_list(output if output is not None else [], where):
                    if end is None:
                        continue
                    target_name = require_id(require_object(end, where).get("node"), f"{where}: node")
                    target = resolve(target_name, "target")
                    if source is None or target is None:
                        notes["links of comment nodes dropped"] += 1
                    else:
                        links.append((source, target))
    return links


FORMAT = Format(
    name="n8n",
    description="n8n workflow export: a file, a folder of them, or JSON lines",
    on_cycle="break",  # loops are common in n8n
    recognises=_recognises,
    draft=draft,
)
