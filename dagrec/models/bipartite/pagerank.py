"""Personalised PageRank of the bipartite graph: how near nodes are to each other by the compositions
that they share.

A walk goes from a node to one of its compositions, by how many each stands for, and from there to any
of its nodes. After each such step it ends, to begin anew, with probability a:

    p_v = a (I - (1 - a) P^T)^-1 e_v,   P_ij = sum over compositions c of i and j: w_c / (w_i |c|)

w_c is how many compositions c stands for, w_i the sum of these over those that hold i; p_v has a sum
of 1. The formula is exact and inverts a matrix [V, V]. In large graphs, walks take its place: one from
v ends at a node with the probabilities p_v, and what it visits on its way, its first and last node
included, is expected p_v / a times. So the share of the visits is p_v too, with less noise.

A node without compositions is nobody's neighbour and has none: p_v = e_v.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dagrec.models.interactions import Interactions
from dagrec.types import Floats, Ids, Mask

ENTRIES_AT_ONCE = 2**22
"""Visits that are counted at a time; a bound on memory."""
BAND = (0.2, 0.5)
"""From where to where in a ranking the negatives are hard: not so near that they may be right, not so
far that they are easy. In PinSage, ranks 2,000 to 5,000 of a catalogue that is far larger than ours."""
MAX_HARD_NEGATIVES = 128
"""Of so many services, at most, are the hard negatives of a node drawn."""


def transitions(interactions: Interactions) -> Floats:
    """P [V, V], each row of sum 1."""
    shared = replace(interactions, weights=interactions.weights / interactions.rows.lengths).gram()
    totals = shared.sum(axis=1)
    alone = np.flatnonzero(totals == 0)
    shared[alone, alone] = totals[alone] = 1
    steps: Floats = shared / totals[:, None]
    return steps


def exact(steps: Floats, restart: float) -> Floats:
    """[V, V] with p_v in row v, of P."""
    found: Floats = np.linalg.inv(np.eye(len(steps)) - (1 - restart) * steps).astype(np.float64)
    return (restart * found).clip(min=0)


@dataclass(frozen=True)
class Walker:
    """Where a walk can go: the compositions of each node, beside the nodes of each composition.

    by_node: [m] compositions, node by node; starts: [V + 1] where each node's begin; running: [m + 1]
    running sum of their weights.
    """

    interactions: Interactions
    by_node: Ids
    starts: Ids
    running: Floats

    @classmethod
    def of(cls, interactions: Interactions) -> Walker:
        by_node = interactions.matrix().tocsc()
        running = np.concatenate([[0.0], np.cumsum(interactions.weights[by_node.indices])])
        return cls(interactions, by_node.indices, by_node.indptr, running)

    def walk(self, starts: Ids, restart: float, rng: np.random.Generator) -> Iterator[tuple[Ids, Ids]]:
        """Step by step, the walks [n] that have not ended, and the node where each of them is."""
        walks, nodes = np.arange(len(starts)), starts
        while len(walks):
            yield walks, nodes
            goes_on = rng.random(len(walks)) >= restart
            walks, nodes = walks[goes_on], self._step(nodes[goes_on], rng)

    def _step(self, nodes: Ids, rng: np.random.Generator) -> Ids:
        first, behind = self.starts[nodes], self.starts[nodes + 1]
        some = behind > first
        low, high = self.running[first[some]], self.running[behind[some]]
        drawn = low + rng.random(len(low)) * (high - low)
        places = np.searchsorted(self.running, drawn, side="right") - 1
        # Rounding must not lead to the compositions of the node beside it.
        compositions = self.by_node[places.clip(first[some], behind[some] - 1)]
        rows = self.interactions.rows
        within = (rng.random(len(low)) * rows.lengths[compositions]).astype(np.int64)
        found = nodes.copy()
        found[some] = self.interactions.items[rows.starts[compositions] + within]
        return found

    def visits(self, starts: Ids, walks: int, restart: float, rng: np.random.Generator) -> Floats:
        """[n, V] share of the visits of ``walks`` walks from each of ``starts`` [n]."""
        size = self.interactions.size
        owners = np.repeat(np.arange(len(starts)), walks)
        counts: Floats = np.zeros(len(starts) * size)
        for alive, nodes in self.walk(starts[owners], restart, rng):
            counts += np.bincount(owners[alive] * size + nodes, minlength=len(counts))
        counts = counts.reshape(len(starts), size)
        shares: Floats = counts / counts.sum(axis=1, keepdims=True)
        return shares


def pageranks(
    interactions: Interactions, restart: float, walks: int | None, rng: np.random.Generator
) -> Iterator[tuple[Ids, Floats]]:
    """All nodes, some at a time, with their p_v in rows: exact, or from so many walks a node."""
    size = interactions.size
    if walks is None:
        yield np.arange(size), exact(transitions(interactions), restart)
        return
    walker = Walker.of(interactions)
    block = max(1, ENTRIES_AT_ONCE // max(size, walks))
    for start in range(0, size, block):
        nodes = np.arange(start, min(start + block, size))
        yield nodes, walker.visits(nodes, walks, restart, rng)


def nearest(nodes: Ids, ranks: Floats, count: int) -> tuple[Ids, Floats]:
    """The ``count`` nodes [n, T] nearest to each of ``nodes`` [n], itself left out, and their weights
    [n, T]: shares of ``ranks`` [n, V] among these, of sum 1. Where there are fewer, node 0 stands for
    each that is missing, with weight 0."""
    ranks = ranks.copy()
    ranks[np.arange(len(nodes)), nodes] = 0
    # Of equal ones the lower id first, so that one graph has one answer.
    order = np.argsort(-ranks, axis=1, kind="stable")[:, :count]
    kept = np.take_along_axis(ranks, order, axis=1)
    totals = kept.sum(axis=1, keepdims=True)
    missing = ((0, 0), (0, count - order.shape[1]))
    found = np.pad(np.where(kept > 0, order, 0), missing)
    return found, np.pad(kept / np.where(totals > 0, totals, 1), missing)


def hard_band(ranks: Floats, allowed: Mask) -> Ids:
    """Columns in the :data:`BAND` of a ranking of services, the nearer first.

    ranks: [C] of one node; allowed: [C], False for what may not be a negative, which is left out of the
    ranking. Nor is ranked what no walk reaches.
    """
    columns = np.flatnonzero((ranks > 0) & allowed)
    columns = columns[np.argsort(-ranks[columns], kind="stable")]
    low, high = (int(np.ceil(edge * len(columns))) for edge in BAND)
    band = columns[low:high]
    if len(band) > MAX_HARD_NEGATIVES:
        band = band[np.linspace(0, len(band) - 1, MAX_HARD_NEGATIVES).astype(np.int64)]
    return band
