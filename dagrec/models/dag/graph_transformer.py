"""Graph transformer: every node of a DAG looks at every other, biased by how they lie to each other.

    h_v = E[v] + D[level(v)];  in each of L blocks, with H heads:
    a_ij = softmax_{j in the DAG of i} (q_i . k_j / sqrt(d) + b[relation(i, j)])
    h_i <- h_i + drop(W_o concat over heads of sum_j drop(a_ij) v_j),  with q, k, v from LayerNorm(h)
    h_i <- h_i + drop(W_2 drop(GELU(W_1 LayerNorm(h_i))))
    s(y) = E[y] . W_p drop(LayerNorm(h_f) + sum_{c child of f} B[c]) + b_y

relation(i, j) is one of ten, each with a learned number b for each head of each block, 0 at first:
self; i reaches j by 1, 2, 3 or 4 links at least; j reaches i by 1, 2, 3 or 4; none of these. Such a
bias is that of Graphormer (Ying et al., NeurIPS 2021, arXiv 2106.05234) with directions; the blocks are
pre-norm (Xiong et al. 2020, arXiv 2002.04745). The recommender of scientific workflows that goes by
this name takes distances from the graph of all training links; here they are those inside the upstream
DAG, so that a bias says how two nodes of this very composition lie. ``graph="global"`` gives the other
reading, at the price of all pairs of the graph. Levels D stand for its learned positions: a DAG has no
other order. As in theirs a projection W_p meets the services' embeddings; ``tied=false`` gives each
service weights of its own. Nothing downstream of the frontier f is there to be seen, so nothing is
hidden from anybody.

All pairs of a DAG are n^2: pairs are computed a stretch of nodes at a time, and what a stretch needs
for the gradient is computed again in the backward pass where there are several; memory is bounded by
PAIRS_PER_PASS.

In: DAGs. Out: scores [R, C].
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Vocabulary
from dagrec.models.attention import Attention, AttentionSizes
from dagrec.models.base import Traits
from dagrec.models.dag.attention import AttendingNetwork, Looks, PairAttention, attention_of
from dagrec.models.dag.graphs import GraphInputs, GraphOptions, GraphRecommender, Readout
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, NodeEmbedding

MAX_DISTANCE = 4
"""Links up to which distances are told apart."""
SELF, FORWARD, BACKWARD, APART = 0, 0, MAX_DISTANCE, 2 * MAX_DISTANCE + 1
"""Relations: itself; FORWARD + d, it reaches the other by d links; BACKWARD + d; anything else."""
PAIRS_PER_PASS = 1 << 18
"""Pairs that are computed together, unless one node alone has more."""


class GraphTransformerConfig(AttentionSizes, GraphOptions):
    """Hyperparameters of the network; those of the optimisation come with them."""

    levels: int = Field(12, ge=1, description="levels of a node that are told apart")
    dropout: float = Field(
        0.3, ge=0, lt=1, description="on embeddings, attention weights, what a block adds and the state"
    )
    tied: bool = Field(True, description="use the services' embeddings as output weights")


class Pairs(NamedTuple):
    """All pairs of nodes of the same DAG, those of one query behind each other.

    order: [N] the queries, DAG by DAG; sizes: [N] pairs of each; queries, keys: [Q] places of nodes;
    relations: [Q].
    """

    order: Tensor
    sizes: Tensor
    queries: Tensor
    keys: Tensor
    relations: Tensor


def all_pairs(inputs: GraphInputs) -> Pairs:
    order = torch.argsort(inputs.graph, stable=True)
    every = torch.arange(len(order), device=order.device)
    place = torch.empty_like(order)
    place[order] = every  # of each node in ``order``
    graph = inputs.graph[order]
    nodes = torch.bincount(graph)
    sizes = nodes[graph]
    first = (nodes.cumsum(0) - nodes)[graph]  # place of the first node of each one's DAG
    row = sizes.cumsum(0) - sizes - first  # the pair of places (i, j) is the one numbered row[i] + j
    queries = every.repeat_interleave(sizes)
    keys = torch.arange(len(queries), device=order.device) - row[queries]

    near = inputs.distances <= MAX_DISTANCE
    up, down = place[inputs.ancestors[near]], place[inputs.descendants[near]]
    relations = torch.full_like(queries, APART)
    relations[row + every] = SELF
    relations[row[up] + down] = FORWARD + inputs.distances[near]
    relations[row[down] + up] = BACKWARD + inputs.distances[near]
    return Pairs(order, sizes, order[queries], order[keys], relations)


class Block(nn.Module):
    """Attention among all nodes of each DAG, then a feed-forward net; both normed and added."""

    def __init__(self, config: GraphTransformerConfig) -> None:
        super().__init__()
        width, inner = config.width, config.width * config.expansion
        self.norm_attention = nn.LayerNorm(width)
        self.attend = PairAttention(width, config.heads, config.dropout)
        self.bias = nn.Parameter(torch.zeros(APART + 1, config.heads))
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(inner, width)
        )
        self.drop = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The states [N, H] and the weights [Q, heads]."""
        seen, weights = self._look(self.norm_attention(h), pairs)
        h = h + self.drop(seen)
        return h + self.drop(self.feed(self.norm_feed(h))), weights

    def _look(self, x: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        if len(pairs.queries) <= PAIRS_PER_PASS:
            return self._part(x, pairs.queries, pairs.keys, pairs.relations)
        seen, weights = [], []
        for nodes, *part in stretches(pairs):
            own, looked = checkpoint(self._part, x, *part, use_reentrant=False)
            seen.append(own[nodes])
            weights.append(looked)
        return torch.cat(seen)[torch.argsort(pairs.order)], torch.cat(weights)

    def _part(
        self, x: Tensor, queries: Tensor, keys: Tensor, relations: Tensor
    ) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.attend(x, queries, keys, self.bias[relations])
        return found


def stretches(pairs: Pairs) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Nodes and their pairs (queries, keys, relations), about PAIRS_PER_PASS at a time."""
    before = pairs.sizes.cumsum(0) - pairs.sizes
    number = torch.unique(before // PAIRS_PER_PASS, return_inverse=True)[1]
    nodes = torch.bincount(number).tolist()
    size = [int(part.sum()) for part in pairs.sizes.split(nodes)]
    yield from zip(
        pairs.order.split(nodes),
        pairs.queries.split(size),
        pairs.keys.split(size),
        pairs.relations.split(size),
        strict=True,
    )


class GraphTransformerNetwork(AttendingNetwork):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: GraphTransformerConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.width
        self.scale = width**0.5
        self.embed = NodeEmbedding(nodes, width)
        with torch.no_grad():
            # Scaled up, a node enters with unit variance; as output weights they start small.
            self.embed.weight *= width**-0.5
        self.level = nn.Parameter(torch.zeros(config.levels, width))
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.readout = Readout(nodes, width)
        self.project = nn.Linear(width, width, bias=False)
        self.head = Head(width, services, self.embed if config.tied else None)

    def attend(self, inputs: GraphInputs) -> tuple[Tensor, Looks]:
        levels = inputs.levels.clamp(max=len(self.level) - 1)
        h = self.drop(self.embed(inputs.nodes) * self.scale + self.level[levels])
        pairs = all_pairs(inputs)
        found = []
        for block in self.blocks:
            h, weights = block(h, pairs)
            found.append(weights)
        return self.norm(h), Looks(pairs.queries, pairs.keys, found)

    def states(self, inputs: GraphInputs) -> Tensor:
        h, _ = self.attend(inputs)
        states: Tensor = self.project(self.drop(self.readout(h, inputs)))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class GraphTransformer(GraphRecommender):
    """Attention among all nodes of a DAG, by how they lie to each other."""

    name = "graph_transformer"
    paper = "none for this form; biases after Ying et al. 2021, arXiv 2106.05234"
    Config = GraphTransformerConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: GraphTransformerConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> GraphTransformerNetwork:
        return GraphTransformerNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def attention(self, context: Context) -> Attention:
        """What each node took from every node of the DAG, block by block."""
        return attention_of(self, self._fitted(self._network), context)
