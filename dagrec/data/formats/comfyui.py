"""ComfyUI workflows: as the editor saves them (``nodes``, ``links``), and in the format of its API.

The key of a node is its type (``class_type`` in the API). The ports of a link are the name and type of
the sockets, such as ``MODEL/MODEL``; the API has no names of outputs, only their numbers. Notes are
dropped, and nodes that only pass on a link (reroutes, and set and get nodes) are replaced by links.
Subgraphs are expanded: their nodes replace the node that stands for them, and have the ids that
ComfyUI's own expansion gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions, documents_of_items
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
from dagrec.data.formats.editors import join_links, known_links, name_of, port, written_name
from dagrec.errors import DataError

NOTES = frozenset({"Note", "MarkdownNote", "Label (rgthree)"})
REROUTES = frozenset({"Reroute", "Reroute (rgthree)", "ReroutePrimitive|pysssss"})
SETTER, GETTER = "SetNode", "GetNode"
INPUT_ID, OUTPUT_ID = "-10", "-20"
"""The ids that stand for the inputs and outputs of a subgraph in its links."""
MAX_DEPTH = 20
"""The largest nesting depth of subgraphs."""
MAX_EXPANDED = 100_000
"""The largest number of nodes and links that the expansion of subgraphs may add."""


def _recognises(content: Content, options: ReadOptions) -> bool:
    first = content.first
    return _is_saved(first) or _is_prompt(first) or _is_prompt(first.get("prompt"))


def _is_saved(value: Json) -> bool:
    """Whether a value is a workflow as the editor saves it: with links that are arrays or numbered."""
    if not isinstance(value, dict):
        return False
    nodes, links = value.get("nodes"), value.get("links")
    if not isinstance(nodes, list) or not isinstance(links, list):
        return False
    first = next((link for link in links if link is not None), None)
    if isinstance(first, dict):
        return "origin_id" in first and "target_id" in first
    if first is None:
        return "last_node_id" in value
    return isinstance(first, list) and len(first) >= 5


def _is_prompt(value: Json) -> bool:
    """Whether a value is a workflow in the format of the API."""
    return isinstance(value, dict) and any(
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and "inputs" in node
        for node in value.values()
    )


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    yield from documents_of_items(content, reading, draft)


def draft(document: Json, reading: Reading) -> Draft:
    """Return a draft from a parsed workflow. Raises :class:`DataError`, which names the field."""
    workflow = require_object(document, "a workflow")
    if "nodes" in workflow:
        return _draft_of_saved(workflow, reading)
    is_request = not _is_prompt(workflow) and "prompt" in workflow
    prompt = require_object(workflow["prompt"], "prompt") if is_request else workflow
    return _draft_of_prompt(prompt, optional_id(workflow.get("prompt_id"), "prompt_id"), reading)


# The format of the API


def _draft_of_prompt(prompt: dict[str, Json], id_: str | None, reading: Reading) -> Draft:
    items = {
        require_id(name, "a node: id"): require_object(item, f"node {name}")
        for name, item in prompt.items()
    }
    nodes = []
    for name, item in items.items():
        key = require_id(item.get("class_type"), f"node {name}: class_type")
        meta = item.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        nodes.append(Node(id=name, key=key, text=written_name(title, key)))
    links: list[Wire] = []
    for name, item in items.items():
        inputs = item.get("inputs")
        values = require_object({} if inputs is None else inputs, f"node {name}: inputs")
        for input_, value in values.items():
            if (end := _end(value, items)) is None:
                continue
            if end[0] in items:
                links.append(Wire(end[0], name, port(end[1]), port(input_)))
            else:
                reading.notes["links to nodes that are gone dropped"] += 1
    through = {node.id for node in nodes if node.key in REROUTES}
    nodes = _without(nodes, through, "reroutes replaced by links", reading)
    return Draft(id=id_, nodes=nodes, links=join_links(links, through))


def _end(value: Json, ids: dict[str, dict[str, Json]]) -> tuple[str, int] | None:
    """Return the source and its output if the value of an input is a link; other arrays are data."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    source, slot = value
    if type(slot) is not int or not (isinstance(source, str) or type(source) is int):
        return None
    is_data = isinstance(source, int) and str(source) not in ids
    return None if is_data else (str(source), slot)


