"""Small data sets whose correct answers are known by construction.

``World.follows`` is defined by hand instead of with the library, so that both can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import Context, Example, extract
from dagrec.training.data import TrainingData

Path = tuple[str, ...]
DAY = 86400.0


def composition(
    id: str, *paths: Sequence[str], owner: str | None = "ann", time: float | None = 0.0
) -> Composition:
    """Return a composition with the links of these paths; the keys of nodes are also their ids.

    Nodes whose keys start with ``table`` are tables; all others are services.
    """
    keys = dict.fromkeys(key for path in paths for key in path)
    nodes = [
        Node(key, key, "table" if key.startswith("table") else "service", key.replace("_", " "))
        for key in keys
    ]
    links = [link for path in paths for link in pairwise(path)]
    return compose(id, nodes, links, owner=owner, time=time)[0]


@dataclass(frozen=True)
class World:
    """Compositions, and how often each service follows each path in their examples."""

    compositions: tuple[Composition, ...]
    follows: Mapping[Path, Mapping[str, int]]

    @cached_property
    def examples(self) -> tuple[Example, ...]:
        return extract(self.compositions)[0]

    @cached_property
    def data(self) -> TrainingData:
        return TrainingData.of(self.examples)

    @property
    def contexts(self) -> list[Context]:
        """All distinct paths as contexts without a composition."""
        return [Context(path) for path in self.follows]

    @property
    def certain(self) -> dict[Path, str]:
        """The paths that only one service follows, with this service."""
        return {path: next(iter(counts)) for path, counts in self.follows.items() if len(counts) == 1}


def chain(copies: int = 3) -> World:
    """Return copies of a chain, in which each node has exactly one successor."""
    path = ("table_a", "extract", "clean", "join", "plot")
    return World(
        tuple(composition(f"chain-{i}", path, time=i * DAY) for i in range(copies)),
        {path[:i]: {path[i]: copies} for i in range(1, len(path))},
    )


def diamond() -> World:
    """Return one composition with two branches that merge: two paths from source to sink."""
    left, right = (("table_d", "split", side, "merge", "report") for side in ("left", "right"))
    return World(
        (composition("diamond", left, right, owner="bob", time=3 * DAY),),
        {
            ("table_d",): {"split": 2},
            ("table_d", "split"): {"left": 1, "right": 1},
            **{path[:i]: {path[i]: 1} for path in (left, right) for i in (3, 4)},
        },
    )


def branching() -> World:
    """Return four compositions of a table and a service, three ``often`` and one ``rarely``."""
    return World(
        tuple(
            composition(f"branching-{i}", ("table_b", service), owner="bob", time=(4 + i) * DAY)
            for i, service in enumerate(("often", "often", "rarely", "often"))
        ),
        {("table_b",): {"often": 3, "rarely": 1}},
    )


def memory(copies: int = 3) -> World:
    """Return compositions in which the service after ``hub`` depends on the node before ``hub``.

    ``hub_source`` is a service that is the target of no example.
    """
    paths = [("table_l", "hub", "west"), ("table_r", "hub", "east"), ("hub_source", "hub", "north")]
    return World(
        tuple(
            composition(f"memory-{i}-{path[0]}", path, owner="eve", time=(10 + i) * DAY)
            for i in range(copies)
            for path in paths
        ),
        {path[:i]: {path[i]: copies} for path in paths for i in (1, 2)},
    )


def checkerboard(size: int = 3) -> World:
    """Return compositions in which services follow others of the same colour, in any order.

    Only the pair (``black_0``, ``black_1``) is missing.
    """
    compositions: list[Composition] = []
    follows: dict[Path, dict[str, int]] = {}
    for colour in ("black", "white"):
        for i in range(size):
            for j in range(size):
                if i == j or (colour, i, j) == ("black", 0, 1):
                    continue
                path = (f"table_{colour}", f"{colour}_{i}", f"{colour}_{j}")
                id_, time = f"board-{'-'.join(path)}", (20 + len(compositions)) * DAY
                compositions.append(composition(id_, path, owner="joe", time=time))
                for n in (1, 2):
                    counts = follows.setdefault(path[:n], {})
                    counts[path[n]] = counts.get(path[n], 0) + 1
    return World(tuple(compositions), follows)


def everything() -> World:
    """Return all worlds together; they share no path."""
    parts = (chain(), diamond(), branching(), memory(), checkerboard())
    return World(
        tuple(c for part in parts for c in part.compositions),
        {path: counts for part in parts for path, counts in part.follows.items()},
    )


WORLDS = {
    "chain": chain(),
    "diamond": diamond(),
    "branching": branching(),
    "memory": memory(),
    "checkerboard": checkerboard(),
    "everything": everything(),
}
