"""Compositions into (context, target) examples: what was known, and which service came next."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import Field

from dagrec.data.compositions import Composition
from dagrec.data.paths import Path, count_pairs, draw_paths, longest_paths
from dagrec.errors import DataError
from dagrec.types import Options

MAX_CONTEXT_LENGTH = 128
"""Nodes of a path that a context keeps, the newest; a bound on memory, not a hyperparameter."""


class ExampleOptions(Options):
    """How examples are drawn from compositions."""

    form: Literal["paths", "links"] = Field(
        "paths", description="paths: every step of every path; links: every link once"
    )
    count: Literal["paths", "once"] = Field(
        "paths", description="once: equal pairs of one composition count once"
    )
    max_paths: int = Field(
        100, ge=1, description="paths drawn uniformly from a composition that has more"
    )
    seed: int = Field(0, description="seed of that drawing")


class Call(NamedTuple):
    """A service call that is over: key of the service, path of keys before it, and when it began, in
    seconds since 1970, where that is known."""

    service: str
    path: tuple[str, ...] = ()
    time: float | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """What is known at the moment when the next service is asked for.

    ``path`` holds node keys, the oldest first; its last is the frontier, whose node id in
    ``composition`` is ``at``. ``time`` is that of the question, in seconds since 1970. ``children``
    are the ids of the nodes that the frontier feeds already, where that is known. ``history`` is what
    the owner did before, the oldest first.
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


@dataclass(frozen=True, slots=True)
class Example:
    """A context, and the key of the service that came next.

    ``composition`` counts the compositions of the data set; ``node`` is the target's id there.
    """

    context: Context
    target: str
    node: str
    composition: int

    @property
    def event(self) -> tuple[str | None, str, str, float] | None:
        """The service call behind it, which several compositions may share; None without a time."""
        source = self.context.composition
        time = source.by_id[self.node].time if source else None
        return None if time is None else (self.context.owner, self.target, self.node, time)


@dataclass(frozen=True)
class ExampleReport:
    """How many paths and pairs there are, and how many were taken."""

    paths: int
    paths_taken: int
    sampled_compositions: int
    """Compositions with more than ``max_paths`` paths."""
    pairs: int
    examples: int
    shortened: int
    """Contexts of which only the newest ``MAX_CONTEXT_LENGTH`` nodes were kept."""


def extract(
    compositions: Sequence[Composition], options: ExampleOptions | None = None
) -> tuple[tuple[Example, ...], ExampleReport]:
    """All examples of the compositions, in their order, and the counts behind them."""
    options = options or ExampleOptions()
    examples: list[Example] = []
    total = taken = sampled = pairs = shortened = 0
    for index, composition in enumerate(compositions):
        rng = random.Random(f"{options.seed}:{index}:{composition.id}")
        paths, exact = draw_paths(composition, options.max_paths, rng)
        total, taken = total + exact, taken + len(paths)
        sampled += exact > len(paths)
        pairs += count_pairs(composition)
        steps = _of_links(composition) if options.form == "links" else _of_paths(composition, paths)
        found = [
            (_example(composition, index, step), len(step.before) > MAX_CONTEXT_LENGTH)
            for step in steps
        ]
        if options.count == "once":
            first = {(e.context.path, e.target): (e, cut) for e, cut in reversed(found)}
            found = list(first.values())[::-1]
        shortened += sum(cut for _, cut in found)
        examples += [example for example, _ in found]
    report = ExampleReport(total, taken, sampled, pairs, len(examples), shortened)
    return tuple(examples), report


def require_examples(
    compositions: Sequence[Composition], options: ExampleOptions | None = None
) -> tuple[tuple[Example, ...], ExampleReport]:
    """:func:`extract`, with a :class:`DataError` where there is nothing to learn from."""
    examples, report = extract(compositions, options)
    if not examples:
        raise DataError(
            f"learning needs compositions in which a service follows a node, found none among "
            f"{len(compositions)}; see `dagrec inspect`",
            rule="no-examples",
        )
    return examples, report


def context_at(composition: Composition, at: str) -> Context:
    """The context in which the next service after node ``at`` is asked for: the longest path to it."""
    return contexts_at(composition, [at])[0]


def contexts_at(composition: Composition, nodes: Sequence[str]) -> list[Context]:
    """The context of each of several nodes; all share one pass over the composition."""
    longest = longest_paths(composition, MAX_CONTEXT_LENGTH + 1)
    children = composition.children
    return [
        _context(composition, _Step(longest(node), None, children[node]), composition.time)
        for node in nodes
    ]


class _Step(NamedTuple):
    """Node ids: the path before (one more than a context keeps, at most), the target, the children."""

    before: Path
    target: str | None
    children: tuple[str, ...] = ()


def _of_paths(composition: Composition, paths: Sequence[Path]) -> Iterator[_Step]:
    """Each service of each path but its first node."""
    for path in paths:
        for i in range(1, len(path)):
            if composition.by_id[path[i]].is_service:
                yield _Step(path[max(0, i - MAX_CONTEXT_LENGTH - 1) : i], path[i])


def _of_links(composition: Composition) -> Iterator[_Step]:
    """Each link to a service, as an editor sees it: the longest path to its source, and the children
    that the source has already, which are those before the target in document order."""
    longest = longest_paths(composition, MAX_CONTEXT_LENGTH + 1)
    seen: Counter[str] = Counter()
    for source, target in composition.links:
        if composition.by_id[target].is_service:
            yield _Step(longest(source), target, composition.children[source][: seen[source]])
        seen[source] += 1


def _example(composition: Composition, index: int, step: _Step) -> Example:
    assert step.target is not None
    target = composition.by_id[step.target]
    time = composition.time if target.time is None else target.time
    return Example(_context(composition, step, time), target.key, target.id, index)


def _context(composition: Composition, step: _Step, time: float | None) -> Context:
    path = tuple(composition.by_id[node].key for node in step.before[-MAX_CONTEXT_LENGTH:])
    at = step.before[-1]
    return Context(path, composition, at, composition.owner, time, step.children)
