"""PAGT: a graph transformer mixed with the preferences of owners with similar histories.

    P(y | c, H) = alpha P_GT(y | c) + (1 - alpha) P_pref(y | f, H),    alpha = sigmoid(a + b log(1 + n))
    P_pref(y | f, H) = sum_j w_j N_j(y) / sum_j w_j N_j,    w_j = max(cos(x, x_j), 0)

P_GT is the softmax of the base's scores (``graph_transformer``). H is the history and n the number of
its calls; x in R^C counts the services of its newest ``calls`` calls, and f is the last node of the
context. A neighbour j is a pair of a history of training examples, with counts x_j, and their last node
f_j; N_j(y) of these examples have target y, and N_j is their number. The sums run over the K neighbours
with the largest w: among those with f_j = f if one of them shares a service with H, otherwise among all
(always with ``after="any"``). A few calls reflect the current task of an owner, many calls the owner's
general preferences; on the data that the default was chosen with, few calls work better.

A recommender of scientific workflows has the same name. It leaks in two ways that are avoided here: its
user vector includes the composition to be predicted, and its gate is scaled by the largest similarity
in the test set. Here a history ends before its example, and contexts are scored independently. Its
P_pref does not depend on the context; here it depends on f, so services that cannot follow f get little
probability.

a and b are fitted on out-of-fold predictions: the base and the neighbours are
fitted without one fold of the compositions, then applied to it. Calls that the fold shares with the
rest are skipped, and calls of the fold are removed from the histories of the rest, so that the
predictions are independent of their targets. A weak normal prior of variance 100 keeps a and b finite.

Without a history, without neighbours, or if no neighbour shares a service with the history, the scores
are exactly those of the base. Nothing that identifies owners is stored: neighbours are counts without
names, times or order, from the newest ``max_examples`` training examples.

In: DAGs and histories. Out: log P, [B, C].
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
from dagrec.models.hybrid.nested import BaseOptions, nest, restore_member
from dagrec.models.hybrid.out_of_fold import out_of_fold
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Scores

BASE = "base"
VARIANCE = 100.0
"""Variance of the normal priors of a and b, which have mean 0."""
MAX_ITERATIONS = 100
"""Maximum number of Newton iterations."""


class PagtConfig(BaseOptions):
    """The base recommender and the choice of neighbours."""

    base: str = Field("graph_transformer", description="the base recommender")
    base_options: dict[str, Any] = Field(
        {"epochs": 100, "schedule": "warmup-cosine"}, description="hyperparameters of the base"
    )
    folds: int = Field(
        3, ge=2, le=20, description="folds of the training compositions for out-of-fold predictions"
    )
    calls: int = Field(
        4,
        ge=1,
        le=MAX_HISTORY_LENGTH,
        description="number of calls of a history that are counted, the newest",
    )
    neighbours: int = Field(20, ge=1, description="number of most similar neighbours to use")
    after: Literal["node", "any"] = Field(
        "node", description="node: prefer neighbours with the same last node; any: use all neighbours"
    )
    max_examples: int = Field(
        2000, ge=1, description="number of training examples that become neighbours, the newest"
    )


@dataclass(frozen=True)
class Neighbours:
    """N neighbours: histories of training examples with their last nodes and targets.

    counts: [N, C] number of calls of each service in the history; nodes: [N] id of the last node;
    followed: [N, C] number of examples with each service as the target.
    """

    counts: Floats
    nodes: Ids
    followed: Floats

    @classmethod
    def of(cls, examples: Sequence[Example], vocabulary: Vocabulary, config: PagtConfig) -> Neighbours:
        """Return neighbours, newest first; equal histories with the same last node are one."""
        newest = sorted(examples, key=lambda e: -(e.context.time or 0.0))
        counted = ((e, service_counts(e.context, vocabulary, config.calls)) for e in newest)
        with_calls = ((e, vector) for e, vector in counted if vector.any())
        services = len(vocabulary.services)
        followed: dict[tuple[bytes, int], Floats] = defaultdict(lambda: np.zeros(services))
        for example, vector in islice(with_calls, config.max_examples):
            node = vocabulary.ids[example.context.path[-1]]
            followed[vector.tobytes(), node][vocabulary.columns[example.target]] += 1
        counts = np.frombuffer(b"".join(vector for vector, _ in followed), dtype=np.float64)
        return cls(
            counts.reshape(-1, services),
            np.array([node for _, node in followed], dtype=np.int64),
            np.array(list(followed.values()), dtype=np.float64).reshape(-1, services),
        )

    def preference(self, counts: Floats, node: int, config: PagtConfig) -> Floats | None:
        """Return P_pref [C] for the counts [C] of a history and a last node.

        None if no neighbour shares a service with the history. Ties prefer newer neighbours.
        """
        norms = np.linalg.norm(self.counts, axis=1) * np.linalg.norm(counts)
        weights = np.divide(self.counts @ counts, norms, out=np.zeros_like(norms), where=norms > 0)
        if config.after == "node":
            same_node = np.where(self.nodes == node, weights, 0.0)
            weights = same_node if same_node.any() else weights
        nearest = np.argsort(-weights, kind="stable")[: config.neighbours]
        sums: Floats = weights[nearest] @ self.followed[nearest]
        total = sums.sum()
        return sums / total if total > 0 else None


def service_counts(context: Context, vocabulary: Vocabulary, calls: int) -> Floats:
    """Return the number of calls [C] of each service among the newest ``calls`` of the history."""
    columns = [vocabulary.columns.get(call.service, -1) for call in context.history[-calls:]]
    known = np.array([column for column in columns if column >= 0], dtype=np.int64)
    return np.bincount(known, minlength=len(vocabulary.services)).astype(np.float64)


def fit_gate(base: Floats, preference: Floats, calls: Ids) -> Floats:
    """Return the maximum a posteriori (a, b) of alpha = sigmoid(a + b log(1 + calls)).

    The likelihood is that of alpha base + (1 - alpha) preference. base, preference: [n] probabilities
    of the targets; calls: [n]. The method is Newton's, with only the curvature of the gates: as in
    expectation-maximisation, it is an upper bound. A step is halved until the likelihood does not
    decrease.
    """
    x = np.stack([np.ones(len(calls)), np.log1p(calls)], axis=1)
    theta = np.zeros(2)

    def likelihood(theta: Floats) -> float:
        alpha = sigmoid(x @ theta)
        p = np.maximum(alpha * base + (1 - alpha) * preference, MIN_PROBABILITY)
        return float(np.log(p).sum() - theta @ theta / (2 * VARIANCE))

    best = likelihood(theta)
    for _ in range(MAX_ITERATIONS):
        alpha = sigmoid(x @ theta)
        mixture = np.maximum(alpha * base + (1 - alpha) * preference, MIN_PROBABILITY)
        posterior = alpha * base / mixture  # probability that the base produced the target
        gradient = x.T @ (posterior - alpha) - theta / VARIANCE
        curvature = (x.T * (alpha * (1 - alpha))) @ x + np.eye(2) / VARIANCE
        step = np.linalg.solve(curvature, gradient)
        while (value := likelihood(theta + step)) < best and np.abs(step).max() > 1e-9:
            step = step / 2
        if value - best < 1e-9:
            break
        theta, best = theta + step, value
    return theta


def sigmoid(z: Floats) -> Floats:
    """Return the logistic function of z, without overflow."""
    result: Floats = 0.5 * (1 + np.tanh(z / 2))
    return result


def _with_unseen_event(rest: TrainingData) -> Callable[[Example], bool]:
    """Return a predicate: an example has a history and no example of the rest is the same call."""
    events = {example.event for example in rest.examples} - {None}
    return lambda example: bool(example.context.history) and example.event not in events


class PAGT(Recommender):
    """A graph transformer mixed with the next services of owners with similar histories.

    Use it if owners with similar recent calls continue in similar ways.
    """

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
        # Without out-of-fold predictions the gate cannot be fitted; no neighbours are used.
        examples = data.examples if predictions else ()
        self._neighbours = Neighbours.of(examples, data.vocabulary, self.config)
        self._gate = fit_gate(*np.array(predictions, dtype=np.float64).reshape(-1, 3).T)
        self._base, self._vocabulary, self.history = base, data.vocabulary, base.history

    def _out_of_fold(self, data: TrainingData) -> list[tuple[float, float, int]]:
        """Return P_GT and P_pref of the target, and n, for the examples that have both."""
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
        """Return row -> (P_pref [C], number of calls n) for the rows that have a preference."""
        preferences = {}
        for row, context in enumerate(contexts.origins):
            counts = service_counts(context, vocabulary, self.config.calls)
            preference = neighbours.preference(counts, int(contexts.last[row]), self.config)
            if preference is not None:
                calls = int(service_counts(context, vocabulary, MAX_HISTORY_LENGTH).sum())
                preferences[row] = preference, calls
        return preferences

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
        """Return the weight of the base for a history with this number of calls."""
        self._fitted(self._base)
        return float(sigmoid(self._gate @ np.array([1.0, np.log1p(calls)])))

    def _embeddings(self) -> dict[str, Floats]:
        return self._fitted(self._base).embeddings()

    def _state(self) -> State:
        base, neighbours = self._fitted(self._base), self._neighbours
        return nest(BASE, base.state()) | {
            "counts": neighbours.counts,
            "nodes": neighbours.nodes,
            "followed": neighbours.followed,
            "gate": self._gate,
        }

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        values = {name: array for name, array in state.items() if not name.startswith(f"{BASE}/")}
        counts, followed, gate = (
            values.pop(name).astype(np.float64) for name in ("counts", "followed", "gate")
        )
        nodes = values.pop("nodes").astype(np.int64)
        shape = len(nodes), len(vocabulary.services)
        if values:
            raise ValueError(f"unknown values {', '.join(sorted(values))}")
        if not (
            nodes.ndim == 1
            and counts.shape == followed.shape == shape
            and gate.shape == (2,)
            and all((np.isfinite(a) & (a >= 0)).all() for a in (counts, followed))
            and np.isfinite(gate).all()
        ):
            raise ValueError("neighbours or a gate of inconsistent shapes or values")
        base = restore_member(BASE, self._new_base(), state, vocabulary, graph)
        self._base, self._vocabulary = base, vocabulary
        self._neighbours, self._gate = Neighbours(counts, nodes, followed), gate