def _without(nodes: list[Node], ids: set[str], note: str, reading: Reading) -> list[Node]:
    if ids:
        reading.notes[note] += len(ids)
    return [node for node in nodes if node.id not in ids]


# Workflows as the editor saves them


def _draft_of_saved(workflow: dict[str, Json], reading: Reading) -> Draft:
    definitions = workflow.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    graph = _Graph(reading, _by_id(subgraphs))
    graph.add(workflow, prefix="", depth=0)
    links = known_links(graph.links, graph.ends, graph.comments, reading.notes)
    nodes = _without(graph.nodes, graph.passing, "reroutes replaced by links", reading)
    extra = workflow.get("extra")
    info = extra.get("info") if isinstance(extra, dict) else None
    about = info if isinstance(info, dict) else {}
    return Draft(
        id=optional_id(workflow.get("id"), "id"),
        nodes=nodes,
        links=join_links(links, graph.passing | graph.boundary),
        goal=join_texts(
            workflow.get("name") or about.get("name"),
            workflow.get("description") or about.get("description"),
        ),
    )


def _by_id(subgraphs: Json) -> dict[str, dict[str, Json]]:
    items = subgraphs if isinstance(subgraphs, list) else []
    objects = [item for item in items if isinstance(item, dict)]
    return {item["id"]: item for item in objects if isinstance(item.get("id"), str)}


