"""Preference-aware Graph Transformer: what came next where earlier histories looked like this one.

    P(y | c, H) = alpha P_GT(y | c) + (1 - alpha) P_pref(y | f, H),    alpha = sigmoid(a + b log(1 + n))
    P_pref(y | f, H) = sum_j w_j N_j(y) / sum_j w_j N_j,    w_j = max(cos(x, x_j), 0)

P_GT is the softmax of a Graph Transformer's scores, the base (``graph_transformer``). H is the history,
n the number of its calls; x in R^C counts the services of the newest ``calls`` of them, and f is the
last node of the context. A neighbour j is a history that training examples had, as counts x_j, together
with the node f_j that they continued from; N_j(y) of them went on with y. The sums are over the K
neighbours with the most w: of those with f_j = f, where one of them has a service in common with H, and
of all otherwise (always, with ``after="any"``). Few calls tell what an owner is about now, many tell
who it is; on the compositions that this was made with, few are worth more.

A recommender of scientific workflows goes by this name; this one differs where that one leaks. There
the user's vector counts the very composition that is asked about, and the gate is scaled by the largest
similarity in the test set. Here a vector holds only what was over when its example began, and a row is
answered alone. Its P_pref knows nothing of the context; given f, it no longer speaks of services that
cannot follow.

a and b make foreseen examples likeliest: the base and the neighbours are learned without one fold of
the compositions at a time and asked about it. A call that the rest shares with the fold is not asked
about, and what the fold called is taken out of the rest's histories, so that no trace of an answer is
left in what gives it. A weak prior, of variance 100, holds a and b where all examples say the same.

Without a history, without neighbours, or where no neighbour has a service in common with it, the scores
are those of the base, bit by bit: a new owner gets its answer. Nothing about owners is stored:
neighbours are counts without a name, a time or an order, and ``store`` bounds how many, the newest
examples first.

In: DAGs, and histories. Out: log P, [B, C].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
from pydantic import Field

from dagrec.data.examples import Context, Example
from dagrec.data.history import MAX_HISTORY_LENGTH, Histories
from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.metrics.temperature import MIN_PROBABILITY, log_softmax
from dagrec.models.base import Recommender, State, Traits
from dagrec.models.hybrid.nested import BaseOptions, nest, restored
from dagrec.models.hybrid.out_of_fold import out_of_fold
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Scores

BASE = "base"
VARIANCE = 100.0
"""Of the prior of a and of b, around 0."""
STEPS = 100
"""Of Newton's method, at most."""


class PagtConfig(BaseOptions):
    """The base, and what are neighbours."""

    base: str = Field("graph_transformer", description="recommender that knows nothing of owners")
    base_options: dict[str, Any] = Field(
        {"epochs": 100, "schedule": "warmup-cosine"}, description="its hyperparameters"
    )
    folds: int = Field(
        3, ge=2, le=20, description="folds of the training compositions for out-of-fold predictions"
    )
    calls: int = Field(
        4, ge=1, le=MAX_HISTORY_LENGTH, description="calls of a history that are counted, the newest"
    )
    neighbours: int = Field(20, ge=1, description="most similar neighbours that are asked")
    after: Literal["node", "any"] = Field(
        "node", description="node: neighbours that continued from the same node, if any; any: all"
    )
    store: int = Field(
        2000, ge=1, description="training examples that are kept as neighbours, the newest"
    )


