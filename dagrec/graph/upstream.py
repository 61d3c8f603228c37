"""The DAG upstream of a frontier: its ancestors and itself, with levels, distances and reachability.

All recommenders that read graphs use it. Many DAGs are stored in flat arrays, from which those of a
batch are gathered without a loop over nodes.
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
    """The DAG upstream of one frontier.

    keys: node keys in topological order, the frontier last; parents: positions of the parents of each
    node; children: sorted keys of the existing children of the frontier.
    """

    keys: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    children: tuple[str, ...]

    @classmethod
    def of(cls, context: Context) -> Upstream:
        """The upstream DAG of a context; without a composition it is the chain of the context's path.

        If there are more than ``MAX_CONTEXT_LENGTH`` nodes, those closest to the frontier are kept.
        """
        composition, frontier = context.composition, context.at
        if composition is None or frontier is None:
            keys = context.path[-MAX_CONTEXT_LENGTH:]
            return cls(keys, tuple((i - 1,) if i else () for i in range(len(keys))), ())
        queue, visited = [frontier], {frontier}
        for node in queue:  # a breadth-first search along the parents, which extends the queue
            for parent in composition.parents[node]:
                if parent not in visited and len(queue) < MAX_CONTEXT_LENGTH:
                    queue.append(parent)
                    visited.add(parent)
        order = [node for node in composition.order if node in visited]
        position = {node: i for i, node in enumerate(order)}
        return cls(
            tuple(composition.by_id[node].key for node in order),
            tuple(
                tuple(position[p] for p in composition.parents[node] if p in position) for node in order
            ),
            tuple(sorted(composition.by_id[child].key for child in context.children)),
        )

    @property
    def signature(self) -> Hashable:
        """A key that is equal for DAGs with the same nodes, links and children in the same order."""
        return self.keys, self.parents, self.children

    @cached_property
    def levels(self) -> tuple[int, ...]:
        """The level of each node: the number of links on the longest path to it from a source."""
        levels: list[int] = []
        for parents in self.parents:
            levels.append(1 + max((levels[parent] for parent in parents), default=-1))
        return tuple(levels)

    @cached_property
    def distances(self) -> tuple[dict[int, int], ...]:
        """For each node: position of an ancestor -> number of links on the shortest path from it."""
        distances: list[dict[int, int]] = []
        for parents in self.parents:
            to_node: dict[int, int] = {}
            for parent in parents:
                for ancestor, distance in distances[parent].items():
                    if distance + 1 < to_node.get(ancestor, distance + 2):
                        to_node[ancestor] = distance + 1
                to_node[parent] = 1
            distances.append(to_node)
        return tuple(distances)


@dataclass(frozen=True)
class Upstreams:
    """U upstream DAGs in flat arrays.

    nodes: [N] node ids in topological order, the frontier of each DAG last; levels: [N]; ancestors,
    descendants, distances: [Q] the pairs of a node and its ancestor, as positions within the DAG, and
    the distance between them (a pair at distance 1 is a link); children: [X] node ids of the existing
    children of the frontiers.
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
            for descendant, distances in enumerate(dag.distances)
            for ancestor, distance in distances.items()
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
    """Return the nodes 0 .. n - 1 in an order in which every node comes after its parents.

    ``order_parents[i]`` lists the parents of node i. With ``rng``, the next node is drawn uniformly
    from those whose parents are all in the order already; every linear extension is possible, but they
    are not equally likely. Without it, the next node is the smallest of them, so that nodes that are
    numbered in topological order keep their order. In both cases a node that is a descendant of all
    others comes last.

    Raises :class:`DataError` if the parents form a cycle.
    """
    children: list[list[int]] = [[] for _ in order_parents]
    missing_parents = [len(parents) for parents in order_parents]
    for node, parents in enumerate(order_parents):
        for parent in parents:
            children[parent].append(node)
    ready = [node for node, count in enumerate(missing_parents) if not count]
    heapify(ready)
    order: list[int] = []
    while ready:
        order.append(node := heappop(ready) if rng is None else _pop_random(ready, rng))
        for child in children[node]:
            missing_parents[child] -= 1
            if not missing_parents[child]:
                heappush(ready, child)
    if len(order) < len(order_parents):
        in_cycle = sorted(set(range(len(order_parents))) - set(order))
        raise DataError(
            f"order_parents: parents must not form a cycle, found one among or above nodes {in_cycle}; "
            "take the parents from a checked composition",
            rule="cycle",
        )
    return order


def _pop_random(ready: list[int], rng: np.random.Generator) -> int:
    """Remove and return a random element; the order of the others is not preserved."""
    i = int(rng.integers(len(ready))) if len(ready) > 1 else 0
    ready[i], ready[-1] = ready[-1], ready[i]
    return ready.pop()
