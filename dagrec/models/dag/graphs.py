"""Upstream DAGs laid out for networks, and the operations that these share.

A unit is the DAG upstream of one frontier (``graph="upstream"``). With ``graph="global"`` every context
reads the one graph of all training links instead, at its last node: what published adaptations do. Such
a model is a function of the last node alone; it is here to show the difference.
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
    """What of a composition a DAG recommender reads."""

    graph: Literal["upstream", "global"] = Field(
        "upstream",
        description="upstream: the DAG upstream of the frontier; global: the graph of all training "
        "links, at the last node",
    )
    children: bool = Field(
        True, description="read the nodes that the frontier feeds already, where they are known"
    )


class GraphInputs(NamedTuple):
    """G DAGs side by side, N nodes in all, those of the lowest level first.

    nodes: [N] node ids; graph: [N] DAG of each; levels: [N] longest path from a source; level_sizes:
    nodes of each level.
    sources, targets: [E] places of the links' ends, by level of the target; link_sizes: links into
    each level (none into the first).
    ancestors, descendants, distances: [Q] all pairs of which one reaches the other, and by how many
    links at least (the links are those at 1).
    hops: [N] links from a node to its frontier, 0 for the frontier itself.
    frontiers: [R] place of the node at which each context asks.
    children, child_rows: [X] node ids of children, and which context has each.
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
    """One DAG a context, asked at its last node."""

    dags: Upstreams

    @property
    def sizes(self) -> Ids:
        return self.dags.node_rows.lengths

    def take(self, units: Ids) -> tuple[GraphInputs, Ids]:
        places, owner = self.dags.child_rows.take(units)
        asked = np.arange(len(units)), self.sizes[units] - 1
        return _inputs(self.dags, units, asked, (self.dags.children[places], owner)), units


@dataclass(frozen=True)
class GlobalUnits:
    """The one graph of all training links, asked at each context's last node."""

    dag: Upstreams
    contexts: Upstreams
    """Of which only the last nodes and the children are read."""

    @property
    def sizes(self) -> Ids:
        return np.ones(len(self.contexts), dtype=np.int64)

    def take(self, units: Ids) -> tuple[GraphInputs, Ids]:
        contexts = self.contexts
        places, owner = contexts.child_rows.take(units)
        last = contexts.nodes[contexts.node_rows.starts[units + 1] - 1]
        place = np.empty(len(self.dag.nodes) + UNKNOWN, dtype=np.int64)
        place[self.dag.nodes] = np.arange(len(self.dag.nodes))
        asked = np.zeros(len(units), dtype=np.int64), place[last]
        children = contexts.children[places], owner
        return _inputs(self.dag, np.zeros(1, dtype=np.int64), asked, children, hops=False), units


def _inputs(
    dags: Upstreams,
    rows: Ids,
    asked: tuple[Ids, Ids],
    children: tuple[Ids, Ids],
    *,
    hops: bool = True,
) -> GraphInputs:
    """The DAGs ``rows``; ``asked``: which of them, and at which place in it, each context asks.

    ``hops``: each DAG is asked once, so that its nodes have a distance to the question.
    """
    at, graph = dags.node_rows.take(rows)
    first = np.searchsorted(graph, np.arange(len(rows)))
    order = np.argsort(dags.levels[at], kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    nodes, graph, levels = dags.nodes[at][order], graph[order], dags.levels[at][order]
    frontiers = place[first[asked[0]] + asked[1]]

    pair_at, pair_row = dags.pair_rows.take(rows)
    ancestors = place[first[pair_row] + dags.ancestors[pair_at]]
    descendants = place[first[pair_row] + dags.descendants[pair_at]]
    by_level = np.argsort(descendants, kind="stable")
    ancestors, descendants = ancestors[by_level], descendants[by_level]
    distances = dags.distances[pair_at][by_level]
    links = distances == 1
    sizes = np.bincount(levels)
    link_sizes = np.bincount(levels[descendants[links]], minlength=len(sizes))

    far = np.zeros(len(nodes), dtype=np.int64)
    if hops:
        ends = descendants == frontiers[graph[descendants]]
        far[ancestors[ends]] = distances[ends]
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
        torch.from_numpy(far),
        torch.from_numpy(frontiers),
        torch.from_numpy(children[0]),
        torch.from_numpy(children[1]),
    )


class GraphRecommender(NetworkRecommender):
    """A network recommender that reads DAGs."""

    config: GraphOptions

    def key(self, context: Context) -> Hashable:
        dag = self._dag(context)
        return dag.signature if self.config.graph == "upstream" else (dag.keys[-1], dag.children)

    def units(self, contexts: Contexts, *, training: bool) -> UpstreamUnits | GlobalUnits:
        own = [self._dag(context) for context in contexts.origins]
        dags = Upstreams.of(own, self.graph.vocabulary)
        if self.config.graph == "upstream":
            return UpstreamUnits(dags)
        return GlobalUnits(self.graph.dag, dags)

    def _dag(self, context: Context) -> Upstream:
        dag = Upstream.of(context)
        return dag if self.config.children else replace(dag, children=())


class Readout(nn.Module):
    """The state of a question: that of its frontier, and the nodes which this feeds already.

        z = h_f + sum_{c in children} B[c]

    A child says both what need not come again and what usually comes beside it.
    """

    def __init__(self, nodes: int, width: int) -> None:
        super().__init__()
        self.beside = NodeEmbedding(nodes, width)
        nn.init.zeros_(self.beside.weight)

    def forward(self, h: Tensor, inputs: GraphInputs) -> Tensor:
        """h: [N, H]. Returns [R, H]."""
        own: Tensor = self.beside(inputs.children)
        beside = own.new_zeros(len(inputs.frontiers), own.shape[1])
        return h[inputs.frontiers] + beside.index_add(0, inputs.child_rows, own)


def softmax_over(logits: Tensor, groups: Tensor, size: int) -> Tensor:
    """Softmax among the entries of each group. logits: [E] or [E, heads]; groups: [E], below size."""
    index = groups if logits.dim() == 1 else groups[:, None].expand_as(logits)
    top = logits.new_full((size, *logits.shape[1:]), -torch.inf)
    top = top.scatter_reduce(0, index, logits.detach(), "amax")
    weights = (logits - top[groups]).exp()
    total = weights.new_zeros(top.shape).index_add(0, groups, weights)
    return weights / total[groups]


def mean_over(values: Tensor, groups: Tensor, size: int) -> Tensor:
    """[size, H] mean of the values [E, H] of each group, 0 for an empty one."""
    total = values.new_zeros(size, values.shape[1]).index_add(0, groups, values)
    count = torch.bincount(groups, minlength=size).clamp(min=1)
    return total / count[:, None]
