"""The DAG upstream of a frontier: its ancestors and itself, with levels, distances and reachability.

Here once for all recommenders that read graphs; many DAGs stand side by side in flat arrays, from which
those of a batch are cut without a loop over nodes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush

import numpy as np

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.vocabulary import UNKNOWN, Vocabulary
from dagrec.errors import DataError
from dagrec.types import Ids, Ragged


@dataclass(frozen=True)
class Upstream:
    """What lies upstream of one frontier.

    keys: node keys in topological order, the frontier last; parents: places of each node's parents;
    children: keys of the nodes that the frontier feeds already, sorted.
    """

    keys: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    children: tuple[str, ...]

    @classmethod
    def of(cls, context: Context) -> Upstream:
        """That of a context; a context without a composition is the chain of its path.

        Of more than ``MAX_CONTEXT_LENGTH`` nodes those nearest to the frontier are kept.
        """
        source, at = context.composition, context.at
        if source is None or at is None:
            keys = context.path[-MAX_CONTEXT_LENGTH:]
            return cls(keys, tuple((i - 1,) if i else () for i in range(len(keys))), ())
        near, seen = [at], {at}
        for node in near:  # grows while it is walked: breadth first, against the links
            for parent in source.parents[node]:
                if parent not in seen and len(near) < MAX_CONTEXT_LENGTH:
                    near.append(parent)
                    seen.add(parent)
        order = [node for node in source.order if node in seen]
        place = {node: i for i, node in enumerate(order)}
        return cls(
            tuple(source.by_id[node].key for node in order),
            tuple(tuple(place[p] for p in source.parents[node] if p in place) for node in order),
            tuple(sorted(source.by_id[child].key for child in context.children)),
        )

    @property
    def signature(self) -> Hashable:
        """Equal for contexts that have the same nodes, links and children in the same order."""
        return self.keys, self.parents, self.children

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """Of each node: links of the longest path to it from a source."""
        levels: list[int] = []
        for parents in self.parents:
            levels.append(1 + max((levels[parent] for parent in parents), default=-1))
        return tuple(levels)

    @cached_property
    def distances(self) -> tuple[dict[int, int], ...]:
        """Of each node: place of each of its ancestors -> links of the shortest path from there."""
        found: list[dict[int, int]] = []
        for parents in self.parents:
            own: dict[int, int] = {}
            for parent in parents:
                for ancestor, distance in found[parent].items():
                    if distance + 1 < own.get(ancestor, distance + 2):
                        own[ancestor] = distance + 1
                own[parent] = 1
            found.append(own)
        return tuple(found)


@dataclass(frozen=True)
class Upstreams:
    """U upstream DAGs in flat arrays; places are within each DAG.

    nodes: [N] vocabulary ids in topological order, the frontier last; levels: [N]; pairs (ancestor,
    descendant) with the distance between them, those at distance 1 being the links: [Q] each;
    children: [X] vocabulary ids.
    """

    node_rows: Ragged
    nodes: Ids
    levels: Ids
    pair_rows: Ragged
    ancestors: Ids
    descendants: Ids
    distances: Ids
    child_rows: Ragged
    children: Ids

    @classmethod
    def of(cls, dags: Sequence[Upstream], vocabulary: Vocabulary) -> Upstreams:
        ids = vocabulary.ids
        pairs = [
            (ancestor, descendant, distance)
            for dag in dags
            for descendant, own in enumerate(dag.distances)
            for ancestor, distance in own.items()
        ]
        flat = np.array(pairs, dtype=np.int64).reshape(-1, 3)
        return cls(
            Ragged.of([len(dag.keys) for dag in dags]),
            _ids(ids.get(key, UNKNOWN) for dag in dags for key in dag.keys),
            _ids(level for dag in dags for level in dag.levels),
            Ragged.of([sum(map(len, dag.distances)) for dag in dags]),
            flat[:, 0].copy(),
            flat[:, 1].copy(),
            flat[:, 2].copy(),
            Ragged.of([len(dag.children) for dag in dags]),
            _ids(ids.get(key, UNKNOWN) for dag in dags for key in dag.children),
        )

    def __len__(self) -> int:
        return len(self.node_rows.starts) - 1


def _ids(values: Iterable[int]) -> Ids:
    return np.fromiter(values, dtype=np.int64)


def linear_extension(
    order_parents: Sequence[Sequence[int]], rng: np.random.Generator | None
) -> list[int]:
    """The positions 0 .. n - 1 of nodes in an order in which every node comes after its parents.

    ``order_parents[i]`` are the positions of the parents of node i. With ``rng`` the next node is
    drawn from those whose parents have all been read, each as likely (every linear extension can come
    out, though not each as often); without, it is the first of them, so that nodes which are given in
    such an order keep it. A node that all others are upstream of comes last in either case.

    Raises :class:`DataError` when the parents form a cycle.
    """
    children: list[list[int]] = [[] for _ in order_parents]
    waiting = [len(parents) for parents in order_parents]
    for node, parents in enumerate(order_parents):
        for parent in parents:
            children[parent].append(node)
    ready = [node for node, count in enumerate(waiting) if not count]
    heapify(ready)
    order: list[int] = []
    while ready:
        order.append(node := heappop(ready) if rng is None else _drawn(ready, rng))
        for child in children[node]:
            waiting[child] -= 1
            if not waiting[child]:
                heappush(ready, child)
    if len(order) < len(order_parents):
        left = sorted(set(range(len(order_parents))) - set(order))
        raise DataError(
            f"order_parents: parents must form no cycle, found that nodes {left} wait for each other; "
            "take the parents from a checked composition",
            rule="cycle",
        )
    return order


def _drawn(ready: list[int], rng: np.random.Generator) -> int:
    """Take one of them out; their order does not matter when all are as likely."""
    at = int(rng.integers(len(ready))) if len(ready) > 1 else 0
    ready[at], ready[-1] = ready[-1], ready[at]
    return ready.pop()