@dataclass(frozen=True)
class Neighbours:
    """Histories of training examples, and what came next.

    counts: [N, C] of each service in the history; nodes: [N] id of the node that was continued from;
    followed: [N, C] how many examples went on with each service.
    """

    counts: Floats
    nodes: Ids
    followed: Floats

    @classmethod
    def of(cls, examples: Sequence[Example], vocabulary: Vocabulary, config: PagtConfig) -> Neighbours:
        """Examples that agree in their history and their last node are one neighbour; newest first."""
        newest = sorted(examples, key=lambda e: -(e.context.time or 0.0))
        told = ((e, count(e.context, vocabulary, config.calls)) for e in newest)
        services = len(vocabulary.services)
        found: dict[tuple[bytes, int], Floats] = defaultdict(lambda: np.zeros(services))
        for example, vector in islice((pair for pair in told if pair[1].any()), config.store):
            node = vocabulary.ids[example.context.path[-1]]
            found[vector.tobytes(), node][vocabulary.columns[example.target]] += 1
        counts = np.frombuffer(b"".join(vector for vector, _ in found), dtype=np.float64)
        return cls(
            counts.reshape(-1, services),
            np.array([node for _, node in found], dtype=np.int64),
            np.array(list(found.values()), dtype=np.float64).reshape(-1, services),
        )

    def preference(self, counts: Floats, node: int, config: PagtConfig) -> Floats | None:
        """P_pref [C] of one history [C] at a node; None where no neighbour has a service in common.

        Of equally similar ones the newer are nearer.
        """
        norms = np.linalg.norm(self.counts, axis=1) * np.linalg.norm(counts)
        weights = np.divide(self.counts @ counts, norms, out=np.zeros_like(norms), where=norms > 0)
        if config.after == "node":
            own = np.where(self.nodes == node, weights, 0.0)
            weights = own if own.any() else weights
        nearest = np.argsort(-weights, kind="stable")[: config.neighbours]
        found: Floats = weights[nearest] @ self.followed[nearest]
        total = found.sum()
        return found / total if total > 0 else None


def count(context: Context, vocabulary: Vocabulary, calls: int) -> Floats:
    """[C] how often each known service is among the newest calls of the history."""
    columns = [vocabulary.columns.get(call.service, -1) for call in context.history[-calls:]]
    known = np.array([column for column in columns if column >= 0], dtype=np.int64)
    return np.bincount(known, minlength=len(vocabulary.services)).astype(np.float64)


def fit_gate(base: Floats, preference: Floats, calls: Ids) -> Floats:
    """(a, b) of alpha = sigmoid(a + b log(1 + calls)) that make alpha base + (1 - alpha) preference
    likeliest, and are likely themselves.

    base, preference: [n] probabilities of what came next; calls: [n]. Newton's steps, but with the
    curvature of the gates alone: as in expectation-maximisation, it is never too small. A step is
    halved until the likelihood does not fall.
    """
    x = np.stack([np.ones(len(calls)), np.log1p(calls)], axis=1)
    theta = np.zeros(2)

    def likelihood(theta: Floats) -> float:
        alpha = sigmoid(x @ theta)
        mixed = np.maximum(alpha * base + (1 - alpha) * preference, MIN_PROBABILITY)
        return float(np.log(mixed).sum() - theta @ theta / (2 * VARIANCE))

    best = likelihood(theta)
    for _ in range(STEPS):
        alpha = sigmoid(x @ theta)
        of_base = alpha * base / np.maximum(alpha * base + (1 - alpha) * preference, MIN_PROBABILITY)
        slope = x.T @ (of_base - alpha) - theta / VARIANCE
        curvature = (x.T * (alpha * (1 - alpha))) @ x + np.eye(2) / VARIANCE
        step = np.linalg.solve(curvature, slope)
        while (value := likelihood(theta + step)) < best and np.abs(step).max() > 1e-9:
            step = step / 2
        if value - best < 1e-9:
            break
        theta, best = theta + step, value
    return theta


def sigmoid(z: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(z / 2))
    return found


def _with_unseen_event(rest: TrainingData) -> Callable[[Example], bool]:
    """Whether an example has a history, and is a call that no example of the rest shares."""
    events = {example.event for example in rest.examples} - {None}
    return lambda example: bool(example.context.history) and example.event not in events


