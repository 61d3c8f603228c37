"""Owners' histories: the service calls that an owner made before an example."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from dagrec.data.examples import Call, Context, Example

MAX_HISTORY_LENGTH = 256
"""The largest length of a context's history; it bounds memory and is not a hyperparameter."""


@dataclass(frozen=True)
class Histories:
    """The calls of each owner and their times, the oldest first."""

    calls: dict[str, tuple[Call, ...]]
    times: dict[str, tuple[float, ...]]

    @classmethod
    def of(cls, examples: Iterable[Example]) -> Histories:
        """The calls of all examples that have an owner and a time.

        A call that several examples share counts once, with the path of the first of these examples.
        This happens if compositions share a node.
        """
        calls_of: dict[str, dict[object, Call]] = defaultdict(dict)
        for example in examples:
            context = example.context
            if context.owner is not None and context.time is not None:
                key = example.event or (example.composition, example.node)
                call = Call(example.target, context.path, context.time)
                calls_of[context.owner].setdefault(key, call)
        ordered = {
            owner: sorted(calls.values(), key=lambda call: call.time or 0.0)
            for owner, calls in calls_of.items()
        }
        return cls(
            {owner: tuple(calls) for owner, calls in ordered.items()},
            {owner: tuple(call.time or 0.0 for call in calls) for owner, calls in ordered.items()},
        )

    def before(self, owner: str | None, time: float | None) -> tuple[Call, ...]:
        """The owner's calls before ``time``, the oldest first; empty for an unknown owner."""
        if owner is None or time is None or owner not in self.calls:
            return ()
        end = bisect_left(self.times[owner], time)
        return self.calls[owner][max(0, end - MAX_HISTORY_LENGTH) : end]

    def with_history(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        """The examples, each with the history of its owner up to its time."""
        return tuple(replace(e, context=self._context(e.context)) for e in examples)

    def _context(self, context: Context) -> Context:
        history = self.before(context.owner, context.time)
        return replace(context, history=history) if history != context.history else context
