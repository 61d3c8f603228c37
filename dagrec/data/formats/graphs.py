"""Graphs with attributes as compositions, and the node-link JSON of networkx.

Attributes of a node are ``key`` (by default its id), ``kind`` (by default ``service``), ``text``,
``operation`` and ``time``; those of a link are ``output`` and ``input``; those of the graph are ``id``
or ``name``, ``owner``, ``time`` and ``goal``. Nodes with an attribute ``composition`` split a graph
into several compositions. If the graph has no owner or goal, it is that of its nodes if they all have
the same, and if it has no time, it is that of its last service.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, NoReturn

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import (
    Json,
    optional_id,
    optional_text,
    plain_text,
    require_id,
    require_list,
    require_object,
)
from dagrec.errors import DataError

NODE_ATTRIBUTES = ("key", "kind", "text", "operation", "owner", "time", "goal", "composition")
LINK_ATTRIBUTES = ("output", "input")
GRAPH_ATTRIBUTES = ("id", "name", "owner", "time", "goal")
Attributes = Mapping[str, Any]


class Graph(NamedTuple):
    """A directed graph: its nodes by id, its links, and what is known about it as a whole."""

    nodes: Sequence[tuple[str, Attributes]]
    links: Sequence[tuple[str, str, Attributes]]
    about: Attributes


class Values(NamedTuple):
    """Functions from an attribute and its name to a value, or None where it is missing.

    They raise :class:`DataError`.
    """

    key: Callable[[Any, str], str | None]
    word: Callable[[Any, str], str | None]
    """For kinds and operations."""
    text: Callable[[Any, str], str | None]
    time: Callable[[Any, str], float | None]
    texts: Sequence[str] = ("text",)
    """The attributes that can hold the text of a node; the first that is given counts."""

    @classmethod
    def of_file(cls, reading: Reading) -> Values:
        def word(value: Any, name: str) -> str | None:
            return optional_text(value, name) or None

        def text(value: Any, name: str) -> str | None:
            return plain_text(value)

        return cls(optional_id, word, text, reading.time, ("text", "label"))


def documents_of_graph(place: str, make: Callable[[], Graph], reading: Reading) -> Iterator[Document]:
    """The compositions of a graph, which ``make`` returns or raises an error for."""
    values = Values.of_file(reading)
    try:
        parts = split_graph(make(), values, reading.notes)
    except DataError as error:
        yield Document(place, partial(_fail, error))
        return
    for part in parts:
        name = f"{place}, {part.about['id']}" if len(parts) > 1 else place
        yield Document(name, partial(draft_of_graph, part, values))


def split_graph(graph: Graph, values: Values, notes: Counter[str]) -> list[Graph]:
    """The parts of a graph, by the attribute ``composition`` of its nodes; only itself without any.

    Links between two compositions are dropped and counted. Raises :class:`DataError`.
    """
    names = {
        id_: values.key(attributes.get("composition"), f"node {id_!r}: composition")
        for id_, attributes in graph.nodes
    }
    if not any(names.values()):
        return [graph]
    nodes: dict[str, list[tuple[str, Attributes]]] = {}
    for id_, attributes in graph.nodes:
        name = names[id_]
        if name is None:
            raise DataError(
                f"node {id_!r}: composition must be given for every node or for none, found nothing; "
                "add it",
                rule="missing-id",
            )
        nodes.setdefault(name, []).append((id_, attributes))
    first = next(iter(nodes))
    links: dict[str, list[tuple[str, str, Attributes]]] = {name: [] for name in nodes}
    for link in graph.links:
        source, target = (names.get(end) for end in link[:2])
        if source is not None and target is not None and source != target:
            notes["links between two compositions dropped"] += 1
        else:  # that the other end of a link does not exist is found later
            links[source or target or first].append(link)
    return [Graph(nodes[name], links[name], {**graph.about, "id": name}) for name in nodes]


def draft_of_graph(graph: Graph, values: Values) -> Draft:
    """Return the draft of a graph that is one composition. Raises :class:`DataError`."""
    if not graph.nodes:
        raise DataError(
            "a composition needs at least one node, found none; add it or leave the graph out",
            rule="no-nodes",
        )
    about = graph.about
    nodes = [_node(id_, attributes, values) for id_, attributes in graph.nodes]
    links = []
    for source, target, attributes in graph.links:
        what = f"link {source!r} -> {target!r}"
        ports = [values.key(attributes.get(end), f"{what}: {end}") for end in LINK_ATTRIBUTES]
        links.append(Wire(source, target, *ports))
    name = about.get("name") if _is_empty(about.get("id")) else about["id"]
    times = [node.time for node in nodes if node.is_service and node.time is not None]
    return Draft(
        id=None if _is_empty(name) else values.key(name, "id"),
        nodes=nodes,
        links=links,
        owner=_shared(graph, "owner", values.key),
        time=values.time(about["time"], "time") if "time" in about else max(times, default=None),
        goal=_shared(graph, "goal", values.text),
    )


def _node(id_: str, attributes: Attributes, values: Values) -> Node:
    what = f"node {id_!r}"
    texts = (values.text(attributes.get(name), f"{what}: {name}") for name in values.texts)
    return Node(
        id=id_,
        key=values.key(attributes.get("key"), f"{what}: key") or id_,
        kind=values.word(attributes.get("kind"), f"{what}: kind") or "service",
        text=next((text for text in texts if text is not None), None),
        time=values.time(attributes.get("time"), f"{what}: time"),
        operation=values.word(attributes.get("operation"), f"{what}: operation"),
    )


def _shared(graph: Graph, name: str, value: Callable[[Any, str], str | None]) -> str | None:
    """An attribute of the graph, or else that of its nodes if they all have the same."""
    if name in graph.about:
        return value(graph.about[name], name)
    found = {
        value(attributes[name], f"node {id_!r}: {name}")
        for id_, attributes in graph.nodes
        if name in attributes
    } - {None}
    return found.pop() if len(found) == 1 else None


def _is_empty(name: Any) -> bool:
    return name is None or (isinstance(name, str) and not name)


def refuse_undirected() -> NoReturn:
    """Raise the error for a graph whose links have no direction."""
    raise DataError(
        "a graph must be directed, found an undirected one; give its links a direction",
        rule="undirected",
    )


def _fail(error: DataError) -> NoReturn:
    raise error


# Node-link JSON


def _recognises(content: Content, options: ReadOptions) -> bool:
    first = content.first
    # networkx says in every file whether a graph is directed; other tools with nodes and links do not.
    is_of_networkx = "multigraph" in first or "directed" in first
    return is_of_networkx and "nodes" in first and ("links" in first or "edges" in first)


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    for item in content.items():
        if item.error is not None:
            reading.reject(item.error.at(item.place))
            continue
        yield from documents_of_graph(item.place, partial(_graph, item.value), reading)


def _graph(document: Json) -> Graph:
    value = require_object(document, "a graph")
    for name in ("nodes", "edges" if "edges" in value else "links"):
        if name not in value:
            raise DataError(f"a graph needs {name!r}, an array; add it", rule="missing-field")
    if value.get("directed") is False:
        refuse_undirected()
    nodes = []
    for i, item in enumerate(require_list(value["nodes"], "nodes"), start=1):
        node = require_object(item, f"node {i}")
        nodes.append((require_id(node.get("id"), f"node {i}: id"), node))
    name = "edges" if "edges" in value else "links"
    links = []
    for i, item in enumerate(require_list(value[name], name), start=1):
        link = require_object(item, f"link {i}")
        source, target = (require_id(link.get(e), f"link {i}: {e}") for e in ("source", "target"))
        links.append((source, target, link))
    about = value.get("graph")
    # networkx once wrote the attributes of a graph as pairs.
    if isinstance(about, list) and all(isinstance(p, list) and len(p) == 2 for p in about):
        about = {str(name): attribute for name, attribute in about}
    return Graph(nodes, links, require_object(about if about is not None else {}, "graph"))


FORMAT = Format(
    name="node-link",
    description="node-link JSON of networkx: an object, an array of them, or JSON lines",
    recognises=_recognises,
    documents=_documents,
    fields=("nodes", "edges", "directed", "multigraph", "graph"),
)
