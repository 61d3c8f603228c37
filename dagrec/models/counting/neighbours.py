"""Sessions of the past, and which of them are near a context: what session neighbours share.

A session is one training composition: the set of nodes that its examples show, and which service
followed which node there, how many steps on (1: the next). Both come from (context, target) pairs
alone, so a session knows nothing of its composition that is not a training example; and a composition
of many paths is still one neighbour.

A context counts its distinct known nodes, each at its last place; step 1 is the last node. A session
that shares a node with it has a similarity, and meets it in the newest node that both have. What
followed that node in the session is what the session recommends.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST, Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options, Ragged, Scores

CELLS_PER_PASS = 2_000_000
"""Similarities (contexts by sessions) in memory at a time."""
TIE = 1e-9
"""Equal similarities can differ in their last bits, by the order of a sum."""


@dataclass(frozen=True)
class Sessions:
    """S sessions in the order of the data.

    sizes: [S] nodes of each; items: [sum of sizes] their ids; degrees: [S] links of each; sources,
    services, distances: [sum of degrees] node id, service column that followed it, least steps between;
    times: [S] of the newest example, in seconds since 1970, NaN where none has one.
    """

    sizes: Ids
    items: Ids
    degrees: Ids
    sources: Ids
    services: Ids
    distances: Ids
    times: Floats

    @classmethod
    def of(cls, data: TrainingData) -> Sessions:
        """The sessions behind training examples; equal examples of one composition count once."""
        ids, columns = data.vocabulary.ids, data.vocabulary.columns
        steps: dict[int, dict[tuple[int, int], int]] = defaultdict(dict)
        times: dict[int, float] = defaultdict(lambda: np.nan)
        for e in data.examples:
            if e.context.time is not None:
                times[e.composition] = np.fmax(times[e.composition], e.context.time)
        for composition, path, target in dict.fromkeys(
            (e.composition, e.context.path, e.target) for e in data.examples
        ):
            own = steps[composition]
            for distance, key in enumerate(reversed(path), start=1):
                link = ids[key], columns[target]
                own[link] = min(distance, own.get(link, distance))
        links = [np.array([(*link, d) for link, d in own.items()]) for own in steps.values()]
        items = [np.union1d(part[:, 0], part[:, 1] + FIRST) for part in links]
        sources, services, distances = np.concatenate(links).T.copy()
        return cls(
            np.array([len(part) for part in items]),
            np.concatenate(items),
            np.array([len(part) for part in links]),
            sources,
            services,
            distances,
            np.array([times[composition] for composition in steps]),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def _nodes(self) -> int:
        return int(self.items.max(initial=0)) + 1

    @cached_property
    def _by_node(self) -> tuple[Ids, Ragged]:
        """The sessions by node; the row behind the last node is empty, for nodes of no session."""
        owner = np.repeat(np.arange(len(self)), self.sizes)
        counts = np.bincount(self.items, minlength=self._nodes + 1)
        return owner[np.argsort(self.items, kind="stable")], Ragged.of(counts)

    @cached_property
    def _by_source(self) -> tuple[Ids, Ids, Ragged]:
        """The codes of links that occur, and the links by code; the last row is empty."""
        codes = self._code(np.repeat(np.arange(len(self)), self.degrees), self.sources)
        known, counts = np.unique(codes, return_counts=True)
        return known, np.argsort(codes, kind="stable"), Ragged.of(np.append(counts, 0))

    def _code(self, sessions: Ids, sources: Ids) -> Ids:
        """One number for a session and a node; all nodes of no session are one."""
        return sessions * (self._nodes + 1) + np.minimum(sources, self._nodes)

    def holding(self, nodes: Ids) -> tuple[Ids, Ids]:
        """Each session that has one of these nodes: which of ``nodes``, and the session. [n], [n]"""
        sessions, rows = self._by_node
        places, which = rows.take(np.minimum(nodes, self._nodes))
        return which, sessions[places]

    def followers(self, sessions: Ids, sources: Ids) -> tuple[Ids, Ids, Ids]:
        """What followed each source in its session: which pair, service column, distance. [n] each"""
        known, links, rows = self._by_source
        wanted = self._code(sessions, sources)
        at = np.searchsorted(known, wanted)
        found = known[np.minimum(at, len(known) - 1)] == wanted
        places, which = rows.take(np.where(found, at, len(known)))
        return which, self.services[links[places]], self.distances[links[places]]

    def check(self, nodes: int, services: int) -> Sessions:
        """Itself, if it fits a vocabulary; raises ValueError otherwise."""
        links = (int(self.degrees.sum()),)
        fits = (
            self.sizes.shape == self.degrees.shape == self.times.shape == (len(self),)
            and self.items.shape == (int(self.sizes.sum()),)
            and self.sources.shape == self.services.shape == self.distances.shape == links
            and _within(self.items, FIRST, nodes)
            and _within(self.sources, FIRST, nodes)
            and _within(self.services, 0, services)
        )
        if not fits:
            raise ValueError("sessions that do not belong together, or a node outside the vocabulary")
        return self


class NeighbourOptions(Options):
    """What all session neighbours have to choose."""

    neighbours: int = Field(100, ge=1, description="sessions that recommend, the nearest ones")
    mu: float = Field(
        2.0,
        gt=0,
        description="weight of the services' frequencies, in recommendations of an equal session",
    )


class NeighbourRecommender(Recommender):
    """Scores what followed in the sessions nearest to a context.

        S(y) = sum over neighbours n and their links (v, y, d) with v = the node met in n, step t of c,
               of similarity(c, n) decay(t, d)
        s(y) = log( (S(y) + mu P_0(y)) / (sum S + mu) ),   P_0 the services' frequencies

    A subclass says how much a node of the context weighs, how near a session is, and the decay.
    """

    config: NeighbourOptions
    _sessions: Sessions | None = None

    @abstractmethod
    def weights(self, steps: Ids, lengths: Ids) -> Floats:
        """[n] of context nodes ``steps`` from the end (1: the last) of contexts of these lengths."""

    @abstractmethod
    def similarities(self, shared: Floats, sums: Floats, squares: Floats, sessions: Sessions) -> Floats:
        """[B, S], from the shared weight [B, S], and the sums [B] of the contexts' weights and of their
        squares. Where nothing is shared it is 0."""

    @abstractmethod
    def decay(self, steps: Ids, distances: Ids) -> Floats:
        """[n] of services ``distances`` behind a node that is ``steps`` from the context's end."""

    def _fit(self, data: TrainingData) -> None:
        self._sessions = Sessions.of(data)

    def _score(self, contexts: Contexts) -> Scores:
        sessions, prior = self._fitted(self._sessions), np.exp(self._fitted(self._prior))
        mu = self.config.mu
        probabilities = np.empty((len(contexts), len(prior)))
        at_once = max(1, CELLS_PER_PASS // len(sessions))
        for start in range(0, len(contexts), at_once):
            rows = slice(start, start + at_once)
            nodes, lengths = contexts.nodes[rows], contexts.lengths[rows]
            found = self._recommended(nodes, lengths, sessions, len(prior))
            probabilities[rows] = (found + mu * prior) / (found.sum(axis=1, keepdims=True) + mu)
        scores: Scores = np.log(probabilities).astype(np.float32)
        return scores

    def _recommended(self, nodes: Ids, lengths: Ids, sessions: Sessions, services: int) -> Floats:
        """[B, C], S(y) of these contexts."""
        batch = len(nodes)
        rows, steps = distinct(nodes, lengths)
        weights = self.weights(steps, lengths[rows])
        which, owners = sessions.holding(nodes[rows, lengths[rows] - steps])
        cells = rows[which] * len(sessions) + owners
        shared = _sums(cells, weights[which], batch * len(sessions)).reshape(batch, -1)
        met = np.zeros(shared.shape, dtype=np.int64)
        met.flat[cells] = steps[which]  # the oldest nodes come first: the newest is what stays
        sums, squares = _sums(rows, weights, batch), _sums(rows, weights**2, batch)
        near = self.similarities(shared, sums, squares, sessions)
        b, s, shares = nearest(near, self.config.neighbours)
        t = met[b, s]
        which, columns, distances = sessions.followers(s, nodes[b, lengths[b] - t])
        given = (near[b, s] * shares)[which] * self.decay(t[which], distances)
        return _sums(b[which] * services + columns, given, batch * services).reshape(batch, -1)

    def _state(self) -> State:
        sessions = self._fitted(self._sessions)
        return {field.name: getattr(sessions, field.name) for field in fields(sessions)}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        whole = {field.name: state[field.name].astype(np.int64) for field in fields(Sessions)[:-1]}
        sessions = Sessions(**whole, times=state["times"].astype(np.float64))
        self._sessions = sessions.check(len(vocabulary), len(vocabulary.services))


def distinct(nodes: Ids, lengths: Ids) -> tuple[Ids, Ids]:
    """The known nodes of each row at their last places, the oldest first: (row, steps from the end)."""
    rows, places = np.nonzero(nodes >= FIRST)
    codes = rows * (nodes.max(initial=0) + 1) + nodes[rows, places]
    # Read backwards, the first of equal codes is at the last place.
    _, backwards = np.unique(codes[::-1], return_index=True)
    kept = len(codes) - 1 - backwards
    steps = lengths[rows] - places
    kept = kept[np.argsort(-steps[kept], kind="stable")]
    return rows[kept], steps[kept]


def nearest(similarities: Floats, k: int) -> tuple[Ids, Ids, Floats]:
    """The k largest of each row that are above 0: (rows, columns, shares). [n] each

    Those that tie for the last places share them in equal parts, which is what drawing among them gives
    on average: neither names nor the order of the sessions decide. All others have a share of 1.
    """
    least = np.zeros((len(similarities), 1))
    if k < similarities.shape[1]:
        least = np.partition(similarities, -k, axis=1)[:, -k, None]
    above = similarities > least * (1 + TIE)
    tied = ~above & (similarities >= least * (1 - TIE)) & (similarities > 0)
    left, among = (k - above.sum(axis=1)), tied.sum(axis=1)
    share = np.minimum(left / np.maximum(among, 1), 1.0)
    shares = above + tied * share[:, None]
    rows, columns = np.nonzero(shares)
    return rows, columns, shares[rows, columns]


def _sums(places: Ids, amounts: Floats, size: int) -> Floats:
    """[size], the sum of the amounts at each place."""
    return np.bincount(places, amounts, minlength=size).astype(np.float64, copy=False)


def _within(ids: Ids, low: int, high: int) -> bool:
    return bool(((ids >= low) & (ids < high)).all())
