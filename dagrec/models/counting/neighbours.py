"""Sessions of the past, and which of them are near a context: what session neighbours share.

A session is one training composition: the set of nodes that its examples show, and which service
followed which node there, how many steps on (1: the next). Both come from (context, target) pairs alone,
so a session knows nothing of its composition that is not a training example, and a composition with many
paths is still one neighbour.

A context counts its distinct known nodes, each at its last place; step 1 is the last node. A session that
shares a node with it has a similarity, and meets it in the newest node that both have. What followed that
node in the session is what the session recommends.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST, UNKNOWN, Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State, Trainer
from dagrec.models.training_data import TrainingData
from dagrec.types import Floats, Ids, Options, Scores

CELLS_AT_ONCE = 2_000_000
"""Similarities (contexts by sessions) in memory at a time."""
TIE = 1e-9


@dataclass(frozen=True)
class Sessions:
    """S sessions in the order of the data.

    sizes: [S] nodes of each; items: [sum of sizes] their ids; degrees: [S] links of each; sources,
    services, distances: [sum of degrees] node id, service column that followed it, least steps between.
    """

    sizes: Ids
    items: Ids
    degrees: Ids
    sources: Ids
    services: Ids
    distances: Ids

    @classmethod
    def of(cls, data: TrainingData) -> Sessions:
        """The sessions behind training examples, whatever their number of equal ones."""
        ids, columns = data.vocabulary.ids, data.vocabulary.columns
        steps: dict[int, dict[tuple[int, int], int]] = {}
        for composition, path, target in dict.fromkeys(
            (e.composition, e.context.path, e.target) for e in data.examples
        ):
            own = steps.setdefault(composition, {})
            for distance, key in enumerate(reversed(path), start=1):
                link = ids[key], columns[target]
                own[link] = min(distance, own.get(link, distance))
        links = [np.array([(*link, d) for link, d in own.items()]) for own in steps.values()]
        items = [np.union1d(part[:, 0], part[:, 1] + FIRST) for part in links]
        sources, services, distances = np.concatenate(links).T
        return cls(
            np.array([len(part) for part in items]),
            np.concatenate(items),
            np.array([len(part) for part in links]),
            sources,
            services,
            distances,
        )

    def __len__(self) -> int:
        return len(self.sizes)

    @cached_property
    def _by_node(self) -> tuple[Ids, Ids]:
        """The sessions of each node, and where those of node v start: sessions[starts[v]:starts[v+1]]."""
        order = np.argsort(self.items, kind="stable")
        owner = np.repeat(np.arange(len(self)), self.sizes)[order]
        return owner, np.searchsorted(self.items[order], np.arange(self._nodes + 1))

    @cached_property
    def _nodes(self) -> int:
        return int(self.items.max(initial=0)) + 1

    @cached_property
    def _by_source(self) -> tuple[Ids, Ids]:
        """The links by session and source: their codes session * nodes + source, ascending, and numbers."""
        owner = np.repeat(np.arange(len(self)), self.degrees)
        codes = owner * self._nodes + self.sources
        order = np.argsort(codes, kind="stable")
        return codes[order], order

    def holding(self, nodes: Ids) -> tuple[Ids, Ids]:
        """Each session that has one of these nodes: which of ``nodes``, and the session. [n], [n]"""
        owner, starts = self._by_node
        inside = np.minimum(nodes, self._nodes)  # a node of no session: an empty range
        first, last = starts[inside], starts[np.minimum(inside + 1, self._nodes)]
        which, numbers = _ranges(first, last)
        return which, owner[numbers]

    def followers(self, sessions: Ids, sources: Ids) -> tuple[Ids, Ids, Ids]:
        """What followed each source in each session: which pair, service column, distance. [n] each"""
        codes, order = self._by_source
        wanted = sessions * self._nodes + sources
        which, numbers = _ranges(
            np.searchsorted(codes, wanted, "left"), np.searchsorted(codes, wanted, "right")
        )
        links = order[numbers]
        return which, self.services[links], self.distances[links]

    def check(self, nodes: int, services: int) -> Sessions:
        """Itself, if it fits a vocabulary; raises ValueError otherwise."""
        links = (int(self.degrees.sum()),)
        fits = (
            self.sizes.shape == self.degrees.shape == (len(self),)
            and self.items.shape == (int(self.sizes.sum()),)
            and self.sources.shape == self.services.shape == self.distances.shape == links
            and _within(self.items, UNKNOWN + 1, nodes)
            and _within(self.sources, UNKNOWN + 1, nodes)
            and _within(self.services, 0, services)
        )
        if not fits:
            raise ValueError("sessions that do not belong together, or a node outside the vocabulary")
        return self


def _within(ids: Ids, low: int, high: int) -> bool:
    return bool(((ids >= low) & (ids < high)).all())


def _ranges(first: Ids, last: Ids) -> tuple[Ids, Ids]:
    """All numbers of first[i] .. last[i] - 1, and the i of each. [n], [n]"""
    counts = last - first
    which = np.repeat(np.arange(len(first)), counts)
    return which, np.arange(counts.sum()) - (np.cumsum(counts) - counts - first)[which]


def nearest(similarities: Floats, k: int) -> tuple[Ids, Ids, Floats]:
    """The k largest of each row that are above 0: (rows, columns, shares). [n] each

    Those that tie for the last places share them in equal parts, which is what drawing among them gives
    on average: neither names nor the order of the sessions decide. All others have a share of 1.
    """
    least = np.zeros((len(similarities), 1))
    if k < similarities.shape[1]:
        least = np.partition(similarities, -k, axis=1)[:, -k, None]
    # Equal similarities can differ in their last bits, by the order of a sum.
    above = similarities > least * (1 + TIE)
    tied = ~above & (similarities >= least * (1 - TIE)) & (similarities > 0)
    left = k - above.sum(axis=1, keepdims=True)
    shares = np.where(
        above, 1.0, tied * np.minimum(left / np.maximum(tied.sum(axis=1, keepdims=True), 1), 1)
    )
    rows, columns = np.nonzero(shares)
    return rows, columns, shares[rows, columns]


class NeighbourOptions(Options):
    """What all session neighbours have to choose."""

    neighbours: int = Field(
        100,
        ge=1,
        description="sessions that recommend: the nearest, and all as near as the last of them",
    )
    mu: float = Field(
        1.0,
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
    def similarities(self, shared: Floats, sums: Floats, squares: Floats, sizes: Ids) -> Floats:
        """[B, S], from the shared weight [B, S], the sums [B] of the contexts' weights and of their
        squares, and the sizes [S] of the sessions."""

    @abstractmethod
    def decay(self, steps: Ids, distances: Ids) -> Floats:
        """[n] of services ``distances`` behind a node that is ``steps`` from the end of the context."""

    def _fit(self, data: TrainingData, trainer: Trainer | None) -> None:
        self._sessions = Sessions.of(data)

    def _score(self, contexts: Contexts) -> Scores:
        sessions, prior = self._fitted(self._sessions), np.exp(self._fitted(self._prior))
        probabilities = np.empty((len(contexts), len(prior)))
        at_once = max(1, CELLS_AT_ONCE // len(sessions))
        for start in range(0, len(contexts), at_once):
            rows = slice(start, start + at_once)
            found = self._recommended(
                contexts.nodes[rows], contexts.lengths[rows], sessions, len(prior)
            )
            mu = self.config.mu
            probabilities[rows] = (found + mu * prior) / (found.sum(axis=1, keepdims=True) + mu)
        scores: Scores = np.log(probabilities).astype(np.float32)
        return scores

    def _recommended(self, nodes: Ids, lengths: Ids, sessions: Sessions, services: int) -> Floats:
        """[B, C], S(y) of these contexts."""
        rows, steps = _distinct(nodes, lengths)
        own = nodes[rows, lengths[rows] - steps]
        weights = self.weights(steps, lengths[rows])
        which, owners = sessions.holding(own)
        cells = rows[which] * len(sessions) + owners
        shape = len(nodes), len(sessions)
        shared = np.bincount(cells, weights[which], minlength=shape[0] * shape[1]).reshape(shape)
        met = np.zeros(shape, dtype=np.int64)
        met.flat[cells] = steps[which]  # the oldest come first: the newest is what stays
        near = self.similarities(
            shared,
            np.bincount(rows, weights, minlength=len(nodes)),
            np.bincount(rows, weights**2, minlength=len(nodes)),
            sessions.sizes,
        )
        b, s, shares = nearest(near, self.config.neighbours)
        t = met[b, s]
        which, columns, distances = sessions.followers(s, nodes[b, lengths[b] - t])
        given = (near[b, s] * shares)[which] * self.decay(t[which], distances)
        cells = b[which] * services + columns
        return np.bincount(cells, given, minlength=len(nodes) * services).reshape(-1, services)

    def _state(self) -> State:
        sessions = self._fitted(self._sessions)
        return {field.name: getattr(sessions, field.name) for field in fields(sessions)}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        arrays = {field.name: state[field.name].astype(np.int64) for field in fields(Sessions)}
        self._sessions = Sessions(**arrays).check(len(vocabulary), len(vocabulary.services))


def _distinct(nodes: Ids, lengths: Ids) -> tuple[Ids, Ids]:
    """The known nodes of each row, at their last places, the oldest first: (row, steps from the end)."""
    rows, places = np.nonzero(nodes > UNKNOWN)
    steps = lengths[rows] - places
    order = np.lexsort((steps, nodes[rows, places], rows))
    rows, steps, own = rows[order], steps[order], nodes[rows, places][order]
    first = np.append(True, (rows[1:] != rows[:-1]) | (own[1:] != own[:-1]))[: len(rows)]
    rows, steps = rows[first], steps[first]
    order = np.argsort(-steps, kind="stable")
    return rows[order], steps[order]
