"""Personalised PageRank on the bipartite graph: proximity of nodes by the compositions that they share.

A random walk moves from a node to one of its compositions, with probability proportional to the number
of compositions it stands for, and from there to one of its nodes, uniformly. After each such step it
ends with probability a (the restart probability):

    p_v = a (I - (1 - a) P^T)^-1 e_v,   P_ij = sum over compositions c of i and j: w_c / (w_i |c|)

w_c is the number of compositions that c stands for and w_i the sum of w_c over the compositions with i;
p_v sums to 1. The formula is exact and inverts a matrix [V, V]. In large graphs random walks replace
it: a walk from v ends at a node with probabilities p_v, and its expected visits, including the first
and the last node, are p_v / a. So the relative frequencies of the visits also estimate p_v, with less
variance.

For a node without compositions, p_v = e_v, and it is in no neighbourhood.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from dagrec.models.interactions import Interactions
from dagrec.types import Floats, Ids, Mask

ENTRIES_PER_PASS = 2**22
"""Number of visit counts in memory at a time."""
HARD_BAND = (0.2, 0.5)
"""The relative ranks between which services are hard negatives. Nearer services could be correct
answers, and more distant ones are easy. PinSage uses ranks 2,000 to 5,000 of far more items."""
MAX_HARD_NEGATIVES = 128
"""Maximum number of services from which the hard negatives of a node are drawn."""


def transitions(interactions: Interactions) -> Floats:
    """Return P [V, V]; each row sums to 1."""
    weights = interactions.weights / interactions.rows.lengths
    p = replace(interactions, weights=weights).gram()
    totals = p.sum(axis=1)
    isolated = np.flatnonzero(totals == 0)
    p[isolated, isolated] = totals[isolated] = 1
    normalised: Floats = p / totals[:, None]
    return normalised


def exact_pagerank(p: Floats, restart: float) -> Floats:
    """Return p_v of all nodes as the rows of [V, V], from the transitions P."""
    inverse: Floats = np.linalg.inv(np.eye(len(p)) - (1 - restart) * p).astype(np.float64)
    return (restart * inverse).clip(min=0)


@dataclass(frozen=True)
class Walker:
    """Random walks on the graph.

    by_node: [m] compositions of all nodes, node by node; starts: [V + 1] slices of ``by_node``;
    cumulative: [m + 1] cumulative sum of their weights.
    """

    interactions: Interactions
    by_node: Ids
    starts: Ids
    cumulative: Floats

    @classmethod
    def of(cls, interactions: Interactions) -> Walker:
        """Return a walker on the graph of these interactions."""
        by_node = interactions.matrix().tocsc()
        cumulative = np.concatenate([[0.0], np.cumsum(interactions.weights[by_node.indices])])
        return cls(interactions, by_node.indices, by_node.indptr, cumulative)

    def walk(self, starts: Ids, restart: float, rng: np.random.Generator) -> Iterator[tuple[Ids, Ids]]:
        """Yield, after each step, the numbers of the walks that have not ended and their nodes: [n]."""
        walks, nodes = np.arange(len(starts)), starts
        while len(walks):
            yield walks, nodes
            continues = rng.random(len(walks)) >= restart
            walks, nodes = walks[continues], self._step(nodes[continues], rng)

    def _step(self, nodes: Ids, rng: np.random.Generator) -> Ids:
        first, end = self.starts[nodes], self.starts[nodes + 1]
        connected = end > first
        first, end = first[connected], end[connected]
        low, high = self.cumulative[first], self.cumulative[end]
        drawn = low + rng.random(len(low)) * (high - low)
        positions = np.searchsorted(self.cumulative, drawn, side="right") - 1
        # Rounding must not select the compositions of the next node.
        compositions = self.by_node[positions.clip(first, end - 1)]
        rows = self.interactions.rows
        offsets = (rng.random(len(low)) * rows.lengths[compositions]).astype(np.int64)
        next_nodes = nodes.copy()
        next_nodes[connected] = self.interactions.items[rows.starts[compositions] + offsets]
        return next_nodes

    def visits(self, starts: Ids, walks: int, restart: float, rng: np.random.Generator) -> Floats:
        """Return the relative frequencies of the visits of ``walks`` walks per start [n]: [n, V]."""
        size = self.interactions.size
        rows = np.repeat(np.arange(len(starts)), walks)
        counts: Floats = np.zeros(len(starts) * size)
        for active, nodes in self.walk(starts[rows], restart, rng):
            counts += np.bincount(rows[active] * size + nodes, minlength=len(counts))
        counts = counts.reshape(len(starts), size)
        frequencies: Floats = counts / counts.sum(axis=1, keepdims=True)
        return frequencies


def pageranks(
    interactions: Interactions, restart: float, walks: int | None, rng: np.random.Generator
) -> Iterator[tuple[Ids, Floats]]:
    """Yield blocks of nodes [n] with their p_v [n, V].

    p_v is exact if ``walks`` is None, and otherwise estimated from this number of walks per node.
    """
    size = interactions.size
    if walks is None:
        yield np.arange(size), exact_pagerank(transitions(interactions), restart)
        return
    walker = Walker.of(interactions)
    block = max(1, ENTRIES_PER_PASS // max(size, walks))
    for start in range(0, size, block):
        nodes = np.arange(start, min(start + block, size))
        yield nodes, walker.visits(nodes, walks, restart, rng)


def neighbourhoods(nodes: Ids, ranks: Floats, count: int) -> tuple[Ids, Floats]:
    """Return the ``count`` nearest nodes of each node, without itself, and their weights: [n, T] each.

    nodes: [n]; ranks: [n, V] p_v. The weights are the values of p_v, normalised to sum 1. Missing
    neighbours have node id 0 and weight 0.
    """
    ranks = ranks.copy()
    ranks[np.arange(len(nodes)), nodes] = 0
    # The stable sort makes ties deterministic: the lower id comes first.
    order = np.argsort(-ranks, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(ranks, order, axis=1)
    totals = values.sum(axis=1, keepdims=True)
    padding = ((0, 0), (0, count - order.shape[1]))
    neighbours = np.pad(np.where(values > 0, order, 0), padding)
    return neighbours, np.pad(values / np.where(totals > 0, totals, 1), padding)


def hard_band(ranks: Floats, allowed: Mask) -> Ids:
    """Return the columns in the :data:`HARD_BAND` of the ranking of services, nearest first.

    ranks: [C] p_v of the services for one node; allowed: [C], False for services that cannot be
    negatives. These services, and services with p_v = 0, are not ranked.
    """
    columns = np.flatnonzero((ranks > 0) & allowed)
    columns = columns[np.argsort(-ranks[columns], kind="stable")]
    low, high = (int(np.ceil(edge * len(columns))) for edge in HARD_BAND)
    band = columns[low:high]
    if len(band) > MAX_HARD_NEGATIVES:
        band = band[np.linspace(0, len(band) - 1, MAX_HARD_NEGATIVES).astype(np.int64)]
    return band
