"""Source-to-sink paths of a composition, counted exactly and sampled without enumerating them.

Let ``down[v]`` be the number of paths from v to a sink. The paths of a composition have ranks
0 .. total-1 in document order, and the path of a given rank is found by one walk from a source to a
sink. A uniform sample of ranks is therefore a uniform sample of paths, however many there are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from dagrec.data.compositions import Composition

Path = tuple[str, ...]


def _paths_down(composition: Composition) -> dict[str, int]:
    """The number of paths from each node to a sink, as exact integers."""
    down: dict[str, int] = {}
    for node in reversed(composition.order):
        children = composition.children[node]
        down[node] = sum(down[child] for child in children) if children else 1
    return down


def _paths_up(composition: Composition) -> dict[str, int]:
    """The number of paths from a source to each node, as exact integers."""
    up: dict[str, int] = {}
    for node in composition.order:
        parents = composition.parents[node]
        up[node] = sum(up[parent] for parent in parents) if parents else 1
    return up


def count_paths(composition: Composition) -> int:
    """Return the number of source-to-sink paths, in time linear in nodes and links."""
    down = _paths_down(composition)
    return sum(down[source] for source in composition.sources)


def count_pairs(composition: Composition) -> int:
    """Return the number of (context, target) pairs over all source-to-sink paths.

    A service with parents is a target once on every path through it.
    """
    up, down = _paths_up(composition), _paths_down(composition)
    return sum(
        up[node.id] * down[node.id]
        for node in composition.nodes
        if node.is_service and composition.parents[node.id]
    )


def draw_paths(composition: Composition, limit: int, rng: random.Random) -> tuple[list[Path], int]:
    """Return all source-to-sink paths, or ``limit`` distinct ones drawn uniformly if there are more.

    The paths are tuples of node ids, sorted by rank. The second value is the number of all paths.
    """
    down = _paths_down(composition)
    total = sum(down[source] for source in composition.sources)
    ranks = range(total) if total <= limit else sorted(_draw_distinct(total, limit, rng))
    return [_path_of_rank(composition, down, rank) for rank in ranks], total


def _draw_distinct(total: int, size: int, rng: random.Random) -> set[int]:
    """Draw ``size`` distinct integers below ``total`` uniformly (Floyd's algorithm)."""
    chosen: set[int] = set()
    for top in range(total - size, total):
        pick = rng.randrange(top + 1)
        chosen.add(top if pick in chosen else pick)
    return chosen


def _path_of_rank(composition: Composition, down: dict[str, int], rank: int) -> Path:
    path: list[str] = []
    choices: tuple[str, ...] = composition.sources
    while choices:
        for node in choices:
            if rank < down[node]:
                path.append(node)
                choices = composition.children[node]
                break
            rank -= down[node]
    return tuple(path)


def longest_path(composition: Composition, at: str) -> Path:
    """Return the longest path to ``at``, as node ids. Ties are broken by document order."""
    return longest_paths(composition)(at)


def longest_paths(composition: Composition, newest: int | None = None) -> Callable[[str], Path]:
    """Return a function from a node to the longest path to it, or to the last ``newest`` nodes of it.

    The composition is traversed once, however often the function is called.
    """
    position = {node.id: i for i, node in enumerate(composition.nodes)}
    length: dict[str, int] = {}
    predecessor: dict[str, str] = {}
    for node in composition.order:
        parents = composition.parents[node]
        length[node] = 1
        if parents:
            best = min(parents, key=lambda parent: (-length[parent], position[parent]))
            length[node] = length[best] + 1
            predecessor[node] = best

    def walk_back(node: str) -> Iterator[str]:
        yield node
        while node in predecessor:
            node = predecessor[node]
            yield node

    return lambda node: tuple(islice(walk_back(node), newest))[::-1]
