"""Features of the owner's earlier calls: decayed counts in several caches.

    share_{m,h}(y) = sum_{j in m, s_j = y} 2^(-a_j / h) / sum_{j in m} 2^(-a_j / h)

Call j of the history has service s_j and age a_j, counted in calls: 0 is the newest. Cache m holds the
calls that match the context in one respect (``CACHES``); h is a half-life in calls. Ages count calls
and not seconds, because a request may lack times. Calls of services outside the vocabulary increase the
age of older calls but have no share.

In: a context with its history. Out: shares [M, H, C] and further features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dagrec.data.examples import Context
from dagrec.data.history import MAX_HISTORY_LENGTH
from dagrec.types import Floats, Ids, Mask

CACHES = ("any", "node", "path", "call", "calls", "path and call")
"""The caches, in this order: all calls; calls after the same last node; after the same path; after a
call of the service that was called last; after calls of the two services that were called last; after
the same path and the service that was called last."""
ANY, PATH = CACHES.index("any"), CACHES.index("path")
HALF_LIVES = (0.5, 2.0, 8.0, 32.0, np.inf)
"""Half-lives in calls, from little more than the newest call to undecayed counts."""


@dataclass(frozen=True)
class OwnerHistory:
    """The N earlier calls of a context's owner, the oldest first.

    services: [N] columns, -1 for unknown services; matches: [M, N] whether each cache holds each call;
    seconds: [N] time since each call, NaN if unknown; path_length: number of nodes of the context's
    path.
    """

    services: Ids
    matches: Mask
    seconds: Floats
    path_length: int

    @classmethod
    def of(cls, context: Context, columns: Mapping[str, int]) -> OwnerHistory:
        """Return the history of a context; ``columns``: service key -> column of the vocabulary."""
        calls, path = context.history[-MAX_HISTORY_LENGTH:], context.path
        ids: dict[str, int] = {}
        called = np.array([ids.setdefault(c.service, len(ids)) for c in calls], dtype=np.int64)
        services = np.array([columns.get(call.service, -1) for call in calls], dtype=np.int64)
        same_path = np.array([call.path == path for call in calls], dtype=np.bool_)
        same_node = np.array([call.path[-1:] == path[-1:] for call in calls], dtype=np.bool_)
        after_one, after_two = (np.zeros(len(calls), dtype=np.bool_) for _ in range(2))
        after_one[1:] = np.equal(called[:-1], called[-1:])
        after_two[2:] = after_one[2:] & np.equal(called[:-2], called[-2:-1])
        any_call = np.ones_like(same_path)
        matches = np.stack(
            [any_call, same_node, same_path, after_one, after_two, same_path & after_one]
        )
        matches[:, services < 0] = False
        now = np.nan if context.time is None else context.time
        times = np.array([np.nan if call.time is None else call.time for call in calls])
        return cls(services, matches, np.maximum(now - times.astype(np.float64), 0), len(path))

    @property
    def ages(self) -> Ids:
        """[N] number of later calls."""
        return np.arange(len(self.services) - 1, -1, -1)

    @property
    def supported(self) -> Mask:
        """[M] whether each cache holds a call; if the first does not, no known service was called."""
        return np.asarray(self.matches.any(axis=1))

    def shares(self, services: int) -> Floats:
        """Return the shares [M, H, C], which sum to 1 over C; 0 for an empty cache."""
        decay = 2.0 ** (-self.ages / np.array(HALF_LIVES)[:, None])
        weights = self.matches[:, None] * decay
        weights /= np.maximum(weights.sum(axis=2, keepdims=True), np.finfo(np.float64).tiny)
        known = np.flatnonzero(self.services >= 0)
        one_hot = np.zeros((len(self.services), services))
        one_hot[known, self.services[known]] = 1
        shares: Floats = weights @ one_hot
        return shares

    def recency(self, services: int) -> Floats:
        """Return the age of the newest call of each service [4, C]: calls and log seconds, for all
        calls and for those of the same path.

        NaN if there is no such call, or no time.
        """
        recency = np.full((4, services), np.nan)
        for row, cache in ((0, ANY), (2, PATH)):
            calls = np.flatnonzero(self.matches[cache])  # ascending, so the newest is written last
            recency[row, self.services[calls]] = self.ages[calls]
            recency[row + 1, self.services[calls]] = np.log1p(self.seconds[calls])
        return recency

    def summary(self) -> Floats:
        """Return the features [M + 6] that do not depend on the service.

        These are the number of calls in each cache; log seconds since the last call, since the last
        call after this path, and between the last two calls; the number of consecutive calls of the
        last service; the number of distinct services; and the number of nodes of the path.
        """
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
        return np.array([*self.matches.sum(axis=1), *logs, run, distinct, self.path_length])
