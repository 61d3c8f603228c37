"""Attention over pairs of nodes, for every recommender in which nodes of DAGs look at others.

    q = W_q h,  k = W_k h,  v = W_v h
    alpha_ij = softmax over the pairs (i, j) of i of (q_i . k_j / sqrt(d) + bias_ij)
    out_i = W_o concat over heads of sum_j drop(alpha_ij) v_j

Which node may look at which is a flat list of pairs (links, ancestors, all of a DAG): DAGs of any size
stand side by side without padding, and a pair that is not listed has weight 0 exactly. A node without
pairs takes nothing; what it gets is the bias of W_o.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST
from dagrec.errors import DataError
from dagrec.graph.upstream import Upstream
from dagrec.models.attention import Attention
from dagrec.models.dag.graphs import GraphInputs, GraphRecommender, softmax_over
from dagrec.training.network import Network


class Looks(NamedTuple):
    """Who looked at whom. queries, keys: [Q] places of nodes; weights: of each layer [Q, heads]."""

    queries: Tensor
    keys: Tensor
    weights: list[Tensor]


class AttendingNetwork(Network):
    """A network over :class:`GraphInputs` whose attention can be read."""

    @abstractmethod
    def attend(self, inputs: GraphInputs) -> tuple[Tensor, Looks]:
        """States of all nodes [N, H], and the weights that led to them, before dropout."""


class PairAttention(nn.Module):
    """Multi-head attention among listed pairs; ``width`` is a multiple of ``heads``."""

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
        """h: [N, H]; queries, keys: [Q] places of who looks and at whom; bias: [Q, heads] or [Q, 1], on
        the logits. Returns [N, H], and the weights [Q, heads] before dropout."""
        q, k, v = (part(h).view(len(h), self.heads, -1) for part in (self.query, self.key, self.value))
        logits = (q[queries] * k[keys]).sum(dim=2) * q.shape[2] ** -0.5
        if bias is not None:
            logits = logits + bias
        weights = softmax_over(logits, queries, len(h))
        seen = self.drop(weights)[:, :, None] * v[keys]  # [Q, heads, H / heads]
        mixed = seen.new_zeros(v.shape).index_add(0, queries, seen)
        return self.out(mixed.flatten(1)), weights


def with_self(queries: Tensor, keys: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """These pairs, and after them each of the nodes with itself."""
    own = torch.arange(nodes, device=queries.device)
    return torch.cat([queries, own]), torch.cat([keys, own])


def attention_of(learner: GraphRecommender, network: nn.Module, context: Context) -> Attention:
    """What a recommender with this network, an AttendingNetwork, looks at to answer a context.

    The nodes are those of the upstream DAG, the frontier last, or those of the global graph with ""
    for an unknown node. Raises :class:`DataError` for an empty context.
    """
    vocabulary = learner.graph.vocabulary
    if not context.path:
        raise DataError(
            f"{learner.name}: attention needs a context with a node, found an empty one", rule="empty"
        )
    units = learner.units(vocabulary.encode([context]), training=False)
    inputs, _ = units.take(np.arange(1))
    assert isinstance(network, AttendingNetwork)
    with torch.inference_mode():
        _, looks = network.attend(inputs)
    if learner.config.graph == "upstream":
        dag = Upstream.of(context)
        keys = tuple(dag.keys[i] for i in np.argsort(dag.levels, kind="stable"))
    else:
        words = ("",) * FIRST + vocabulary.services + vocabulary.others
        keys = tuple(words[node] for node in inputs.nodes.tolist())
    size = len(keys)
    dense = torch.zeros(len(looks.weights), looks.weights[0].shape[1], size, size)
    for layer, weights in enumerate(looks.weights):
        dense[layer][:, looks.queries, looks.keys] = weights.t()
    return Attention(keys, dense.numpy())
