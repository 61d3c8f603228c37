"""GraphML files, as networkx, igraph, Gephi and yEd write them: one composition a graph.

The attributes are those of :mod:`dagrec.data.formats.graphs`, by the names of their keys, with their
defaults. The ports of a link are its attributes ``output`` and ``input``, or ``sourceport`` and
``targetport``. A label of yEd is a text. Nodes of nested graphs are read as nodes of the graph around
them, and a group that is linked to nothing is dropped.

The file is parsed by expat and not by networkx, which ignores defaults, ports and most nested graphs.
Entities that a file declares are refused, because they can multiply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn
from xml.parsers import expat

from dagrec.data.formats.base import Document, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import require_id
from dagrec.data.formats.graphs import (
    GRAPH_ATTRIBUTES,
    LINK_ATTRIBUTES,
    NODE_ATTRIBUTES,
    Graph,
    documents_of_graph,
    refuse_undirected,
)
from dagrec.errors import DataError

MAX_DEPTH = 200
"""The largest number of elements inside of each other."""
NAMES = {
    "graph": frozenset(GRAPH_ATTRIBUTES),
    "node": frozenset((*NODE_ATTRIBUTES, "label")),
    "edge": frozenset(LINK_ATTRIBUTES),
}
"""The attributes of each element that are read."""
ROOT = re.compile(r"<(?:\w+:)?graphml[\s>/]")


@dataclass
class _Edge:
    source: str | None
    target: str | None
    attributes: dict[str, str]
    is_directed: bool


@dataclass
class _Graph:
    """What a graph of the file has, as text."""

    attributes: dict[str, str]
    is_directed: bool
    nodes: list[dict[str, str]] = field(default_factory=list)
    """The attributes of the nodes, with their ids as ``#id``."""
    edges: list[_Edge] = field(default_factory=list)
    groups: set[str] = field(default_factory=set)
    """The ids of nodes that hold graphs."""
    fault: DataError | None = None


@dataclass
class _Parser:
    """Collects the graphs of a file from the events of expat."""

    graphs: list[_Graph] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    """Id of a key -> the name of its attribute."""
    defaults: dict[str, dict[str, str]] = field(default_factory=dict)
    """Element -> the defaults of its attributes."""
    stack: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """The names of the open elements, without prefix, and the attributes of what they describe."""
    key: tuple[str, str] = ("", "")
    """The open key: the element that it is for, and the name of its attribute."""
    data: tuple[str, str] = ("", "")
    """The open element with data, and the name of its attribute."""
    text: list[str] = field(default_factory=list)
    level: int = 0
    """The number of open graphs."""

    def start(self, tag: str, given: dict[str, str]) -> None:
        name = tag.rpartition(":")[2]
        parent, attributes = self.stack[-1] if self.stack else ("", {})
        self._take_label()
        if len(self.stack) >= MAX_DEPTH:
            raise DataError(
                f"GraphML may have {MAX_DEPTH} elements inside of each other, found more; flatten it",
                rule="too-deep",
            )
        if name == "key":
            attribute = given.get("attr.name", given.get("id", ""))
            self.keys[given.get("id", "")] = attribute
            self.key = given.get("for", "all"), attribute
        elif name == "data":
            key = given.get("key", "")
            self.data = parent, self.keys.get(key, key)
        elif name == "graph":
            attributes = self._open_graph(given)
        elif name in ("node", "edge", "hyperedge") and self.graphs:
            attributes = self._open_part(name, given)
        self.stack.append((name, attributes))

    def end(self, _: str) -> None:
        text = "".join(self.text).strip()
        self._take_label()
        name, attributes = self.stack.pop()
        if name == "default":
            for element in NAMES if self.key[0] == "all" else [self.key[0]]:
                if self.key[1] in NAMES.get(element, ()):
                    self.defaults.setdefault(element, {})[self.key[1]] = text
        elif name == "data":
            element, attribute = self.data
            if attribute in NAMES.get(element, ()) and text:
                attributes[attribute] = text
        elif name == "graph":
            self.level -= 1

    def _take_label(self) -> None:
        """Keep the text so far if it is a label of yEd, and start a new one."""
        text = "".join(self.text).strip()
        if text and self.stack and self.stack[-1][0] == "NodeLabel":
            self.stack[-1][1].setdefault("label", text)
        self.text = []

    def _open_graph(self, given: dict[str, str]) -> dict[str, str]:
        self.level += 1
        if self.level > 1:
            for name, attributes in reversed(self.stack):
                if name == "node":
                    self.graphs[-1].groups.add(attributes.get("#id", ""))
                    break
            return {}
        attributes = dict(self.defaults.get("graph", {}))
        if "id" in given:
            attributes["id"] = given["id"]
        self.graphs.append(_Graph(attributes, given.get("edgedefault") != "undirected"))
        return attributes

    def _open_part(self, name: str, given: dict[str, str]) -> dict[str, str]:
        graph = self.graphs[-1]
        attributes = dict(self.defaults.get(name, {}))
        if name == "node":
            if "id" in given:
                attributes["#id"] = given["id"]
            graph.nodes.append(attributes)
        elif name == "edge":
            ports = {"output": given.get("sourceport"), "input": given.get("targetport")}
            attributes |= {end: port for end, port in ports.items() if port}
            directed = given.get("directed", "true" if graph.is_directed else "false")
            edge = _Edge(given.get("source"), given.get("target"), attributes, directed == "true")
            graph.edges.append(edge)
        else:
            graph.fault = graph.fault or DataError(
                "a link must have one source and one target, found a hyperedge; write it as edges",
                rule="wrong-type",
            )
        return attributes


