"""GRU4Rec that reads the owner's recent calls before the current path. Ours; parts after others.

    e_i = [E[f_i] ; E[s_i]],  g_i = GRU(drop_e(e_i), g_{i-1}),  g_0 = 0         calls 1..n, oldest first
    q = V [E[f] ; g_n],  k_i = V [E[f_i] ; g_{i-1}]
    a_i = exp(z_i) / (1 + sum_j exp(z_j)),  z_i = q . k_i / sqrt(D) + r[n - i]
    s(y) = w_y . drop_h(h) + b_y  +  u_y . drop_h(g_n)  +  c sum_{i: s_i = y} a_i

Call i of the owner's history came after the node f_i, and its service was s_i; f is the last node of
the current path, and h the state of GRU4Rec over it (Hidasi et al., ICLR 2016), which is the base. The
state g_n tells what the owner is doing. The attention a compares the question "what comes after f, when
the owner has just done g_n" with the same question at each earlier call, and repeats the answers that
were given then (a pointer: Vinyals et al., NeurIPS 2015, arXiv 1506.03134). The one matrix V makes both
sides of it: equal questions are alike from the first step on. The 1 in the denominator is a call that
never was; it takes the attention where nothing earlier is alike. r says how much a call's age counts.
A global state beside an attention over what was done is also how NARM reads a session (Li et al., CIKM
2017, arXiv 1711.04725).

Without a history, or with calls of unknown services only, g_n and a are 0, and the scores are those of
the base exactly, which is the same network less its last two terms. So that it can stand alone even
where almost every example has a history, training leaves out the whole history of a context with
probability ``history_dropout``. Who the owner is is never read, and nothing about owners is stored.

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
from dagrec.data.vocabulary import FIRST, PADDING, UNKNOWN, Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.sequence.base import SequenceRecommender
from dagrec.models.sequence.gru4rec import GRU4RecConfig, GRUNetwork
from dagrec.models.sequence.paths import ForestInputs, PathForest
from dagrec.training.data import TrainingData
from dagrec.training.network import Network
from dagrec.training.options import ScheduleName
from dagrec.types import Ids

NODE, SERVICE = 0, 1
"""Places in a call: id of the last node of its path, id of its service."""


class OwnerGRUConfig(GRU4RecConfig):
    """Hyperparameters of GRU4Rec, and of what reads the history."""

    epochs: int = Field(30, ge=1, description="passes over the contexts, at most")
    min_steps: int = Field(400, ge=0, description="on small data, more epochs until there are so many")
    learning_rate: float = Field(2e-3, gt=0, description="step size at its highest")
    schedule: ScheduleName = Field("warmup-cosine", description="of the step size")
    calls: int = Field(
        16, ge=1, le=MAX_HISTORY_LENGTH, description="calls of the history that are read, the newest"
    )
    history_hidden: int = Field(64, ge=1, description="width of the state of the history")
    history_dropout: float = Field(
        0.2, ge=0, lt=1, description="contexts whose whole history is left out in training"
    )


class OwnerInputs(NamedTuple):
    """forest: the paths; calls: [R, n, 2] node ids of (last node of the path, service), the oldest
    first, padded behind; counts: [R] calls of each context."""

    forest: ForestInputs
    calls: Tensor
    counts: Tensor


@dataclass(frozen=True)
class OwnerUnits:
    """A unit a context, unless none has a history: then a path answers its prefixes.

    calls: [B, n, 2]; counts: [B].
    """

    forest: PathForest
    calls: Ids
    counts: Ids

    @classmethod
    def of(cls, contexts: Contexts, vocabulary: Vocabulary, most: int, *, shared: bool) -> OwnerUnits:
        ids = vocabulary.ids
        found = [
            [(ids.get(node, UNKNOWN), ids[call.service]) for call, node in read(context, most)
             if call.service in vocabulary.columns]
            for context in contexts.origins
        ]  # fmt: skip
        counts = np.array([len(own) for own in found], dtype=np.int64)
        calls = np.full((len(found), int(counts.max(initial=0)), 2), PADDING, dtype=np.int64)
        for row, own in enumerate(found):
            if own:
                calls[row, : len(own)] = own
        forest = PathForest.of(contexts, shared=shared and not counts.any())
        return cls(forest, calls, counts)

    @property
    def sizes(self) -> Ids:
        return self.forest.sizes + self.counts[self.forest.leaves.rows]

    def take(self, units: Ids) -> tuple[OwnerInputs, Ids]:
        forest, answered = self.forest.take(units)
        counts = self.counts[answered]
        # One column at least: every parameter is then part of every batch, with gradient 0 or not.
        width = max(int(counts.max(initial=0)), 1)
        calls = np.full((len(answered), width, 2), PADDING, dtype=np.int64)
        calls[:, : self.calls.shape[1]] = self.calls[answered, :width]
        return OwnerInputs(forest, torch.from_numpy(calls), torch.from_numpy(counts)), answered


def read(context: Context, most: int) -> list[tuple[Call, str]]:
    """The newest calls of the history, the oldest first, and the last node of each one's path.

    A call without a path began its composition; its node is no key.
    """
    return [(call, call.path[-1] if call.path else "") for call in context.history[-most:]]


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
        self.question = nn.Linear(config.embedding + self.width, self.width, bias=False)
        self.age = nn.Parameter(torch.zeros(config.calls))
        self.doing = nn.Linear(self.width, services, bias=False)
        # An answer that all attention repeats is exp(3), about 20 times, as likely at first.
        self.repeat = nn.Parameter(torch.tensor([3.0]))

    def states(self, inputs: OwnerInputs) -> Tensor:
        """[R, H + D + C]: state of the path; state of the history; attention to each service."""
        h = self.base.states(inputs.forest)
        last = inputs.forest.nodes[inputs.forest.answered]
        counts = inputs.counts
        if self.training and self.history_dropout:
            kept = torch.rand(len(counts), device=counts.device) >= self.history_dropout
            counts = counts * kept
        before, now = self._doing(inputs.calls, counts)
        weights = self._attention(last, inputs.calls, counts, before, now)
        # Padding has weight 0: whatever column it falls into gets nothing.
        columns = (inputs.calls[:, :, SERVICE] - FIRST).clamp(min=0)
        repeated = weights.new_zeros(len(h), self.services).scatter_add(1, columns, weights)
        return torch.cat([h, self.base.drop_hidden(now), repeated], dim=1)

    def _doing(self, calls: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """State of the history before each call [R, n, D], and after all of them [R, D]."""
        embedded = self.base.drop_embedding(self.base.embed(calls)).flatten(2)  # [R, n, 2 E]
        after, _ = self.gru(embedded)
        before = torch.cat([after.new_zeros(len(after), 1, self.width), after], dim=1)
        now = before[torch.arange(len(counts), device=counts.device), counts]
        return before[:, :-1], now

    def _attention(
        self, last: Tensor, calls: Tensor, counts: Tensor, before: Tensor, now: Tensor
    ) -> Tensor:
        """[R, n] weights of the calls; what is left of 1 is the weight of none of them."""
        embed = self.base.embed
        query = self.question(torch.cat([embed(last), now], dim=1))
        keys = self.question(torch.cat([embed(calls[:, :, NODE]), before], dim=2))
        ages = counts[:, None] - 1 - torch.arange(calls.shape[1], device=calls.device)  # [R, n]
        z = (keys @ query[:, :, None]).squeeze(2) * self.width**-0.5 + self.age[ages.clamp(min=0)]
        z = z.masked_fill(ages < 0, -torch.inf)
        none = z.new_zeros(len(z), 1)
        weights: Tensor = torch.softmax(torch.cat([none, z], dim=1), dim=1)[:, 1:]
        return weights

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        sizes = [self.base_width, self.width, self.services]
        h, now, repeated = states.split(sizes, dim=1)
        weight = self.doing.weight
        if columns is not None:
            weight, repeated = weight[columns], repeated[:, columns]
        history = nn.functional.linear(now, weight) + self.repeat * repeated
        # As the base has it in memory: without a history no bit of its scores may differ.
        scores: Tensor = self.base.scores(h.contiguous(), columns) + history
        return scores

    def embeddings(self) -> dict[str, Tensor]:
        return self.base.embeddings()


class OwnerGRU(SequenceRecommender):
    """GRU4Rec, and the owner's recent calls."""

    name = "owner_gru"
    paper = "none for this form; Hidasi et al. 2016, arXiv 1511.06939, with a pointer to earlier calls"
    Config = OwnerGRUConfig
    traits = Traits(order_aware=True, owner_aware=True, gradient_trained=True)
    config: OwnerGRUConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> OwnerNetwork:
        return OwnerNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def key(self, context: Context) -> Hashable:
        calls = tuple((call.service, node) for call, node in read(context, self.config.calls))
        return super().key(context), calls

    def units(self, contexts: Contexts, *, training: bool) -> OwnerUnits:
        vocabulary = self.graph.vocabulary
        return OwnerUnits.of(contexts, vocabulary, self.config.calls, shared=training)
