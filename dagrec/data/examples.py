"""Extraction of (context, target) examples from compositions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import Field

from dagrec.data.compositions import Composition
from dagrec.data.paths import Path, count_pairs, draw_paths, longest_paths
from dagrec.types import Options

MAX_CONTEXT_LENGTH = 128
"""The largest length of a context's path; it bounds memory and is not a hyperparameter."""


Form = Literal["paths", "links"]
"""What an example is drawn for: every step of every path, or every link."""


class ExampleOptions(Options):
    """How examples are extracted from compositions."""

    form: Form | None = Field(
        None,
        description="paths: one example for every step of every path; links: one for every link; null: "
        "the default of the data's format",
    )
    count: Literal["paths", "once"] = Field(
        "paths",
        description="paths: count every example; once: count examples of a composition that are equal "
        "in everything that a recommender can see only once",
    )
    max_paths: int = Field(
        100, ge=1, description="number of paths to draw from a composition that has more paths"
    )
    seed: int = Field(0, description="random seed for drawing paths")


class Call(NamedTuple):
    """A finished service call: the key of the service, the path of keys before it, and its start time.

    The time is in seconds since 1970, or None if it is unknown.
    """

    service: str
    path: tuple[str, ...] = ()
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What is known when the next service is predicted.

    ``path`` is a path of node keys that ends in the frontier, whose node id in ``composition`` is
    ``at``. ``time`` is the time of the prediction, in seconds since 1970. ``children`` are the ids of
    the existing children of the frontier, if they are known. ``history`` has the owner's earlier calls,
    the oldest first.
    """

    path: tuple[str, ...]
    composition: Composition | None = None
    at: str | None = None
    owner: str | None = None
    time: float | None = None
    children: tuple[str, ...] = ()
    history: tuple[Call, ...] = ()

    def upstream(self) -> tuple[str, ...]:
        """Node ids of the frontier's ancestors and the frontier, in topological order."""
        if self.composition is None or self.at is None:
            return ()
        return (*self.composition.ancestors(self.at), self.at)

    def visible(self) -> tuple[object, ...]:
        """The path, the upstream DAG and the existing children, equal where no recommender sees more.

        The time, the owner and the owner's history are left out.
        """
        if self.composition is None or self.at is None:
            return (self.path,)
        nodes = self.composition.by_id
        children = tuple((nodes[child].key, nodes[child].text) for child in self.children)
        return self.path, self.composition.upstream_digests[self.at], children


@dataclass(frozen=True, slots=True)
class Example:
    """A context and the key of the service that followed, the target.

    ``composition`` is the number of the composition in the data set, and ``node`` is the id of the
    target node in it.
    """

    context: Context
    target: str
    node: str
    composition: int

    @property
    def event(self) -> tuple[str | None, str, str, float] | None:
        """An identifier of the service call, which compositions may share; None if it has no time."""
        composition = self.context.composition
        time = composition.by_id[self.node].time if composition else None
        return None if time is None else (self.context.owner, self.target, self.node, time)


@dataclass(frozen=True)
class ExampleReport:
    """The form of the examples, and the number of all paths and pairs, and of those that were used."""

    form: Form
    paths: int
    paths_taken: int
    sampled_compositions: int
    """Number of compositions with more than ``max_paths`` paths."""
    pairs: int
    examples: int
    shortened: int
    """Number of contexts that were cut to the newest ``MAX_CONTEXT_LENGTH`` nodes."""


def extract(
    compositions: Sequence[Composition], options: ExampleOptions | None = None
) -> tuple[tuple[Example, ...], ExampleReport]:
    """Return all examples of the compositions, in order, and a report.

    Without a form, they are drawn from paths; :meth:`Dataset.examples` uses that of the data.
    """
    options = options or ExampleOptions()
    form = options.form or "paths"
    examples: list[Example] = []
    total = taken = sampled = pairs = shortened = 0
    for index, composition in enumerate(compositions):
        rng = random.Random(f"{options.seed}:{index}:{composition.id}")
        paths, num_paths = draw_paths(composition, options.max_paths, rng)
        total, taken = total + num_paths, taken + len(paths)
        sampled += num_paths > len(paths)
        pairs += count_pairs(composition)
        if form == "links":
            positions = _link_positions(composition)
        else:
            positions = _path_positions(composition, paths)
        extracted = [
            (_example(composition, index, position), len(position.path) > MAX_CONTEXT_LENGTH)
            for position in positions
        ]
        if options.count == "once":
            first = {
                (e.context.visible(), e.context.time, e.target): (e, is_cut)
                for e, is_cut in reversed(extracted)
            }
            extracted = list(first.values())[::-1]
        shortened += sum(is_cut for _, is_cut in extracted)
        examples += [example for example, _ in extracted]
    report = ExampleReport(form, total, taken, sampled, pairs, len(examples), shortened)
    return tuple(examples), report


def context_at(composition: Composition, at: str) -> Context:
    """Return the context with node ``at`` as the frontier. Its path is the longest one to ``at``."""
    return contexts_at(composition, [at])[0]


def contexts_at(composition: Composition, nodes: Sequence[str]) -> list[Context]:
    """Return the context of each of several nodes, traversing the composition once."""
    longest = longest_paths(composition, MAX_CONTEXT_LENGTH + 1)
    children = composition.children
    return [
        _context(composition, _Position(longest(node), None, children[node]), composition.time)
        for node in nodes
    ]


class _Position(NamedTuple):
    """The node ids of an example.

    path: the path to the frontier, at most one node longer than that of a context; target: the node
    that follows, if there is one; children: the existing children of the frontier.
    """

    path: Path
    target: str | None
    children: tuple[str, ...] = ()


def _path_positions(composition: Composition, paths: Sequence[Path]) -> Iterator[_Position]:
    """One position for each service on each path, except for the first node of the path."""
    for path in paths:
        for i in range(1, len(path)):
            if composition.by_id[path[i]].is_service:
                yield _Position(path[max(0, i - MAX_CONTEXT_LENGTH - 1) : i], path[i])


def _link_positions(composition: Composition) -> Iterator[_Position]:
    """One position for each link to a service, as if the links were added in document order.

    The path is the longest one to the source of the link, and the children are the targets of the
    earlier links from this source.
    """
    longest = longest_paths(composition, MAX_CONTEXT_LENGTH + 1)
    num_children: Counter[str] = Counter()
    for source, target in composition.links:
        if composition.by_id[target].is_service:
            children = composition.children[source][: num_children[source]]
            yield _Position(longest(source), target, children)
        num_children[source] += 1


def _example(composition: Composition, index: int, position: _Position) -> Example:
    assert position.target is not None
    target = composition.by_id[position.target]
    time = composition.time if target.time is None else target.time
    return Example(_context(composition, position, time), target.key, target.id, index)


def _context(composition: Composition, position: _Position, time: float | None) -> Context:
    path = tuple(composition.by_id[node].key for node in position.path[-MAX_CONTEXT_LENGTH:])
    frontier = position.path[-1]
    return Context(path, composition, frontier, composition.owner, time, position.children)
