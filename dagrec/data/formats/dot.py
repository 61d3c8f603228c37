"""DOT files of Graphviz: one composition a digraph.

The attributes are those of :mod:`dagrec.data.formats.graphs`. The ports of a link are its attributes
``output`` and ``input``, or those of Graphviz (``a:out -> b:in``, ``tailport``, ``headport``) without
points of the compass. Labels are the texts of nodes and the goals of graphs. Subgraphs and defaults
(``node [kind=table]``) count as in Graphviz, where they apply to the nodes that come after them.

The language is small and parsed here: pydot takes 7 seconds for 1,000 nodes, and networkx drops the
nodes of subgraphs and takes ports for parts of names.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from dagrec.data.formats.base import Document, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import describe_value, require_id
from dagrec.data.formats.graphs import (
    GRAPH_ATTRIBUTES,
    LINK_ATTRIBUTES,
    NODE_ATTRIBUTES,
    Graph,
    documents_of_graph,
    refuse_undirected,
)
from dagrec.errors import DataError

MAX_DEPTH = 100
"""The largest number of subgraphs inside of each other."""
MAX_LINKS = 1_000_000
"""The largest number of links of a graph: ``{a b} -> {c d}`` has four."""
COMPASS = frozenset(("n", "ne", "e", "se", "s", "sw", "w", "nw", "c", "_"))
NAMES = {
    "graph": frozenset((*GRAPH_ATTRIBUTES, "label")),
    "node": frozenset((*NODE_ATTRIBUTES, "label")),
    "edge": frozenset((*LINK_ATTRIBUTES, "tailport", "headport")),
}
"""The attributes that are read."""
TEXTS = ("label", "text", "goal")
SPACE = r"(?>(?:\s+|//[^\n]*|\#[^\n]*|/\*.*?\*/)*)"
START = re.compile(
    SPACE + r'(?:strict\b)?\s*(?:di)?graph\b\s*(?>"(?:[^"\\]|\\.)*"|<[^{]*>|[^\s{"<]*)\s*\{',
    re.I | re.S,
)
TOKEN = re.compile(
    r"""(?P<space>(?>\s+|//[^\n]*|/\*.*?\*/))
    |(?P<line>^\#[^\n]*)
    |(?P<mark>->|--|[{}\[\];,=:+])
    |(?P<word>[^\W\d]\w*|-?(?:\.\d+|\d+(?:\.\d*)?))
    |"(?P<quoted>(?:[^"\\]|\\.)*+)"
    |(?P<html><)
    """,
    re.X | re.S | re.M,
)


class Token(NamedTuple):
    """A mark, a word, a text in quotes (``"``) or in HTML (``<``); an empty mark ends the file."""

    kind: str
    text: str
    place: int

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text.lower() in words


@dataclass
class _Scope:
    """The defaults of a graph or subgraph, and its nodes in their order."""

    node: dict[str, str] = field(default_factory=dict)
    edge: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, None] = field(default_factory=dict)


Ends = Sequence[tuple[str, str | None]]
"""Nodes at one end of a link, with their ports."""