@dataclass
class _Graph:
    """A workflow with expanded subgraphs. The ids of inner nodes are ``outer:inner``."""

    reading: Reading
    subgraphs: dict[str, dict[str, Json]]
    nodes: list[Node] = field(default_factory=list)
    links: list[Wire] = field(default_factory=list)
    ends: set[str] = field(default_factory=set)
    """All that links may name: the ids of nodes, and inputs and outputs of subgraphs."""
    comments: set[str] = field(default_factory=set)
    passing: set[str] = field(default_factory=set)
    """The ids of nodes that only pass on a link."""
    boundary: set[str] = field(default_factory=set)
    """The inputs and outputs of subgraphs."""
    expanded: int = 0

    def add(self, graph: dict[str, Json], prefix: str, depth: int) -> None:
        """Add the nodes and links of a graph at a nesting depth; ``prefix`` precedes their ids."""
        where = f" of subgraph {prefix.rstrip(':')}" if prefix else ""
        items = require_list(graph.get("nodes"), f"nodes{where}")
        links = require_list([] if graph.get("links") is None else graph["links"], f"links{where}")
        self._check_size(items, links, prefix, depth)
        by_id: dict[str, dict[str, Json]] = {}
        setters: dict[str, str] = {}
        for i, item in enumerate(items, start=1):
            node = require_object(item, f"node {i}{where}")
            id_ = require_id(node.get("id"), f"node {i}{where}: id")
            key = require_id(node.get("type"), f"node {i} ({id_}){where}: type")
            full_id = require_id(prefix + id_, f"node {i}{where}: id")
            if key in NOTES:
                self.reading.notes["comment nodes dropped"] += 1
                self.comments.add(full_id)
                continue
            by_id[id_] = node
            if key in self.subgraphs:
                self.reading.notes["subgraphs expanded"] += 1
                self.add(self.subgraphs[key], f"{full_id}:", depth + 1)
                continue
            self.ends.add(full_id)
            self.nodes.append(Node(id=full_id, key=key, text=written_name(node.get("title"), key)))
            if key in REROUTES or _variable(node, SETTER) or _variable(node, GETTER):
                self.passing.add(full_id)
            if variable := _variable(node, SETTER):
                setters.setdefault(variable, full_id)
        for id_, node in by_id.items():
            if (variable := _variable(node, GETTER)) and variable in setters:
                self.links.append(Wire(setters[variable], prefix + id_))
        for i, link in enumerate(links, start=1):
            if link is not None:
                self._link(link, f"link {i}{where}", by_id, prefix)

    def _check_size(self, items: list[Json], links: list[Json], prefix: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise DataError(
                f"subgraph {prefix[:60]!r}: subgraphs may be nested {MAX_DEPTH} deep, found more; "
                "unpack some of them",
                rule="too-deep",
            )
        self.expanded += (1 + len(items) + len(links)) * (depth > 0)
        if self.expanded > MAX_EXPANDED:
            raise DataError(
                f"subgraphs may add {MAX_EXPANDED} nodes and links, found more; remove some of them",
                rule="too-large",
            )

    def _link(self, link: Json, where: str, nodes: dict[str, dict[str, Json]], prefix: str) -> None:
        source, output, target, input_, type_ = _parts(link, where)
        source_id = require_id(source, f"{where}: source")
        target_id = require_id(target, f"{where}: target")
        from_, to = nodes.get(source_id, {}), nodes.get(target_id, {})
        if prefix and source_id == INPUT_ID:
            start = self._boundary("input", prefix, output)
        elif _is_subgraph(from_, self.subgraphs):
            start = self._boundary("output", f"{prefix}{source_id}:", output)
        else:
            start = prefix + source_id
        if prefix and target_id == OUTPUT_ID:
            end = self._boundary("output", prefix, input_)
        elif _is_subgraph(to, self.subgraphs):
            end = self._boundary("input", f"{prefix}{target_id}:", input_)
        else:
            end = prefix + target_id
        ports = (
            _socket(from_.get("outputs"), output, type_),
            _socket(to.get("inputs"), input_, type_),
        )
        self.links.append(Wire(start, end, *ports))

    def _boundary(self, kind: str, prefix: str, slot: Json) -> str:
        """Return what stands for an input or output of the subgraph whose nodes have this prefix."""
        end = f"\0{kind} {name_of(slot)} of {prefix}"
        self.ends.add(end)
        self.boundary.add(end)
        return end


def _is_subgraph(node: dict[str, Json], subgraphs: dict[str, dict[str, Json]]) -> bool:
    return name_of(node.get("type")) in subgraphs


def _variable(node: dict[str, Json], type_: str) -> str | None:
    """Return the name of the variable that a set or get node sets or gets, if it is one."""
    values = node.get("widgets_values")
    if node["type"] != type_ or not isinstance(values, list) or not values:
        return None
    return plain_text(values[0])


def _parts(link: Json, where: str) -> tuple[Json, Json, Json, Json, Json]:
    """Return the source, its output, the target, its input, and the type of a link."""
    if isinstance(link, dict):
        source, output, target, input_, type_ = (
            link.get(name) for name in ("origin_id", "origin_slot", "target_id", "target_slot", "type")
        )
        return source, output, target, input_, type_
    parts = require_list(link, where)
    if len(parts) < 5:
        raise DataError(
            f"{where} must have an id, a source, an output, a target and an input, found "
            f"{describe_value(link)}",
            rule="wrong-type",
        )
    return parts[1], parts[2], parts[3], parts[4], parts[5] if len(parts) > 5 else None


def _socket(sockets: Json, slot: Json, type_: Json) -> str | None:
    """Return the name and type of a socket; its number and the type of the link if it is not listed."""
    if type(slot) is not int:
        return port(type_)
    listed = isinstance(sockets, list) and 0 <= slot < len(sockets)
    socket = sockets[slot] if listed and isinstance(sockets[slot], dict) else {}
    name = plain_text(socket.get("name"))
    return port(slot if name is None else name, plain_text(socket.get("type")) or type_)


FORMAT = Format(
    name="comfyui",
    description="ComfyUI workflows, as saved and in the format of the API; subgraphs expanded",
    on_cycle="break",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".json", ".jsonl"),
    fields=("last_node_id", "last_link_id", "nodes", "links", "class_type", "prompt"),
)
