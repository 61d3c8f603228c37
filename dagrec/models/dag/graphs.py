"""Inputs of DAG networks, and the layers and operations that these networks share.

A unit is the DAG upstream of one frontier (``graph="upstream"``). With ``graph="global"`` the network
reads the graph of all training links instead and scores from the state of the last node, as published
adaptations do. The scores then depend only on the last node; the option exists for comparison.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import UNKNOWN, Contexts
from dagrec.graph.upstream import Upstream, Upstreams
from dagrec.models.network import NetworkRecommender
from dagrec.training.network import NodeEmbedding
from dagrec.training.options import TrainingOptions
from dagrec.types import Ids


class GraphOptions(TrainingOptions):
    """Which nodes and links of a composition the network reads."""

    graph: Literal["upstream", "global"] = Field(
        "upstream",
        description="upstream: the DAG upstream of the frontier; global: the graph of all training "
        "links, read at the last node",
    )
    children: bool = Field(True, description="also read the existing children of the frontier")


class GraphInputs(NamedTuple):
    """A batch of G DAGs with N nodes in all, sorted by level.

    nodes: [N] node ids; graph: [N] DAG of each node; levels: [N] length of the longest path from a
    source; level_sizes: number of nodes of each level.

    sources, targets: [E] node indices of the links, sorted by the level of the target; link_sizes:
    number of links into each level (none into the first).

    ancestors, descendants, distances: [Q] all pairs in which the ancestor reaches the descendant, and
    the length of the shortest path between them; pairs at distance 1 are the links.

    hops: [N] length of the shortest path from a node to the frontier, 0 for the frontier; frontiers:
    [R] node index of each context's frontier.

    children, child_rows: [X] node ids of the frontiers' children, and the context of each child.
    """

    nodes: Tensor
    graph: Tensor
    levels: Tensor
    level_sizes: tuple[int, ...]
    sources: Tensor
    targets: Tensor
    link_sizes: tuple[int, ...]
    ancestors: Tensor
    descendants: Tensor
    distances: Tensor
    hops: Tensor
    frontiers: Tensor
    children: Tensor
    child_rows: Tensor


@dataclass(frozen=True)
class UpstreamUnits:
    """One upstream DAG per context, whose last node is the frontier."""

    dags: Upstreams

    @property
    def sizes(self) -> Ids:
        return self.dags.node_rows.lengths

    def take(self, units: Ids) -> tuple[GraphInputs, Ids]:
        indices, child_rows = self.dags.child_rows.take(units)
        frontiers = np.arange(len(units)), self.sizes[units] - 1
        return _inputs(self.dags, units, frontiers, (self.dags.children[indices], child_rows)), units


@dataclass(frozen=True)
class GlobalUnits:
    """The graph of all training links, with the last node of each context as its frontier."""

    dag: Upstreams
    contexts: Upstreams
    """The upstream DAGs of the contexts; only their last nodes and children are read."""

    @property
    def sizes(self) -> Ids:
        return np.ones(len(self.contexts), dtype=np.int64)

    def take(self, units: Ids) -> tuple[GraphInputs, Ids]:
        contexts = self.contexts
        indices, child_rows = contexts.child_rows.take(units)
        last = contexts.nodes[contexts.node_rows.starts[units + 1] - 1]
        index_of = np.empty(len(self.dag.nodes) + UNKNOWN, dtype=np.int64)
        index_of[self.dag.nodes] = np.arange(len(self.dag.nodes))
        frontiers = np.zeros(len(units), dtype=np.int64), index_of[last]
        children = contexts.children[indices], child_rows
        return _inputs(self.dag, np.zeros(1, dtype=np.int64), frontiers, children, hops=False), units


def _inputs(
    dags: Upstreams,
    rows: Ids,
    frontiers: tuple[Ids, Ids],
    children: tuple[Ids, Ids],
    *,
    hops: bool = True,
) -> GraphInputs:
    """Return the inputs for the DAGs ``rows``.

    frontiers: [R] index into ``rows`` of each context's DAG, and [R] position of its frontier in that
    DAG; children: as in :class:`GraphInputs`; ``hops``: compute the hops, which needs one frontier per
    DAG.
    """
    node_indices, graph = dags.node_rows.take(rows)
    first = np.searchsorted(graph, np.arange(len(rows)))
    order = np.argsort(dags.levels[node_indices], kind="stable")
    index_of = np.empty_like(order)
    index_of[order] = np.arange(len(order))
    nodes, graph = dags.nodes[node_indices][order], graph[order]
    levels = dags.levels[node_indices][order]
    frontier_nodes = index_of[first[frontiers[0]] + frontiers[1]]

    pair_indices, pair_graph = dags.pair_rows.take(rows)
    ancestors = index_of[first[pair_graph] + dags.ancestors[pair_indices]]
    descendants = index_of[first[pair_graph] + dags.descendants[pair_indices]]
    by_level = np.argsort(descendants, kind="stable")
    ancestors, descendants = ancestors[by_level], descendants[by_level]
    distances = dags.distances[pair_indices][by_level]
    links = distances == 1
    sizes = np.bincount(levels)
    link_sizes = np.bincount(levels[descendants[links]], minlength=len(sizes))

    hop_counts = np.zeros(len(nodes), dtype=np.int64)
    if hops:
        to_frontier = descendants == frontier_nodes[graph[descendants]]
        hop_counts[ancestors[to_frontier]] = distances[to_frontier]
    return GraphInputs(
        torch.from_numpy(nodes),
        torch.from_numpy(graph),
        torch.from_numpy(levels),
        tuple(sizes.tolist()),
        torch.from_numpy(ancestors[links]),
        torch.from_numpy(descendants[links]),
        tuple(link_sizes.tolist()),
        torch.from_numpy(ancestors),
        torch.from_numpy(descendants),
        torch.from_numpy(distances),
        torch.from_numpy(hop_counts),
        torch.from_numpy(frontier_nodes),
        torch.from_numpy(children[0]),
        torch.from_numpy(children[1]),
    )


class GraphRecommender(NetworkRecommender):
    """A network recommender whose input is a DAG."""

    config: GraphOptions

    def key(self, context: Context) -> Hashable:
        dag = self._dag(context)
        return dag.signature if self.config.graph == "upstream" else (dag.keys[-1], dag.children)

    def units(self, contexts: Contexts, *, training: bool) -> UpstreamUnits | GlobalUnits:
        dags = Upstreams.of([self._dag(context) for context in contexts.origins], self.graph.vocabulary)
        if self.config.graph == "upstream":
            return UpstreamUnits(dags)
        return GlobalUnits(self.graph.dag, dags)

    def _dag(self, context: Context) -> Upstream:
        dag = Upstream.of(context)
        return dag if self.config.children else replace(dag, children=())


class Readout(nn.Module):
    """The state of a context: the state of its frontier plus embeddings of the frontier's children.

        z = h_f + sum_{c in children} B[c]

    A child is unlikely to be added again, and it makes its usual siblings more likely. B is initialised
    to 0.
    """

    def __init__(self, nodes: int, width: int) -> None:
        super().__init__()
        self.embed_children = NodeEmbedding(nodes, width)
        nn.init.zeros_(self.embed_children.weight)

    def forward(self, h: Tensor, inputs: GraphInputs) -> Tensor:
        """Return the states [R, H] of the contexts from the states h [N, H] of the nodes."""
        children: Tensor = self.embed_children(inputs.children)
        zeros = children.new_zeros(len(inputs.frontiers), children.shape[1])
        return h[inputs.frontiers] + zeros.index_add(0, inputs.child_rows, children)


def softmax_over(logits: Tensor, groups: Tensor, size: int) -> Tensor:
    """Return the softmax within each group. logits: [E] or [E, heads]; groups: [E], below ``size``."""
    index = groups if logits.dim() == 1 else groups[:, None].expand_as(logits)
    largest = logits.new_full((size, *logits.shape[1:]), -torch.inf)
    largest = largest.scatter_reduce(0, index, logits.detach(), "amax")
    weights = (logits - largest[groups]).exp()
    total = weights.new_zeros(largest.shape).index_add(0, groups, weights)
    return weights / total[groups]


def mean_over(values: Tensor, groups: Tensor, size: int) -> Tensor:
    """Return the mean [size, H] of the values [E, H] of each group; 0 for an empty group."""
    total = values.new_zeros(size, values.shape[1]).index_add(0, groups, values)
    count = torch.bincount(groups, minlength=size).clamp(min=1)
    return total / count[:, None]
