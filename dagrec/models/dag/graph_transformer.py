"""Graph transformer: attention between all nodes of a DAG with biases for their relative position.

    h_v = E[v] + D[level(v)];  in each of L blocks, with H heads:
    a_ij = softmax_{j in the DAG of i} (q_i . k_j / sqrt(d) + b[relation(i, j)])
    h_i <- h_i + drop(W_o concat over heads of sum_j drop(a_ij) v_j),  with q, k, v from LayerNorm(h)
    h_i <- h_i + drop(W_2 drop(GELU(W_1 LayerNorm(h_i))))
    s(y) = E[y] . W_p drop(LayerNorm(h_f) + sum_{c child of f} B[c]) + b_y

relation(i, j) is one of ten relations, each with a learned scalar b per head and block, initially 0:
self (i = j); the shortest path from i to j has 1, 2, 3 or 4 links; the shortest path from j to i has 1,
2, 3 or 4 links; none of these. This is the spatial bias of Graphormer (Ying et al., NeurIPS 2021, arXiv
2106.05234) with directions; the blocks are pre-norm (Xiong et al. 2020, arXiv 2002.04745).

A recommender of scientific workflows with the same name measures distances in the graph of all training
links. Here distances are measured in the upstream DAG, so a bias describes the relation of two nodes
within the composition; ``graph="global"`` uses the training links, and then computes all pairs of that
graph. The level embedding D replaces its learned positions. As in that recommender, the state is
projected by W_p and compared with the embeddings of the services; ``tied=false`` gives each service
separate output weights. The upstream DAG contains no node after the frontier f, so attention needs no
mask.

A DAG of n nodes has n^2 pairs. Pairs are processed in chunks of whole nodes; if there are several
chunks, their activations are recomputed in the backward pass, so that PAIRS_PER_PASS bounds memory.

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
from dagrec.models.dag.attention import (
    GraphAttentionNetwork,
    PairAttention,
    PairWeights,
    context_attention,
)
from dagrec.models.dag.graphs import GraphInputs, GraphOptions, GraphRecommender, Readout
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, NodeEmbedding

MAX_DISTANCE = 4
"""Distances above this count as unrelated."""
SELF, FORWARD, BACKWARD, UNRELATED = 0, 0, MAX_DISTANCE, 2 * MAX_DISTANCE + 1
"""Relations of i to j: i = j; FORWARD + d or BACKWARD + d: d links from i to j or back; others."""
PAIRS_PER_PASS = 1 << 18
"""Number of pairs that are computed together, unless a single node has more."""


class GraphTransformerConfig(AttentionSizes, GraphOptions):
    """Hyperparameters of the network and of training."""

    levels: int = Field(
        12, ge=1, description="number of level embeddings; higher levels share the last"
    )
    dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="dropout of embeddings, attention weights, sublayer outputs and the final state",
    )
    tied: bool = Field(True, description="use the embeddings of the services as output weights")


class Pairs(NamedTuple):
    """All pairs of nodes of the same DAG, grouped by query.

    order: [N] the queries, DAG by DAG; sizes: [N] number of pairs of each query; queries, keys: [Q]
    node indices; relations: [Q] relation of the query to the key.
    """

    order: Tensor
    sizes: Tensor
    queries: Tensor
    keys: Tensor
    relations: Tensor


def all_pairs(inputs: GraphInputs) -> Pairs:
    """Return all pairs of nodes within each DAG of a batch."""
    order = torch.argsort(inputs.graph, stable=True)
    ranks = torch.arange(len(order), device=order.device)
    rank_of = torch.empty_like(order)
    rank_of[order] = ranks  # position of each node in ``order``
    graph = inputs.graph[order]
    nodes = torch.bincount(graph)
    sizes = nodes[graph]
    first = (nodes.cumsum(0) - nodes)[graph]  # rank of the first node of the same DAG
    row = sizes.cumsum(0) - sizes - first  # the pair of ranks (i, j) has index row[i] + j
    queries = ranks.repeat_interleave(sizes)
    keys = torch.arange(len(queries), device=order.device) - row[queries]

    near = inputs.distances <= MAX_DISTANCE
    up, down = rank_of[inputs.ancestors[near]], rank_of[inputs.descendants[near]]
    relations = torch.full_like(queries, UNRELATED)
    relations[row + ranks] = SELF
    relations[row[up] + down] = FORWARD + inputs.distances[near]
    relations[row[down] + up] = BACKWARD + inputs.distances[near]
    return Pairs(order, sizes, order[queries], order[keys], relations)


class Block(nn.Module):
    """A pre-norm block: attention between all nodes of each DAG, then a feed-forward network."""

    def __init__(self, config: GraphTransformerConfig) -> None:
        super().__init__()
        width, inner = config.width, config.width * config.expansion
        self.norm_attention = nn.LayerNorm(width)
        self.attend = PairAttention(width, config.heads, config.dropout)
        self.bias = nn.Parameter(torch.zeros(UNRELATED + 1, config.heads))
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(inner, width)
        )
        self.drop = nn.Dropout(config.dropout)

    def forward(self, h: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """Return the new states [N, H] and the attention weights [Q, heads]."""
        attended, weights = self._attention(self.norm_attention(h), pairs)
        h = h + self.drop(attended)
        return h + self.drop(self.feed(self.norm_feed(h))), weights

    def _attention(self, x: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        if len(pairs.queries) <= PAIRS_PER_PASS:
            return self._attention_of_chunk(x, pairs.queries, pairs.keys, pairs.relations)
        outputs, weights = [], []
        for nodes, *chunk in chunks(pairs):
            chunk_output, chunk_weights = checkpoint(
                self._attention_of_chunk, x, *chunk, use_reentrant=False
            )
            outputs.append(chunk_output[nodes])
            weights.append(chunk_weights)
        return torch.cat(outputs)[torch.argsort(pairs.order)], torch.cat(weights)

    def _attention_of_chunk(
        self, x: Tensor, queries: Tensor, keys: Tensor, relations: Tensor
    ) -> tuple[Tensor, Tensor]:
        result: tuple[Tensor, Tensor] = self.attend(x, queries, keys, self.bias[relations])
        return result


def chunks(pairs: Pairs) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield query nodes and their pairs (queries, keys, relations), about PAIRS_PER_PASS at a time."""
    starts = pairs.sizes.cumsum(0) - pairs.sizes
    chunk_of_node = torch.unique(starts // PAIRS_PER_PASS, return_inverse=True)[1]
    node_counts = torch.bincount(chunk_of_node).tolist()
    pair_counts = [int(sizes.sum()) for sizes in pairs.sizes.split(node_counts)]
    yield from zip(
        pairs.order.split(node_counts),
        pairs.queries.split(pair_counts),
        pairs.keys.split(pair_counts),
        pairs.relations.split(pair_counts),
        strict=True,
    )


class GraphTransformerNetwork(GraphAttentionNetwork):
    """DAGs -> scores [R, C]."""

    def __init__(self, config: GraphTransformerConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.width
        self.scale = width**0.5
        self.embed = NodeEmbedding(nodes, width)
        with torch.no_grad():
            # The input sqrt(width) E[v] has unit variance; the output weights are small.
            self.embed.weight *= width**-0.5
        self.level = nn.Parameter(torch.zeros(config.levels, width))
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.readout = Readout(nodes, width)
        self.project = nn.Linear(width, width, bias=False)
        self.head = Head(width, services, self.embed if config.tied else None)

    def attend(self, inputs: GraphInputs) -> tuple[Tensor, PairWeights]:
        levels = inputs.levels.clamp(max=len(self.level) - 1)
        h = self.drop(self.embed(inputs.nodes) * self.scale + self.level[levels])
        pairs = all_pairs(inputs)
        block_weights = []
        for block in self.blocks:
            h, weights = block(h, pairs)
            block_weights.append(weights)
        return self.norm(h), PairWeights(pairs.queries, pairs.keys, block_weights)

    def states(self, inputs: GraphInputs) -> Tensor:
        h, _ = self.attend(inputs)
        states: Tensor = self.project(self.drop(self.readout(h, inputs)))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class GraphTransformer(GraphRecommender):
    """Attention between all nodes of the upstream DAG, with biases for their directed distance.

    Use it as the general attention-based DAG recommender, also where the attention weights are of
    interest.
    """

    name = "graph_transformer"
    paper = "none for this form; biases after Ying et al. 2021, arXiv 2106.05234"
    Config = GraphTransformerConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: GraphTransformerConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> GraphTransformerNetwork:
        return GraphTransformerNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def attention(self, context: Context) -> Attention:
        """Return the weights between all nodes of the DAG, one matrix per block and head."""
        return context_attention(self, self._fitted(self._network), context)
