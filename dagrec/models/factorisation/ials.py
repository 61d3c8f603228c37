"""iALS: implicit alternating least squares (Hu, Koren and Volinsky 2008; Rendle et al. 2021).

    L(W, H) = sum_u n_u [ sum_{i in u} (w_u . h_i - 1)^2 + alpha0 sum_i (w_u . h_i)^2 + l2_u |w_u|^2 ]
              + sum_i l2_i |h_i|^2
    l2_u = l2 (|u| + alpha0 I)^nu,   l2_i = l2 (n of the rows with i + alpha0 sum_u n_u)^nu
    w_u = ( sum_{i in u} h_i h_i^T + alpha0 H^T H + l2_u )^-1  sum_{i in u} h_i

and h_i in the same way from the rows that hold i. Rows u are training examples: the nodes of the
context, the mark of its last node (an item of its own, ``last = true``) and the target. n_u equal
examples are one row, which is the same mathematics. I counts the items that occur; others have the
vector 0, and no part in anything.

A context that is asked about is a row that nobody has seen: w is solved for, with the l2 of a row of
its size, as in training. That is the exact optimum given H. (The authors' code folds in with an l2 that
is not scaled, unlike its training.) s(y) = w . h_y. A service that the set holds already has a high
score, for being there; in the paper such are no answers, here a service can come twice.

Scores are estimates of 0 or 1: softmax of them is nearly uniform, and their order is what means
something. First vectors are random for the rows, in the order of the data, so that no name of a node
matters.

In: sets of nodes and their last. Out: scores [B, C].
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST_SERVICE, Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State, Traits
from dagrec.models.interactions import ROWS_PER_PASS, Interactions, SetOptions, Sets
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Ragged, Scores

INIT = 0.1
"""Standard deviation of the first vectors, times the root of their width."""


class IALSConfig(SetOptions):
    """Hyperparameters of the factorisation."""

    width: int = Field(32, ge=1, le=1024, description="width of the vectors")
    alpha0: float = Field(0.1, ge=0, le=1e6, description="weight of what a row does not hold")
    l2: float = Field(0.03, ge=1e-6, le=1e6, description="weight of the squared vectors")
    nu: float = Field(
        1.0, ge=0, le=2, description="power with which that weight grows with frequency; 0: not"
    )
    epochs: int = Field(16, ge=1, description="times that both sides are solved for")


class IALS(Recommender):
    """Vectors of items; the vector of a set is solved for."""

    name = "ials"
    paper = "Rendle et al. 2021, arXiv 2110.14037"
    Config = IALSConfig
    traits = Traits()
    config: IALSConfig

    _items: Floats | None = None
    _vocabulary: Vocabulary | None = None

    def _fit(self, data: TrainingData) -> None:
        rows = Interactions.of_examples(data, self.config)
        width = self.config.width
        users = np.random.default_rng(self.seed).normal(0, INIT / width**0.5, (len(rows), width))
        items = item_step(users, rows, self.config)
        for _ in range(1, self.config.epochs):
            users = user_step(items, rows.rows, rows.items, self.config)
            items = item_step(users, rows, self.config)
        self._items, self._vocabulary = items, data.vocabulary

    def _score(self, contexts: Contexts) -> Scores:
        items, vocabulary = self._fitted(self._items), self._fitted(self._vocabulary)
        sets = Sets.of(contexts, vocabulary, self.config.read)
        owners, held = np.nonzero(sets.multi_hot(vocabulary, last=self.config.last))
        rows = Ragged.of(np.bincount(owners, minlength=len(sets)))
        users = user_step(items, rows, held, self.config)
        scores: Scores = (
            users @ items[FIRST_SERVICE : FIRST_SERVICE + len(vocabulary.services)].T
        ).astype(np.float32)
        return scores

    def _embeddings(self) -> dict[str, Floats]:
        nodes = self._fitted(self._items)[FIRST_SERVICE : len(self._fitted(self._vocabulary))]
        return {"nodes": nodes, "services": nodes[: len(self._fitted(self._prior))]}

    def _state(self) -> State:
        return {"items": self._fitted(self._items)}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        items = state["items"].astype(np.float64)
        shape = (len(vocabulary) * (1 + self.config.last), self.config.width)
        if items.shape != shape:
            raise ValueError(f"vectors of shape {items.shape} where {shape} belongs")
        self._items, self._vocabulary = items, vocabulary


def user_step(items: Floats, rows: Ragged, held: Ids, config: IALSConfig) -> Floats:
    """[U, D], the best w given H. held: items of the rows, one row behind the other."""
    occurring = int(items.any(axis=1).sum())
    l2: Floats = config.l2 * np.power(rows.lengths + config.alpha0 * occurring, config.nu)
    return solve(items, rows, held, np.ones(len(held)), config.alpha0 * items.T @ items, l2)


def item_step(users: Floats, rows: Interactions, config: IALSConfig) -> Floats:
    """[I, D], the best h given W; 0 for items of no row."""
    by_item = rows.matrix().tocsc()
    l2: Floats = config.l2 * np.power(rows.totals() + config.alpha0 * rows.weights.sum(), config.nu)
    every = config.alpha0 * users.T @ (users * rows.weights[:, None])
    weights = rows.weights[by_item.indices]
    return solve(users, Ragged(by_item.indptr), by_item.indices, weights, every, l2)


def solve(
    vectors: Floats, rows: Ragged, held: Ids, weights: Floats, every: Floats, l2: Floats
) -> Floats:
    """[n, D], for each row ( sum c v v^T + every + l2 )^-1 sum c v over what it holds; 0 for nothing.

    vectors: [m, D] of the other side; held: which of them the rows hold, and weights: c, one row behind
    the other; every: [D, D]; l2: [n].
    """
    width = vectors.shape[1]
    found = np.zeros((len(l2), width))
    holding = np.flatnonzero(rows.lengths)
    for start in range(0, len(holding), ROWS_PER_PASS):
        part = holding[start : start + ROWS_PER_PASS]
        left, right = np.empty((len(part), width, width)), np.empty((len(part), width))
        for i, row in enumerate(part):
            own = slice(rows.starts[row], rows.starts[row + 1])
            v = vectors[held[own]]
            weighted = v * weights[own, None]
            left[i], right[i] = v.T @ weighted, weighted.sum(axis=0)
        left += every + l2[part, None, None] * np.eye(width)
        found[part] = np.linalg.solve(left, right[:, :, None])[:, :, 0]
    return found