def _recognises(content: Content, options: ReadOptions) -> bool:
    if content.is_json or content.is_yaml or not content.text.lstrip().startswith("<"):
        return False
    return ROOT.search(content.text[:100_000]) is not None


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    for number, graph in enumerate(_parse(content.text), start=1):
        yield from documents_of_graph(f"graph {number}", partial(_graph, graph, reading), reading)


def _parse(text: str) -> list[_Graph]:
    collected = _Parser()
    parser = expat.ParserCreate()
    parser.StartElementHandler = collected.start
    parser.EndElementHandler = collected.end
    parser.CharacterDataHandler = lambda data: collected.text.append(data)
    parser.EntityDeclHandler = _refuse_entity
    try:
        parser.Parse(text.lstrip(), True)
    except expat.ExpatError as error:
        raise DataError(
            f"not XML at line {error.lineno}, column {error.offset + 1}: "
            f"{expat.ErrorString(error.code)}; correct the file",
            rule="not-xml",
        ) from None
    return collected.graphs


def _refuse_entity(name: str, *about: object) -> NoReturn:
    raise DataError(
        "XML must not declare entities, which can multiply; write their texts out", rule="not-xml"
    )


def _graph(graph: _Graph, reading: Reading) -> Graph:
    if graph.fault is not None:
        raise graph.fault
    if not all(edge.is_directed for edge in graph.edges):
        refuse_undirected()
    linked = {end for edge in graph.edges for end in (edge.source, edge.target)}
    nodes = []
    for i, attributes in enumerate(graph.nodes, start=1):
        id_ = require_id(attributes.get("#id"), f"node {i}: id")
        if id_ in graph.groups and id_ not in linked:
            reading.notes["groups dropped"] += 1
        else:
            nodes.append((id_, attributes))
    links = [
        (
            require_id(edge.source, f"edge {i}: source"),
            require_id(edge.target, f"edge {i}: target"),
            edge.attributes,
        )
        for i, edge in enumerate(graph.edges, start=1)
    ]
    return Graph(nodes, links, graph.attributes)


FORMAT = Format(
    name="graphml",
    description="GraphML, with attributes such as key, kind and composition",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".graphml",),
)
