"""The composition graph: nodes, links, and what follows from them alone."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from dagrec.errors import DataError

if TYPE_CHECKING:
    import networkx

OnCycle = Literal["fail", "skip", "break"]
Link = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Node:
    """One use of a service (or of a table, a data set, ...) in one composition.

    ``id`` is unique in the composition; ``key`` is what the vocabulary knows it by, and may occur
    several times in a composition; ``time`` is seconds since 1970, where the source tells it.
    """

    id: str
    key: str
    kind: str = "service"
    text: str | None = None
    time: float | None = None

    @property
    def is_service(self) -> bool:
        return self.kind == "service"


@dataclass(frozen=True)
class Composition:
    """A directed acyclic graph of nodes. Use :func:`compose`, which checks, to make one."""

    id: str
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    owner: str | None = None
    time: float | None = None

    @cached_property
    def by_id(self) -> dict[str, Node]:
        return {node.id: node for node in self.nodes}

    @cached_property
    def children(self) -> dict[str, tuple[str, ...]]:
        """Node id -> ids of the nodes it feeds, in document order of the links."""
        return _neighbours(self.nodes, self.links)

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Node id -> ids of the nodes that feed it, in document order of the links."""
        return _neighbours(self.nodes, [(target, source) for source, target in self.links])

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Node ids in topological order; nodes that are ready together keep document order."""
        waiting = {node.id: len(self.parents[node.id]) for node in self.nodes}
        ready = deque(node.id for node in self.nodes if not waiting[node.id])
        order = []
        while ready:
            order.append(node := ready.popleft())
            for child in self.children[node]:
                waiting[child] -= 1
                if not waiting[child]:
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
        """Ids of all nodes from which ``at`` can be reached, without ``at``, in topological order."""
        found = {at}
        stack = [at]
        while stack:
            for parent in self.parents[stack.pop()]:
                if parent not in found:
                    found.add(parent)
                    stack.append(parent)
        return tuple(node for node in self.order if node in found and node != at)

    def to_networkx(self) -> networkx.DiGraph:
        """The composition as a directed graph, with the attributes that ``from_networkx`` reads.

        >>> import dagrec
        >>> dagrec.from_paths([["clean", "plot"]])[0].to_networkx().nodes["2"]["key"]
        'plot'
        """
        import networkx

        graph = networkx.DiGraph(id=self.id, owner=self.owner, time=self.time)
        for node in self.nodes:
            graph.add_node(node.id, key=node.key, kind=node.kind, text=node.text, time=node.time)
        graph.add_edges_from(self.links)
        return graph

    @cached_property
    def signature(self) -> str:
        """A hash that two compositions share when they have the same keys linked the same way.

        Node ids, owners, times and document order do not enter. Nodes are told apart by their key
        and, recursively, by what feeds them and then by what they feed (Weisfeiler-Lehman colours
        along the DAG, down and up again).
        """
        down: dict[str, str] = {}
        for node in self.order:
            fed_by = sorted(down[parent] for parent in self.parents[node])
            down[node] = _digest([self.by_id[node].kind, self.by_id[node].key, fed_by])
        up: dict[str, str] = {}
        for node in reversed(self.order):
            up[node] = _digest([down[node], sorted(up[child] for child in self.children[node])])
        return _digest(sorted(Counter(up.values()).items()))


def compose(
    id: str,
    nodes: Sequence[Node],
    links: Iterable[Link],
    *,
    owner: str | None = None,
    time: float | None = None,
    on_cycle: OnCycle = "fail",
) -> tuple[Composition, int]:
    """A checked composition, and how many links were dropped to break its cycles.

    Raises :class:`DataError` for a duplicate node id, a link to a node that is not there, and for a
    cycle unless ``on_cycle`` is ``break``. The same link given twice is one link.
    """
    distinct = tuple(dict.fromkeys(links))
    for fault in faults(nodes, distinct):
        raise fault
    back = _back_links(nodes, distinct)
    if back and on_cycle != "break":
        source, target = back[0]
        raise DataError(
            f"link {source!r} -> {target!r}: closes a cycle, and a composition must have none; "
            "remove it, or read with --on-cycle break (drops such links) or --on-cycle skip",
            rule="cycle",
        )
    dropped = set(back)
    kept = tuple(link for link in distinct if link not in dropped)
    return Composition(id, tuple(nodes), kept, owner, time), len(back)


def faults(nodes: Sequence[Node], links: Iterable[Link]) -> Iterator[DataError]:
    """Every duplicate node id, and every end of a link that is not there, in document order."""
    known: set[str] = set()
    for node in nodes:
        if node.id in known:
            yield DataError(
                f"node {node.id!r}: an id may occur once in a composition, found it twice; rename one",
                rule="duplicate-id",
            )
        known.add(node.id)
    for source, target in links:
        for end, id_ in (("source", source), ("target", target)):
            if id_ not in known:
                yield DataError(
                    f"link {source!r} -> {target!r}: its {end} must be the id of a node of the "
                    f"composition, found {id_!r}, which is none; add the node or drop the link",
                    rule="dangling-link",
                )


def fingerprint(compositions: Iterable[Composition]) -> str:
    """A SHA-256 over everything in the compositions, in their order."""
    total = hashlib.sha256()
    for c in compositions:
        nodes = [[n.id, n.key, n.kind, n.text, n.time] for n in c.nodes]
        total.update(json.dumps([c.id, nodes, c.links, c.owner, c.time]).encode())
    return total.hexdigest()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:24]


def _neighbours(nodes: Sequence[Node], links: Iterable[Link]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {node.id: [] for node in nodes}
    for source, target in links:
        found[source].append(target)
    return {node: tuple(others) for node, others in found.items()}


def _back_links(nodes: Sequence[Node], links: Sequence[Link]) -> list[Link]:
    """The links that close a cycle in a depth-first search: roots first, then document order."""
    children = _neighbours(nodes, links)
    fed = {target for _, target in links}
    starts = [n.id for n in nodes if n.id not in fed] + [n.id for n in nodes if n.id in fed]
    state: dict[str, Literal["open", "done"]] = {}
    back: list[Link] = []
    for start in starts:
        if start in state:
            continue
        state[start] = "open"
        stack = [(start, iter(children[start]))]
        while stack:
            node, rest = stack[-1]
            child = next(rest, None)
            if child is None:
                state[node] = "done"
                stack.pop()
            elif child not in state:
                state[child] = "open"
                stack.append((child, iter(children[child])))
            elif state[child] == "open":
                back.append((node, child))
    return back
