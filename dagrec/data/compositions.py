"""Compositions: directed acyclic graphs of nodes and links."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from dagrec.errors import DataError

if TYPE_CHECKING:
    import networkx

OnCycle = Literal["fail", "skip", "break"]
Link = tuple[str, str]
"""The ids of the source and the target of a link."""

MAX_KEY_LENGTH = 1000
"""The largest number of characters of a key or an id."""
MAX_TEXT_LENGTH = 10_000
"""The largest number of characters of a text or a goal; readers cut longer ones."""


class Wire(NamedTuple):
    """A link with the output of its source and the input of its target, where they are known."""

    source: str
    target: str
    output: str | None = None
    input: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One use of a service (or of a table, a data set, ...) in one composition.

    ``id`` is unique in the composition. ``key`` identifies the service across compositions, and several
    nodes of a composition can have the same key. ``text`` is what the user wrote on the node, and
    ``operation`` what the service was set to do. ``time`` is in seconds since 1970, or None.
    """

    id: str
    key: str
    kind: str = "service"
    text: str | None = None
    time: float | None = None
    operation: str | None = None

    @property
    def is_service(self) -> bool:
        return self.kind == "service"


@dataclass(frozen=True)
class Composition:
    """A directed acyclic graph of nodes. Create it with :func:`compose`, which validates it.

    ``goal`` is the title or description of what the user builds. ``wires`` are the links with a known
    output or input; a link through several ports has several wires.
    """

    id: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    owner: str | None = None
    time: float | None = None
    goal: str | None = None
    wires: tuple[Wire, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """Node id -> ids of its children, in document order of the links."""
        return _neighbours(self.nodes, self.links)

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Node id -> ids of its parents, in document order of the links."""
        return _neighbours(self.nodes, [(target, source) for source, target in self.links])

    @cached_property
    def ports(self) -> dict[Link, tuple[Wire, ...]]:
        """Link -> its wires, for links with a known output or input."""
        ports: dict[Link, tuple[Wire, ...]] = {}
        for wire in self.wires:
            link = (wire.source, wire.target)
            ports[link] = (*ports.get(link, ()), wire)
        return ports

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Node ids in topological order (Kahn's algorithm), with ties in document order."""
        missing_parents = {node.id: len(self.parents[node.id]) for node in self.nodes}
        ready = deque(node.id for node in self.nodes if not missing_parents[node.id])
        order = []
        while ready:
            order.append(node := ready.popleft())
            for child in self.children[node]:
                missing_parents[child] -= 1
                if not missing_parents[child]:
                    ready.append(child)
        return tuple(order)

    @cached_property
    def service_keys(self) -> frozenset[str]:
        return frozenset(node.key for node in self.nodes if node.is_service)

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(node.id for node in self.nodes if not self.parents[node.id])

    @property
    def sinks(self) -> tuple[str, ...]:
        return tuple(node.id for node in self.nodes if not self.children[node.id])

    def ancestors(self, at: str) -> tuple[str, ...]:
        """Return the ids of all ancestors of node ``at``, without itself, in topological order."""
        visited = {at}
        stack = [at]
        while stack:
            for parent in self.parents[stack.pop()]:
                if parent not in visited:
                    visited.add(parent)
                    stack.append(parent)
        return tuple(node for node in self.order if node in visited and node != at)

    def to_networkx(self) -> networkx.DiGraph:
        """Return the composition as a networkx graph with the attributes that ``from_networkx`` reads.

        It is a ``MultiDiGraph`` if a link has several wires.

        >>> import dagrec
        >>> dagrec.from_paths([["clean", "plot"]])[0].to_networkx().nodes["2"]["key"]
        'plot'
        """
        import networkx

        parallel = len(self.ports) < len(self.wires)
        kind = networkx.MultiDiGraph if parallel else networkx.DiGraph
        about = {"id": self.id, "owner": self.owner, "time": self.time, "goal": self.goal}
        graph = kind(**about)
        for node in self.nodes:
            attributes = {"key": node.key, "kind": node.kind, "text": node.text, "time": node.time}
            graph.add_node(node.id, **attributes, operation=node.operation)
        for source, target in self.links:
            for wire in self.ports.get((source, target), (Wire(source, target),)):
                names = {"output": wire.output, "input": wire.input}
                present = {name: port for name, port in names.items() if port is not None}
                graph.add_edge(source, target, **present)
        return graph

    @cached_property
    def upstream_digests(self) -> dict[str, str]:
        """Node id -> a hash of the node and all its ancestors, with everything but ids and times."""
        digests: dict[str, str] = {}
        for id_ in self.order:
            node = self.by_id[id_]
            about = [node.kind, node.key, node.text, node.operation]
            parents = sorted(
                _digest([digests[parent], [wire[2:] for wire in self.ports.get((parent, id_), ())]])
                for parent in self.parents[id_]
            )
            digests[id_] = _digest([about, parents])
        return digests

    @cached_property
    def signature(self) -> str:
        """A hash of the keys and links that is equal for compositions with the same structure.

        It does not depend on node ids, owners, times or document order. Nodes are distinguished by
        their kind and key and, recursively, by their parents and then by their children
        (Weisfeiler-Lehman colours, first down and then up the DAG).
        """
        down: dict[str, str] = {}
        for node in self.order:
            parents = sorted(down[parent] for parent in self.parents[node])
            down[node] = _digest([self.by_id[node].kind, self.by_id[node].key, parents])
        up: dict[str, str] = {}
        for node in reversed(self.order):
            children = sorted(up[child] for child in self.children[node])
            up[node] = _digest([down[node], children])
        return _digest(sorted(Counter(up.values()).items()))


def compose(
    id: str,
    nodes: Sequence[Node],
    links: Iterable[Link | Wire],
    *,
    owner: str | None = None,
    time: float | None = None,
    goal: str | None = None,
    on_cycle: OnCycle = "fail",
) -> tuple[Composition, int]:
    """Return a valid composition and the number of links that were dropped to break cycles.

    Duplicate links and wires are merged. Raises :class:`DataError` for a duplicate node id, a link to
    a missing node, and for a cycle unless ``on_cycle`` is ``break``.
    """
    wires = tuple(dict.fromkeys(link if isinstance(link, Wire) else Wire(*link) for link in links))
    distinct: tuple[Link, ...] = tuple(dict.fromkeys(wire[:2] for wire in wires))
    for error in find_errors(nodes, distinct):
        raise error
    back_links = _back_links(nodes, distinct)
    if back_links and on_cycle != "break":
        source, target = back_links[0]
        raise DataError(
            f"link {source!r} -> {target!r}: closes a cycle, and a composition must have none; "
            "remove it, or read with --on-cycle break (drops such links) or --on-cycle skip",
            rule="cycle",
        )
    dropped = set(back_links)
    acyclic = tuple(link for link in distinct if link not in dropped)
    named = tuple(
        wire
        for wire in wires
        if (wire.output is not None or wire.input is not None) and wire[:2] not in dropped
    )
    return Composition(id, tuple(nodes), acyclic, owner, time, goal, named), len(back_links)


def find_errors(nodes: Sequence[Node], links: Collection[Link]) -> Iterator[DataError]:
    """Yield an error for each duplicate node id and each missing end of a link, in document order."""
    ids = {node.id for node in nodes}
    if len(ids) == len(nodes) and all(source in ids and target in ids for source, target in links):
        return
    ids = set()
    for node in nodes:
        if node.id in ids:
            yield DataError(
                f"node {node.id!r}: an id may occur once in a composition, found it twice; rename one",
                rule="duplicate-id",
            )
        ids.add(node.id)
    for source, target in links:
        for end, id_ in (("source", source), ("target", target)):
            if id_ not in ids:
                yield DataError(
                    f"link {source!r} -> {target!r}: its {end} must be the id of a node of the "
                    f"composition, found {id_!r}, which does not exist; add the node or drop the link",
                    rule="dangling-link",
                )


def fingerprint(compositions: Iterable[Composition]) -> str:
    """Return a SHA-256 over everything in the compositions, in their order."""
    digest = hashlib.sha256()
    for c in compositions:
        nodes = [[n.id, n.key, n.kind, n.text, n.time] for n in c.nodes]
        about: list[object] = [c.id, nodes, c.links, c.owner, c.time]
        operations = [n.operation for n in c.nodes]
        if c.goal is not None or c.wires or any(operations):
            about += [c.goal, c.wires, operations]
        digest.update(json.dumps(about).encode())
    return digest.hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


def _neighbours(nodes: Sequence[Node], links: Iterable[Link]) -> dict[str, tuple[str, ...]]:
    neighbours: dict[str, list[str]] = {node.id: [] for node in nodes}
    for source, target in links:
        neighbours[source].append(target)
    return {node: tuple(others) for node, others in neighbours.items()}


def _back_links(nodes: Sequence[Node], links: Sequence[Link]) -> list[Link]:
    """Find the links that close a cycle, the back edges of a depth-first search.

    The search starts from the sources, then from the other nodes, each in document order.
    """
    children = _neighbours(nodes, links)
    targets = {target for _, target in links}
    starts = [n.id for n in nodes if n.id not in targets] + [n.id for n in nodes if n.id in targets]
    state: dict[str, Literal["on stack", "done"]] = {}
    back_links: list[Link] = []
    for start in starts:
        if start in state:
            continue
        state[start] = "on stack"
        stack = [(start, iter(children[start]))]
        while stack:
            node, remaining = stack[-1]
            child = next(remaining, None)
            if child is None:
                state[node] = "done"
                stack.pop()
            elif child not in state:
                state[child] = "on stack"
                stack.append((child, iter(children[child])))
            elif state[child] == "on stack":
                back_links.append((node, child))
    return back_links
