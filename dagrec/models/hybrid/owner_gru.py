"""Owner GRU: GRU4Rec over the path, extended by the owner's recent calls. There is no paper.

    e_i = [E[f_i] ; E[s_i]],  g_i = GRU(drop_e(e_i), g_{i-1}),  g_0 = 0         calls 1..n, oldest first
    q = V [E[f] ; g_n],  k_i = V [E[f_i] ; g_{i-1}]
    a_i = exp(z_i) / (1 + sum_j exp(z_j)),  z_i = q . k_i / sqrt(D) + r[n - i]
    s(y) = w_y . drop_h(h) + b_y  +  u_y . drop_h(g_n)  +  c sum_{i: s_i = y} a_i

Call i of the owner's history has service s_i and came after node f_i; f is the last node of the current
path, and h is the state of the base, GRU4Rec over that path (Hidasi et al., ICLR 2016). The state g_n
summarises the history. The attention a compares the current situation (f, g_n) with the situation of
each earlier call (f_i, g_{i-1}) and adds weight to the services that were called then, like a pointer
network (Vinyals et al., NeurIPS 2015, arXiv 1506.03134). Queries and keys share the matrix V, so equal
situations are similar from initialisation on. The 1 in the denominator acts as an empty call that takes
the attention if no earlier situation is similar. r is a learned bias for the age of a call. NARM also
combines a global state with attention over the session (Li et al., CIKM 2017, arXiv 1711.04725).

Without a history, or if all its services are unknown, g_n and a are 0 and the scores are exactly those
of the base, which is the same network without the last two terms. To train the base even if almost all
examples have a history, training drops the whole history of a context with probability
``history_dropout``. The identity of the owner is not used, and nothing about owners is stored.

In: a forest of paths, calls [R, n, 2] and their number [R]. Out: scores [R, C].
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.examples import Call, Context
from dagrec.data.history import MAX_HISTORY_LENGTH
from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, UNKNOWN, Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.sequence.base import SequenceRecommender
from dagrec.models.sequence.gru4rec import GRU4RecConfig, GRUNetwork
from dagrec.models.sequence.paths import ForestInputs, PathForest
from dagrec.training.data import TrainingData
from dagrec.training.network import Network
from dagrec.training.options import ScheduleName
from dagrec.types import Ids

NODE, SERVICE = 0, 1
"""Indices within an encoded call: id of the last node of its path, id of its service."""


class OwnerGRUConfig(GRU4RecConfig):
    """Hyperparameters of GRU4Rec and of the history network."""

    epochs: int = Field(30, ge=1, description="maximum number of epochs")
    min_steps: int = Field(
        400, ge=0, description="on small data, epochs are added until there are this many steps"
    )
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate")
    schedule: ScheduleName = Field("warmup-cosine", description="schedule of the learning rate")
    calls: int = Field(
        16,
        ge=1,
        le=MAX_HISTORY_LENGTH,
        description="number of calls of the history that are read, the newest",
    )
    history_hidden: int = Field(64, ge=1, description="width of the state of the history")
    history_dropout: float = Field(
        0.2, ge=0, lt=1, description="share of contexts whose history is dropped in training"
    )


class OwnerInputs(NamedTuple):
    """Inputs of the network.

    forest: the paths; calls: [R, n, 2] node ids of (last node of the path, service), the oldest first,
    right-padded; counts: [R] number of calls of each context.
    """

    forest: ForestInputs
    calls: Tensor
    counts: Tensor


@dataclass(frozen=True)
class OwnerUnits:
    """One unit per context; only if no context has a history may a path share a unit with its prefixes.

    calls: [B, n, 2] and counts: [B], as in :class:`OwnerInputs`.
    """

    forest: PathForest
    calls: Ids
    counts: Ids

    @classmethod
    def of(
        cls, contexts: Contexts, vocabulary: Vocabulary, max_calls: int, *, shared: bool
    ) -> OwnerUnits:
        ids = vocabulary.ids
        encoded = [
            [
                (ids.get(node, UNKNOWN), ids[call.service])
                for call, node in newest_calls(context, max_calls)
                if call.service in vocabulary.columns
            ]
            for context in contexts.origins
        ]
        counts = np.array([len(row) for row in encoded], dtype=np.int64)
        calls = np.full((len(encoded), int(counts.max(initial=0)), 2), PADDING, dtype=np.int64)
        for i, row in enumerate(encoded):
            if row:
                calls[i, : len(row)] = row
        forest = PathForest.of(contexts, shared=shared and not counts.any())
        return cls(forest, calls, counts)

    @property
    def sizes(self) -> Ids:
        return self.forest.sizes + self.counts[self.forest.leaves.rows]

    def take(self, units: Ids) -> tuple[OwnerInputs, Ids]:
        forest, context_rows = self.forest.take(units)
        counts = self.counts[context_rows]
        # At least one column, so that every parameter has a gradient in every batch.
        width = max(int(counts.max(initial=0)), 1)
        calls = np.full((len(context_rows), width, 2), PADDING, dtype=np.int64)
        calls[:, : self.calls.shape[1]] = self.calls[context_rows, :width]
        return OwnerInputs(forest, torch.from_numpy(calls), torch.from_numpy(counts)), context_rows


def newest_calls(context: Context, max_calls: int) -> list[tuple[Call, str]]:
    """Return the newest calls of the history, oldest first, each with the last node of its path.

    The node of a call without a path, which is the first of its composition, is "".
    """
    return [(call, call.path[-1] if call.path else "") for call in context.history[-max_calls:]]


class OwnerNetwork(Network):
    """Paths and calls -> scores [R, C]."""

    def __init__(self, config: OwnerGRUConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.base = GRUNetwork(config, nodes, services)
        self.base_width = config.embedding if config.tied else config.hidden
        self.width = config.history_hidden
        self.services = services
        self.history_dropout = config.history_dropout
        self.gru = nn.GRU(2 * config.embedding, self.width, batch_first=True)
        self.situation = nn.Linear(config.embedding + self.width, self.width, bias=False)
        self.age_bias = nn.Parameter(torch.zeros(config.calls))
        self.history_head = nn.Linear(self.width, services, bias=False)
        # Initially, attention 1 makes a service exp(3), about 20 times, as probable.
        self.repeat_weight = nn.Parameter(torch.tensor([3.0]))

    def states(self, inputs: OwnerInputs) -> Tensor:
        """Return [R, H + D + C]: state of the path, state of the history, attention to each service."""
        h = self.base.states(inputs.forest)
        last = inputs.forest.nodes[inputs.forest.ends]
        counts = inputs.counts
        if self.training and self.history_dropout:
            keep = torch.rand(len(counts), device=counts.device) >= self.history_dropout
            counts = counts * keep
        before, now = self._history_states(inputs.calls, counts)
        weights = self._attention(last, inputs.calls, counts, before, now)
        # Padding has weight 0, so its column does not matter.
        columns = (inputs.calls[:, :, SERVICE] - FIRST_SERVICE).clamp(min=0)
        repeated = weights.new_zeros(len(h), self.services).scatter_add(1, columns, weights)
        return torch.cat([h, self.base.drop_hidden(now), repeated], dim=1)

    def _history_states(self, calls: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Return the state of the history before each call [R, n, D] and after the last one [R, D]."""
        embedded = self.base.drop_embedding(self.base.embed(calls)).flatten(2)  # [R, n, 2 E]
        after, _ = self.gru(embedded)
        before = torch.cat([after.new_zeros(len(after), 1, self.width), after], dim=1)
        now = before[torch.arange(len(counts), device=counts.device), counts]
        return before[:, :-1], now

    def _attention(
        self, last: Tensor, calls: Tensor, counts: Tensor, before: Tensor, now: Tensor
    ) -> Tensor:
        """Return the weights [R, n] of the calls; they sum to less than 1 because of the empty call."""
        embed = self.base.embed
        query = self.situation(torch.cat([embed(last), now], dim=1))
        keys = self.situation(torch.cat([embed(calls[:, :, NODE]), before], dim=2))
        ages = counts[:, None] - 1 - torch.arange(calls.shape[1], device=calls.device)  # [R, n]
        z = (keys @ query[:, :, None]).squeeze(2) * self.width**-0.5 + self.age_bias[ages.clamp(min=0)]
        z = z.masked_fill(ages < 0, -torch.inf)
        empty_call = z.new_zeros(len(z), 1)
        weights: Tensor = torch.softmax(torch.cat([empty_call, z], dim=1), dim=1)[:, 1:]
        return weights

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        sizes = [self.base_width, self.width, self.services]
        h, now, repeated = states.split(sizes, dim=1)
        weight = self.history_head.weight
        if columns is not None:
            weight, repeated = weight[columns], repeated[:, columns]
        history = nn.functional.linear(now, weight) + self.repeat_weight * repeated
        # Contiguous as in the base, so that scores without a history are bitwise equal.
        scores: Tensor = self.base.scores(h.contiguous(), columns) + history
        return scores

    def embeddings(self) -> dict[str, Tensor]:
        return self.base.embeddings()


class OwnerGRU(SequenceRecommender):
    """GRU4Rec with attention over the owner's recent calls.

    Use it if requests have an owner's history and there is enough data to train a network on it;
    otherwise prefer ``cache`` or ``ranker``.
    """

    name = "owner_gru"
    paper = "none for this form; Hidasi et al. 2016, arXiv 1511.06939, with a pointer to earlier calls"
    Config = OwnerGRUConfig
    traits = Traits(order_aware=True, owner_aware=True, gradient_trained=True)
    config: OwnerGRUConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> OwnerNetwork:
        return OwnerNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def key(self, context: Context) -> Hashable:
        calls = tuple((call.service, node) for call, node in newest_calls(context, self.config.calls))
        return super().key(context), calls

    def units(self, contexts: Contexts, *, training: bool) -> OwnerUnits:
        vocabulary = self.graph.vocabulary
        return OwnerUnits.of(contexts, vocabulary, self.config.calls, shared=training)
