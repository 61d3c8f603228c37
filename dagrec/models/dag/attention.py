"""Multi-head attention over listed pairs of nodes, for DAG networks.

    q = W_q h,  k = W_k h,  v = W_v h
    alpha_ij = softmax over the pairs (i, j) of i of (q_i . k_j / sqrt(d) + bias_ij)
    out_i = W_o concat over heads of sum_j drop(alpha_ij) v_j

The pairs are a flat list of (query, key) nodes: links, ancestors, or all pairs of a DAG. A batch of
DAGs of any size needs no padding, and the weight of a pair that is not listed is exactly 0. The output
of a node without pairs is the bias of W_o.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.errors import DataError
from dagrec.graph.upstream import Upstream
from dagrec.models.attention import Attention
from dagrec.models.dag.graphs import GraphInputs, GraphRecommender, softmax_over
from dagrec.training.network import Network


class PairWeights(NamedTuple):
    """Attention weights of pairs. queries, keys: [Q] node indices; weights: [Q, heads] per layer."""

    queries: Tensor
    keys: Tensor
    weights: list[Tensor]


class GraphAttentionNetwork(Network):
    """A network over :class:`GraphInputs` that can return its attention weights."""

    @abstractmethod
    def attend(self, inputs: GraphInputs) -> tuple[Tensor, PairWeights]:
        """Return the states of all nodes [N, H] and the attention weights before dropout."""


class PairAttention(nn.Module):
    """Multi-head attention over listed pairs; ``width`` is a multiple of ``heads``."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, h: Tensor, queries: Tensor, keys: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the outputs [N, H] and the weights [Q, heads] before dropout.

        h: [N, H]; queries, keys: [Q] node indices of the pairs; bias: [Q, heads] or [Q, 1], added to
        the logits.
        """
        q, k, v = (part(h).view(len(h), self.heads, -1) for part in (self.query, self.key, self.value))
        logits = (q[queries] * k[keys]).sum(dim=2) * q.shape[2] ** -0.5
        if bias is not None:
            logits = logits + bias
        weights = softmax_over(logits, queries, len(h))
        weighted = self.drop(weights)[:, :, None] * v[keys]  # [Q, heads, H / heads]
        sums = weighted.new_zeros(v.shape).index_add(0, queries, weighted)
        return self.out(sums.flatten(1)), weights


def with_self(queries: Tensor, keys: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Return the pairs, followed by the pair of each node with itself."""
    all_nodes = torch.arange(nodes, device=queries.device)
    return torch.cat([queries, all_nodes]), torch.cat([keys, all_nodes])


def context_attention(recommender: GraphRecommender, network: nn.Module, context: Context) -> Attention:
    """Return the attention weights with which a :class:`GraphAttentionNetwork` reads a context.

    The nodes are those of the upstream DAG with the frontier last, or those of the global graph, where
    "" is the unknown node. Raises :class:`DataError` for an empty context.
    """
    vocabulary = recommender.graph.vocabulary
    if not context.path:
        raise DataError(
            f"{recommender.name}: attention needs a context with a node, found an empty one",
            rule="empty",
        )
    units = recommender.units(vocabulary.encode([context]), training=False)
    inputs, _ = units.take(np.arange(1))
    assert isinstance(network, GraphAttentionNetwork)
    with torch.inference_mode():
        _, pairs = network.attend(inputs)
    if recommender.config.graph == "upstream":
        dag = Upstream.of(context)
        keys = tuple(dag.keys[i] for i in np.argsort(dag.levels, kind="stable"))
    else:
        key_of = ("",) * FIRST_SERVICE + vocabulary.services + vocabulary.others
        keys = tuple(key_of[node] for node in inputs.nodes.tolist())
    size = len(keys)
    dense = torch.zeros(len(pairs.weights), pairs.weights[0].shape[1], size, size)
    for layer, weights in enumerate(pairs.weights):
        dense[layer][:, pairs.queries, pairs.keys] = weights.t()
    return Attention(keys, dense.numpy())
