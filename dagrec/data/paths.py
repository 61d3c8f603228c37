"""Source-to-sink paths of a composition: counted exactly, drawn without enumerating them.

With ``down[v]`` the number of paths from v to a sink, the paths of a composition have ranks
0 .. total-1 in document order, and the path of a rank is found by one walk from a source to a sink.
A uniform sample of paths is then a uniform sample of ranks, however many paths there are.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice

from dagrec.data.compositions import Composition

Path = tuple[str, ...]


def _paths_down(composition: Composition) -> dict[str, int]:
    """Number of paths from each node to a sink, as exact integers."""
    down: dict[str, int] = {}
    for node in reversed(composition.order):
        children = composition.children[node]
        down[node] = sum(down[child] for child in children) if children else 1
    return down


def _paths_up(composition: Composition) -> dict[str, int]:
    """Number of paths from a source to each node, as exact integers."""
    up: dict[str, int] = {}
    for node in composition.order:
        parents = composition.parents[node]
        up[node] = sum(up[parent] for parent in parents) if parents else 1
    return up


def count_paths(composition: Composition) -> int:
    """The number of source-to-sink paths, in time linear in nodes and links."""
    down = _paths_down(composition)
    return sum(down[source] for source in composition.sources)


def count_pairs(composition: Composition) -> int:
    """The number of (context, target) pairs over all source-to-sink paths.

    A service that is no source is a target once on every path through it.
    """
    up, down = _paths_up(composition), _paths_down(composition)
    return sum(
        up[node.id] * down[node.id]
        for node in composition.nodes
        if node.is_service and composition.parents[node.id]
    )


def draw_paths(composition: Composition, limit: int, rng: random.Random) -> tuple[list[Path], int]:
    """All source-to-sink paths, or ``limit`` different ones drawn uniformly where there are more.

    Returns the paths (node ids, in document order of their ranks) and the exact number there are.
    """
    down = _paths_down(composition)
    total = sum(down[source] for source in composition.sources)
    ranks = range(total) if total <= limit else sorted(_distinct(total, limit, rng))
    return [_path_of_rank(composition, down, rank) for rank in ranks], total


def _distinct(total: int, size: int, rng: random.Random) -> set[int]:
    """``size`` different integers below ``total``, uniformly (Floyd's algorithm; any size of int)."""
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
    """The longest path that ends in ``at``, as node ids; ties go to the first in document order."""
    return longest_paths(composition)(at)


def longest_paths(composition: Composition, newest: int | None = None) -> Callable[[str], Path]:
    """The function that gives the longest path to each node, or the ``newest`` nodes of it.

    All its answers share one pass over the composition.
    """
    position = {node.id: i for i, node in enumerate(composition.nodes)}
    length: dict[str, int] = {}
    before: dict[str, str] = {}
    for node in composition.order:
        parents = composition.parents[node]
        length[node] = 1
        if parents:
            best = min(parents, key=lambda parent: (-length[parent], position[parent]))
            length[node] = length[best] + 1
            before[node] = best

    def walk(at: str) -> Iterator[str]:
        yield at
        while at in before:
            at = before[at]
            yield at

    return lambda at: tuple(islice(walk(at), newest))[::-1]
