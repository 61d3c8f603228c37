"""Training compositions as sessions, and the nearest of them to a context: the base of session kNN.

A session is one training composition: the set of the nodes in its examples, and for each node the
services that followed it and at which distance in steps (1: the next). Both are derived from (context,
target) pairs, so a session contains nothing of its composition that is not a training example, and a
composition with many paths is one session.

A context is the set of its distinct known nodes. The position of a node is its last occurrence, in
steps from the end of the path (1: the last node). A session is a candidate neighbour if it shares a
node with the context. The newest shared node is the match: a neighbour recommends the services that
followed the match in the session.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST_SERVICE, Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options, Ragged, Scores

SIMILARITIES_PER_PASS = 2_000_000
"""Number of similarities (contexts times sessions) in memory at a time."""
TIE_TOLERANCE = 1e-9
"""Relative tolerance for equal similarities, which can differ by rounding."""


@dataclass(frozen=True)
class Sessions:
    """S sessions in the order of the data.

    sizes: [S] number of nodes; items: [sum of sizes] node ids; degrees: [S] number of links; sources,
    services, distances: [sum of degrees] node id, column of the service that followed it, and the
    smallest number of steps between them; times: [S] time of the newest example in seconds since 1970,
    NaN if no example has one.
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
        """Return the sessions of training examples; equal examples of a composition count once."""
        ids, columns = data.vocabulary.ids, data.vocabulary.columns
        distances: dict[int, dict[tuple[int, int], int]] = defaultdict(dict)
        times: dict[int, float] = defaultdict(lambda: np.nan)
        for e in data.examples:
            if e.context.time is not None:
                times[e.composition] = np.fmax(times[e.composition], e.context.time)
        for composition, path, target in dict.fromkeys(
            (e.composition, e.context.path, e.target) for e in data.examples
        ):
            links = distances[composition]
            for distance, key in enumerate(reversed(path), start=1):
                link = ids[key], columns[target]
                links[link] = min(distance, links.get(link, distance))
        rows = [np.array([(*link, d) for link, d in links.items()]) for links in distances.values()]
        items = [np.union1d(part[:, 0], part[:, 1] + FIRST_SERVICE) for part in rows]
        sources, services, steps = np.concatenate(rows).T.copy()
        return cls(
            np.array([len(part) for part in items]),
            np.concatenate(items),
            np.array([len(part) for part in rows]),
            sources,
            services,
            steps,
            np.array([times[composition] for composition in distances]),
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def _nodes(self) -> int:
        return int(self.items.max(initial=0)) + 1

    @cached_property
    def _by_node(self) -> tuple[Ids, Ragged]:
        """The sessions of each node; an empty last row serves nodes that are in no session."""
        sessions = np.repeat(np.arange(len(self)), self.sizes)
        counts = np.bincount(self.items, minlength=self._nodes + 1)
        return sessions[np.argsort(self.items, kind="stable")], Ragged.of(counts)

    @cached_property
    def _by_source(self) -> tuple[Ids, Ids, Ragged]:
        """The sorted codes of (session, source), and the links of each code; the last row is empty."""
        codes = self._code(np.repeat(np.arange(len(self)), self.degrees), self.sources)
        unique, counts = np.unique(codes, return_counts=True)
        return unique, np.argsort(codes, kind="stable"), Ragged.of(np.append(counts, 0))

    def _code(self, sessions: Ids, sources: Ids) -> Ids:
        """Return one number for each (session, node); all nodes that are in no session share one."""
        return sessions * (self._nodes + 1) + np.minimum(sources, self._nodes)

    def containing(self, nodes: Ids) -> tuple[Ids, Ids]:
        """Return all pairs (index into ``nodes``, session that contains this node): [n] each."""
        sessions, rows = self._by_node
        positions, indices = rows.take(np.minimum(nodes, self._nodes))
        return indices, sessions[positions]

    def followers(self, sessions: Ids, sources: Ids) -> tuple[Ids, Ids, Ids]:
        """Return what followed each source in its session: [n] pair index, service column, distance."""
        unique, links, rows = self._by_source
        codes = self._code(sessions, sources)
        positions = np.searchsorted(unique, codes)
        exists = unique[np.minimum(positions, len(unique) - 1)] == codes
        places, indices = rows.take(np.where(exists, positions, len(unique)))
        return indices, self.services[links[places]], self.distances[links[places]]

    def validated(self, nodes: int, services: int) -> Sessions:
        """Return self. Raises ValueError if it does not fit a vocabulary of this size."""
        links = (int(self.degrees.sum()),)
        valid = (
            self.sizes.shape == self.degrees.shape == self.times.shape == (len(self),)
            and self.items.shape == (int(self.sizes.sum()),)
            and self.sources.shape == self.services.shape == self.distances.shape == links
            and _within(self.items, FIRST_SERVICE, nodes)
            and _within(self.sources, FIRST_SERVICE, nodes)
            and _within(self.services, 0, services)
        )
        if not valid:
            raise ValueError("sessions that do not belong together, or a node outside the vocabulary")
        return self


class NeighbourOptions(Options):
    """Hyperparameters of all session neighbours."""

    neighbours: int = Field(100, ge=1, description="number of nearest sessions that are used")
    mu: float = Field(
        2.0,
        gt=0,
        description="weight of the popularity prior, in neighbours of similarity 1",
    )


class NeighbourRecommender(Recommender):
    """A recommender that scores the services that followed in the sessions nearest to a context.

        S(y) = sum over neighbours n and their links (v, y, d) with v = the match of n, at step t of c,
               of similarity(c, n) decay(t, d)
        s(y) = log( (S(y) + mu P_0(y)) / (sum S + mu) ),   P_0 the frequencies of the services

    A subclass defines the weights of the context's nodes, the similarity and the decay.
    """

    config: NeighbourOptions
    _sessions: Sessions | None = None

    @abstractmethod
    def weights(self, steps: Ids, lengths: Ids) -> Floats:
        """Return the weights [n] of context nodes.

        steps: [n] steps from the end of the context (1: the last node); lengths: [n] of the contexts.
        """

    @abstractmethod
    def similarities(self, shared: Floats, sums: Floats, squares: Floats, sessions: Sessions) -> Floats:
        """Return the similarities [B, S]; 0 if no node is shared.

        shared: [B, S] weight of the shared nodes; sums, squares: [B] sums of the weights of each
        context, and of their squares.
        """

    @abstractmethod
    def decay(self, steps: Ids, distances: Ids) -> Floats:
        """Return the factors [n] of services.

        steps: [n] steps of the match from the end of the context; distances: [n] steps from the match
        to the service in the session.
        """

    def _fit(self, data: TrainingData) -> None:
        self._sessions = Sessions.of(data)

    def _score(self, contexts: Contexts) -> Scores:
        sessions, prior = self._fitted(self._sessions), np.exp(self._fitted(self._prior))
        mu = self.config.mu
        probabilities = np.empty((len(contexts), len(prior)))
        batch_size = max(1, SIMILARITIES_PER_PASS // len(sessions))
        for start in range(0, len(contexts), batch_size):
            rows = slice(start, start + batch_size)
            nodes, lengths = contexts.nodes[rows], contexts.lengths[rows]
            totals = self._totals(nodes, lengths, sessions, len(prior))
            probabilities[rows] = (totals + mu * prior) / (totals.sum(axis=1, keepdims=True) + mu)
        scores: Scores = np.log(probabilities).astype(np.float32)
        return scores

    def _totals(self, nodes: Ids, lengths: Ids, sessions: Sessions, services: int) -> Floats:
        """Return S(y) of B contexts: [B, C]."""
        batch = len(nodes)
        rows, steps = distinct_nodes(nodes, lengths)
        weights = self.weights(steps, lengths[rows])
        indices, neighbours = sessions.containing(nodes[rows, lengths[rows] - steps])
        cells = rows[indices] * len(sessions) + neighbours
        shared = _sum_at(cells, weights[indices], batch * len(sessions)).reshape(batch, -1)
        match = np.zeros(shared.shape, dtype=np.int64)
        match.flat[cells] = steps[indices]  # sorted from old to new, so the newest overwrites
        sums, squares = _sum_at(rows, weights, batch), _sum_at(rows, weights**2, batch)
        similarities = self.similarities(shared, sums, squares, sessions)
        b, s, shares = nearest(similarities, self.config.neighbours)
        t = match[b, s]
        indices, columns, distances = sessions.followers(s, nodes[b, lengths[b] - t])
        amounts = (similarities[b, s] * shares)[indices] * self.decay(t[indices], distances)
        return _sum_at(b[indices] * services + columns, amounts, batch * services).reshape(batch, -1)

    def _state(self) -> State:
        sessions = self._fitted(self._sessions)
        return {field.name: getattr(sessions, field.name) for field in fields(sessions)}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        integers = {field.name: state[field.name].astype(np.int64) for field in fields(Sessions)[:-1]}
        sessions = Sessions(**integers, times=state["times"].astype(np.float64))
        self._sessions = sessions.validated(len(vocabulary), len(vocabulary.services))


def distinct_nodes(nodes: Ids, lengths: Ids) -> tuple[Ids, Ids]:
    """Return the distinct known nodes of each row at their last occurrence, oldest first.

    nodes: [B, L]; lengths: [B]. Returns (row, steps from the end): [n] each.
    """
    rows, places = np.nonzero(nodes >= FIRST_SERVICE)
    codes = rows * (nodes.max(initial=0) + 1) + nodes[rows, places]
    # np.unique returns first occurrences; in the reversed array these are the last ones.
    _, reversed_index = np.unique(codes[::-1], return_index=True)
    last = len(codes) - 1 - reversed_index
    steps = lengths[rows] - places
    last = last[np.argsort(-steps[last], kind="stable")]
    return rows[last], steps[last]


def nearest(similarities: Floats, k: int) -> tuple[Ids, Ids, Floats]:
    """Return the k largest positive entries of each row: [n] each of (rows, columns, shares).

    Entries that tie for the last places share these places equally, which is the expected result of a
    random choice among them. So neither names nor the order of sessions matter. The share of all other
    entries is 1.
    """
    smallest = np.zeros((len(similarities), 1))
    if k < similarities.shape[1]:
        smallest = np.partition(similarities, -k, axis=1)[:, -k, None]
    above = similarities > smallest * (1 + TIE_TOLERANCE)
    tied = ~above & (similarities >= smallest * (1 - TIE_TOLERANCE)) & (similarities > 0)
    remaining, candidates = (k - above.sum(axis=1)), tied.sum(axis=1)
    share = np.minimum(remaining / np.maximum(candidates, 1), 1.0)
    shares = above + tied * share[:, None]
    rows, columns = np.nonzero(shares)
    return rows, columns, shares[rows, columns]


def _sum_at(indices: Ids, amounts: Floats, size: int) -> Floats:
    """Return the sum of the amounts at each index: [size]."""
    return np.bincount(indices, amounts, minlength=size).astype(np.float64, copy=False)


def _within(ids: Ids, low: int, high: int) -> bool:
    return bool(((ids >= low) & (ids < high)).all())
