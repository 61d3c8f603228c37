"""Small graphs in a one-line notation, and hypothesis strategies for random graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Link, Node, compose


def links_of(text: str) -> list[Link]:
    """Parse links in the notation ``"a>b b>c"``."""
    return [(source, target) for source, _, target in (word.partition(">") for word in text.split())]


def dag(nodes: str, links: str = "", **options: Any) -> Composition:
    """A composition from node ids; ``t...`` is a table, and ``x:key`` is a node x with another key."""
    parsed = []
    for word in nodes.split():
        id_, _, key = word.partition(":")
        parsed.append(Node(id_, key or id_, "table" if id_.startswith("t") else "service"))
    return compose(options.pop("id", "dag"), parsed, links_of(links), **options)[0]


def chain(length: int) -> Composition:
    nodes = [Node(str(i), f"service_{i}") for i in range(length)]
    return compose("chain", nodes, [(str(i), str(i + 1)) for i in range(length - 1)])[0]


def diamonds(count: int) -> Composition:
    """``count`` diamonds in a row, with 2 ** count paths from the source to the sink."""
    names = ["0"]
    links: list[Link] = []
    for i in range(count):
        start, left, right, end = str(i), f"{i}l", f"{i}r", str(i + 1)
        names += [left, right, end]
        links += [(start, left), (start, right), (left, end), (right, end)]
    return compose("diamonds", [Node(name, f"service_{name}") for name in names], links)[0]


@st.composite
def graphs(
    draw: st.DrawFn, *, acyclic: bool = True, max_nodes: int = 7
) -> tuple[list[Node], list[Link]]:
    """Nodes in random document order, with few keys so that some recur, and links in random order."""
    size = draw(st.integers(1, max_nodes))
    pairs = [(i, j) for i in range(size) for j in range(size) if i < j or not acyclic]
    links = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3 * size)) if pairs else []
    keys = draw(st.lists(st.sampled_from("pqr"), min_size=size, max_size=size))
    kinds = draw(st.lists(st.sampled_from(["service", "table"]), min_size=size, max_size=size))
    order = draw(st.permutations(range(size)))
    nodes = [Node(f"n{i}", f"{kinds[i]}_{keys[i]}", kinds[i]) for i in order]
    return nodes, [(f"n{i}", f"n{j}") for i, j in links]


def dags(max_nodes: int = 7) -> st.SearchStrategy[Composition]:
    return graphs(max_nodes=max_nodes).map(lambda graph: compose("drawn", *graph)[0])


def all_paths(composition: Composition) -> list[tuple[str, ...]]:
    """All source-to-sink paths in document order, by enumeration."""

    def extend(path: tuple[str, ...]) -> list[tuple[str, ...]]:
        children = composition.children[path[-1]]
        return [p for child in children for p in extend((*path, child))] if children else [path]

    return [path for source in composition.sources for path in extend((source,))]


def relabelled(
    composition: Composition, order: Sequence[int], links: Sequence[int], prefix: str
) -> Composition:
    """The same structure with other ids and another document order of nodes and links."""
    nodes = [composition.nodes[i] for i in order]
    return compose(
        f"{prefix}{composition.id}",
        [Node(prefix + node.id, node.key, node.kind) for node in nodes],
        [(prefix + a, prefix + b) for a, b in (composition.links[i] for i in links)],
        owner=prefix,
        time=1.0,
    )[0]