class PAGT(Recommender):
    """A graph transformer, and what followed histories like this one."""

    name = "pagt"
    paper = "none for this form; user-based neighbours after Resnick et al. 1994 (GroupLens)"
    Config = PagtConfig
    traits = Traits(order_aware=True, graph_aware=True, owner_aware=True)
    config: PagtConfig

    _base: Recommender | None = None
    _neighbours: Neighbours
    _gate: Floats
    _vocabulary: Vocabulary

    def _new_base(self) -> Recommender:
        return self.config.new_base(self.seed)

    def _fit(self, data: TrainingData) -> None:
        base = self._new_base().fit(data)
        predictions = self._out_of_fold(data)
        # Without predictions, nobody knows whether neighbours are right: there are none.
        examples = data.examples if predictions else ()
        self._neighbours = Neighbours.of(examples, data.vocabulary, self.config)
        self._gate = fit_gate(*np.array(predictions, dtype=np.float64).reshape(-1, 3).T)
        self._base, self._vocabulary, self.history = base, data.vocabulary, base.history

    def _out_of_fold(self, data: TrainingData) -> list[tuple[float, float, int]]:
        """P_GT and P_pref of what came next in the examples that have both, and n."""
        if not any(example.context.history for example in data.examples):
            return []
        predictions: list[tuple[float, float, int]] = []
        for fold in out_of_fold(data, self.config.folds, self.seed, keep=_with_unseen_event):
            rest = fold.rest.examples
            neighbours = Neighbours.of(
                Histories.of(rest).with_history(rest), data.vocabulary, self.config
            )
            preferences = self._preferences(fold.contexts, neighbours, data.vocabulary)
            if not preferences:
                continue
            fold = fold.take(np.array(list(preferences), dtype=np.int64))
            p = np.exp(log_softmax(fold.scores(self._new_base())))
            for row, target, (preference, calls) in zip(
                p, fold.targets, preferences.values(), strict=True
            ):
                predictions.append((max(row[target], MIN_PROBABILITY), preference[target], calls))
        return predictions

    def _preferences(
        self, contexts: Contexts, neighbours: Neighbours, vocabulary: Vocabulary
    ) -> dict[int, tuple[Floats, int]]:
        """Row -> P_pref [C] and the number n of calls, of the rows that have such."""
        found = {}
        for row, context in enumerate(contexts.origins):
            counts = count(context, vocabulary, self.config.calls)
            preference = neighbours.preference(counts, int(contexts.last[row]), self.config)
            if preference is not None:
                found[row] = preference, int(count(context, vocabulary, MAX_HISTORY_LENGTH).sum())
        return found

    def _score(self, contexts: Contexts) -> Scores:
        scores = self._fitted(self._base).score(contexts).copy()
        for row, (preference, calls) in self._preferences(
            contexts, self._neighbours, self._vocabulary
        ).items():
            p = np.exp(log_softmax(scores[row : row + 1].astype(np.float64)))[0]
            alpha = self.alpha(calls)
            scores[row] = np.log(np.maximum(alpha * p + (1 - alpha) * preference, MIN_PROBABILITY))
        return scores

    def alpha(self, calls: int) -> float:
        """The weight of the base where so many calls are told."""
        self._fitted(self._base)
        return float(sigmoid(self._gate @ np.array([1.0, np.log1p(calls)])))

    def _embeddings(self) -> dict[str, Floats]:
        return self._fitted(self._base).embeddings()

    def _state(self) -> State:
        base, near = self._fitted(self._base), self._neighbours
        own = {"counts": near.counts, "nodes": near.nodes, "followed": near.followed}
        return nest(BASE, base.state()) | own | {"gate": self._gate}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        own = {name: array for name, array in state.items() if not name.startswith(f"{BASE}/")}
        counts, followed, gate = (
            own.pop(name).astype(np.float64) for name in ("counts", "followed", "gate")
        )
        nodes = own.pop("nodes").astype(np.int64)
        shape = len(nodes), len(vocabulary.services)
        if own:
            raise ValueError(f"values of {', '.join(sorted(own))}, which it does not have")
        if not (
            nodes.ndim == 1
            and counts.shape == followed.shape == shape
            and gate.shape == (2,)
            and all((np.isfinite(a) & (a >= 0)).all() for a in (counts, followed))
            and np.isfinite(gate).all()
        ):
            raise ValueError("neighbours or a gate that do not belong together")
        base = restored(BASE, self._new_base(), state, vocabulary, graph)
        self._base, self._vocabulary = base, vocabulary
        self._neighbours, self._gate = Neighbours(counts, nodes, followed), gate
