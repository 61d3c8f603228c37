"""What an owner did before a question, as numbers: caches of earlier calls.

    share_{m,h}(y) = sum_{j in m, s_j = y} 2^(-a_j / h) / sum_{j in m} 2^(-a_j / h)

Call j of the history has the service s_j and is a_j calls old: 0 is the newest. A cache m keeps the
calls that are like the question in one way (``CACHES``); h is a half-life in calls. Ages count calls
and not seconds, because a request may tell no times. Calls of services that are not in the vocabulary
age the others, but have no share.

In: a context with its history. Out: shares [M, H, C] and a few numbers beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dagrec.data.examples import Context
from dagrec.data.history import MAX_HISTORY_LENGTH
from dagrec.types import Floats, Ids, Mask

CACHES = ("any", "node", "path", "call", "calls", "path and call")
"""Calls that came: ever; after the same node; after the same path; after the call that is the last one
now; after the last two; after the same path and the last call."""
ANY, PATH = CACHES.index("any"), CACHES.index("path")
HALF_LIVES = (0.5, 2.0, 8.0, 32.0, np.inf)
"""In calls: from almost the last one alone to plain counts."""


@dataclass(frozen=True)
class Past:
    """The calls before a question, the oldest first.

    services: [N] columns, -1 where not known; matches: [M, N] which calls each cache keeps; seconds:
    [N] how long ago they were, NaN where not known; path: how many nodes the question's path has.
    """

    services: Ids
    matches: Mask
    seconds: Floats
    path: int

    @classmethod
    def of(cls, context: Context, columns: Mapping[str, int]) -> Past:
        """The history of a context; ``columns`` are those of the vocabulary."""
        calls, path = context.history[-MAX_HISTORY_LENGTH:], context.path
        numbers: dict[str, int] = {}
        called = np.array([numbers.setdefault(c.service, len(numbers)) for c in calls], dtype=np.int64)
        services = np.array([columns.get(call.service, -1) for call in calls], dtype=np.int64)
        same_path = np.array([call.path == path for call in calls], dtype=np.bool_)
        same_node = np.array([call.path[-1:] == path[-1:] for call in calls], dtype=np.bool_)
        after_one, after_two = (np.zeros(len(calls), dtype=np.bool_) for _ in range(2))
        after_one[1:] = np.equal(called[:-1], called[-1:])
        after_two[2:] = after_one[2:] & np.equal(called[:-2], called[-2:-1])
        kept = (np.ones_like(same_path), same_node, same_path, after_one, after_two)
        matches = np.stack([*kept, same_path & after_one])
        matches[:, services < 0] = False
        now = np.nan if context.time is None else context.time
        times = np.array([np.nan if call.time is None else call.time for call in calls])
        return cls(services, matches, np.maximum(now - times.astype(np.float64), 0), len(path))

    @property
    def ages(self) -> Ids:
        """[N] calls since."""
        return np.arange(len(self.services) - 1, -1, -1)

    @property
    def supported(self) -> Mask:
        """[M] whether a cache keeps any call; where the first does not, nothing is told."""
        return np.asarray(self.matches.any(axis=1))

    def shares(self, services: int) -> Floats:
        """[M, H, C] adding up to 1 over C, or 0 where a cache is empty."""
        decay = 2.0 ** (-self.ages / np.array(HALF_LIVES)[:, None])
        weights = self.matches[:, None] * decay
        weights /= np.maximum(weights.sum(axis=2, keepdims=True), np.finfo(np.float64).tiny)
        known = np.flatnonzero(self.services >= 0)
        one_hot = np.zeros((len(self.services), services))
        one_hot[known, self.services[known]] = 1
        found: Floats = weights @ one_hot
        return found

    def recency(self, services: int) -> Floats:
        """[4, C] calls and log seconds since the newest call of each service: of any, of the same path.

        NaN where there is none, or no time.
        """
        found = np.full((4, services), np.nan)
        for row, cache in ((0, ANY), (2, PATH)):
            kept = np.flatnonzero(self.matches[cache])  # ascending: the newest is written last
            found[row, self.services[kept]] = self.ages[kept]
            found[row + 1, self.services[kept]] = np.log1p(self.seconds[kept])
        return found

    def summary(self) -> Floats:
        """[M + 6] what is the same for all services: calls in each cache; log seconds since the last
        call, since the last of this path, and between the last two; calls since another service was
        called; distinct services; nodes of the path."""
        last = self.services[-1:]
        others = np.flatnonzero(self.services != last)
        run = len(self.services) - 1 - others[-1] if len(others) else len(self.services)
        on_path = self.seconds[self.matches[PATH]]
        gaps = [
            self.seconds[-1],
            on_path[-1] if len(on_path) else np.nan,
            self.seconds[-2] - self.seconds[-1] if len(self.seconds) > 1 else np.nan,
        ]
        distinct = len(np.unique(self.services))
        logs = np.log1p(np.maximum(gaps, 0))
        return np.array([*self.matches.sum(axis=1), *logs, run, distinct, self.path])