class _Parser:
    """Parses the graphs of a text. Raises :class:`DataError`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.token = next(self.tokens)

    def graphs(self) -> Iterator[tuple[Graph, bool]]:
        """Yield each graph, and whether it is directed."""
        while self.token.text or self.token.kind != "mark":
            self._accept_word("strict")
            is_directed = self._accept_word("digraph")
            if not is_directed and not self._accept_word("graph"):
                raise self._expected("graph or digraph")
            self.about: dict[str, str] = {}
            if self.token.kind != "mark":
                self.about["id"] = self._id()
            self.nodes: dict[str, dict[str, str]] = {}
            self.links: list[tuple[str, str, dict[str, str]]] = []
            self.arrow = "->" if is_directed else "--"
            self._block(_Scope(), depth=0)
            if "goal" not in self.about and "label" in self.about:
                self.about["goal"] = self.about["label"]
            yield Graph(list(self.nodes.items()), self.links, self.about), is_directed

    def _next(self) -> Token:
        token, self.token = self.token, next(self.tokens)
        return token

    def _is(self, mark: str) -> bool:
        return self.token.kind == "mark" and self.token.text == mark

    def _accept(self, *marks: str) -> bool:
        """Go on if the token is one of the marks, and tell whether it is."""
        found = self.token.kind == "mark" and self.token.text in marks
        if found:
            self._next()
        return found

    def _accept_word(self, word: str) -> bool:
        found = self.token.is_word(word)
        if found:
            self._next()
        return found

    def _expect(self, mark: str) -> None:
        if not self._accept(mark):
            raise self._expected(_describe(mark))

    def _expected(self, what: str) -> DataError:
        token = self.token
        found = _describe(token.text) if token.kind == "mark" else describe_value(token.text)
        line = self.text.count("\n", 0, token.place) + 1
        return DataError(
            f"not DOT at line {line}: expected {what}, found {found}; correct the file", rule="not-dot"
        )

    def _id(self) -> str:
        if self.token.kind == "mark":
            raise self._expected("a name")
        token = self._next()
        parts = [token.text]
        while token.kind == '"' and self._accept("+"):
            if self.token.kind != '"':
                raise self._expected("a text in quotes")
            parts.append(self._next().text)
        return _markup(token.text) if token.kind == "<" else "".join(parts)

    def _block(self, scope: _Scope, depth: int) -> None:
        """A graph or subgraph in braces."""
        self._expect("{")
        while not self._accept("}"):
            self._statement(scope, depth)
            self._accept(";")

    def _statement(self, scope: _Scope, depth: int) -> None:
        token = self.token
        if token.is_word("graph", "node", "edge"):
            self._next()
            kind = token.text.lower()
            given = self._attributes(kind)
            if kind == "graph":
                self.about |= {} if depth else given
            else:
                defaults = scope.node if kind == "node" else scope.edge
                defaults |= given
            return
        ends = self._ends(scope, depth)
        if ends is None:
            return
        chain = [ends]
        while self._accept(self.arrow):
            following = self._ends(scope, depth, is_link=True)
            assert following is not None
            chain.append(following)
        if len(chain) > 1:
            self._link(chain, scope.edge | self._attributes("edge"))
        elif self._is("["):
            given = self._attributes("node")
            for name, _ in ends:
                self.nodes[name] |= given

    def _ends(self, scope: _Scope, depth: int, *, is_link: bool = False) -> Ends | None:
        """A node or the nodes of a subgraph; None for an attribute of the graph (``name = value``)."""
        if self._is("{") or self.token.is_word("subgraph"):
            return self._subgraph(scope, depth)
        name = self._id()
        if not is_link and self._accept("="):
            value = self._id()
            if name in NAMES["graph"] and not depth:
                self.about[name] = _label(value) if name in TEXTS else value
            return None
        port = None
        while self._accept(":"):
            part = self._id()
            port = port or (None if part in COMPASS else part)
        if name not in self.nodes:
            self.nodes[name] = dict(scope.node)
        scope.nodes[name] = None
        return [(name, port)]

    def _subgraph(self, scope: _Scope, depth: int) -> Ends:
        if depth >= MAX_DEPTH:
            raise DataError(
                f"DOT may have {MAX_DEPTH} subgraphs inside of each other, found more; flatten it",
                rule="too-deep",
            )
        if self._accept_word("subgraph") and self.token.kind != "mark":
            self._id()
        inner = _Scope(dict(scope.node), dict(scope.edge))
        self._block(inner, depth + 1)
        scope.nodes |= inner.nodes
        return [(node, None) for node in inner.nodes]

    def _link(self, chain: Sequence[Ends], given: dict[str, str]) -> None:
        tail, head = (_port(given.pop(name, "")) for name in ("tailport", "headport"))
        for sources, targets in pairwise(chain):
            if len(self.links) + len(sources) * len(targets) > MAX_LINKS:
                raise DataError(
                    f"a graph may have {MAX_LINKS} links, found more; split it", rule="too-large"
                )
            for source, output in sources:
                for target, input_ in targets:
                    ports = {"output": output or tail, "input": input_ or head}
                    named = {end: port for end, port in ports.items() if port}
                    self.links.append((source, target, named | given))

    def _attributes(self, kind: str) -> dict[str, str]:
        """The attributes in brackets that are read for this kind of element."""
        found = {}
        while self._accept("["):
            while not self._accept("]"):
                name = self._id()
                value = self._id() if self._accept("=") else "true"
                if name in NAMES[kind]:
                    found[name] = _label(value) if name in TEXTS else value
                self._accept(";", ",")
        return found


def _tokens(text: str) -> Iterator[Token]:
    place = 0
    while place < len(text):
        match = TOKEN.match(text, place)
        if match is None:
            line = text.count("\n", 0, place) + 1
            found = describe_value(text[place : place + 20])
            raise DataError(
                f"not DOT at line {line}: expected a name or a mark, found {found}; correct the file",
                rule="not-dot",
            )
        start, place = place, match.end()
        if match["word"] is not None:
            yield Token("word", match["word"], start)
        elif match["mark"] is not None:
            yield Token("mark", match["mark"], start)
        elif match["quoted"] is not None:
            yield Token('"', match["quoted"].replace('\\"', '"').replace("\\\n", ""), start)
        elif match["html"] is not None:
            place = _end_of_html(text, start)
            yield Token("<", text[start + 1 : place - 1], start)
    while True:
        yield Token("mark", "", len(text))


def _end_of_html(text: str, start: int) -> int:
    """The place after the closing bracket of a text in HTML that opens at ``start``."""
    depth = 0
    for match in re.compile("[<>]").finditer(text, start):
        depth += 1 if match[0] == "<" else -1
        if not depth:
            return match.end()
    line = text.count("\n", 0, start) + 1
    raise DataError(
        f"not DOT at line {line}: a text in HTML must end, found no closing bracket; correct the file",
        rule="not-dot",
    )


def _markup(text: str) -> str:
    """The text of HTML without its elements."""
    lines = re.sub(r"<br\b[^>]*>", "\n", text, flags=re.I)
    return html.unescape(re.sub(r"<[^>]*>", "", lines))


def _label(text: str) -> str:
    """A label without its escapes; nothing if it only is the name of the node."""
    escapes = {"n": "\n", "l": "\n", "r": "\n", "\\": "\\"}
    return "" if text == r"\N" else re.sub(r"\\(.)", lambda m: escapes.get(m[1], m[0]), text)


def _port(text: str) -> str | None:
    """A port without the point of the compass; None if there is nothing else."""
    return next((part for part in text.split(":") if part and part not in COMPASS), None)


def _describe(mark: str) -> str:
    # Braces have names, because messages may be formatted.
    names = {"{": "an opening brace", "}": "a closing brace", "": "the end"}
    return names.get(mark, describe_value(mark))


def _recognises(content: Content, options: ReadOptions) -> bool:
    return not content.is_json and not content.is_yaml and START.match(content.text) is not None


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    for number, (graph, is_directed) in enumerate(_Parser(content.text).graphs(), start=1):
        yield from documents_of_graph(f"graph {number}", partial(_graph, graph, is_directed), reading)


def _graph(graph: Graph, is_directed: bool) -> Graph:
    if not is_directed:
        refuse_undirected()
    for id_, _ in graph.nodes:
        require_id(id_, "the name of a node")
    return graph


FORMAT = Format(
    name="dot",
    description="DOT of Graphviz, with attributes such as key, kind and composition",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".dot", ".gv"),
)
