"""iALS: implicit alternating least squares (Hu, Koren and Volinsky 2008; Rendle et al. 2021).

    L(W, H) = sum_u n_u [ sum_{i in u} (w_u . h_i - 1)^2 + alpha0 sum_i (w_u . h_i)^2 + l2_u |w_u|^2 ]
              + sum_i l2_i |h_i|^2
    l2_u = l2 (|u| + alpha0 I)^nu,   l2_i = l2 (n of the rows with i + alpha0 sum_u n_u)^nu
    w_u = ( sum_{i in u} h_i h_i^T + alpha0 H^T H + l2_u )^-1  sum_{i in u} h_i

and h_i is computed in the same way from the rows that contain i. Rows u are training examples: the
nodes of the context, the mark of its last node (a separate item, with ``last = true``) and the target.
n_u equal examples are one row, which gives the same solution. I is the number of items that occur;
other items have the vector 0 and do not contribute.

A context to score is a new row: its w is solved for, with the l2 of a row of its size, as in training.
This is the exact optimum for the given H. (The authors' code uses an unscaled l2 for new rows, unlike
in training.) s(y) = w . h_y. A service that is already in the set has a high score, because the model
predicts the items of a row. The paper excludes such items; here a service can occur twice, so it
remains a candidate.

Scores estimate 0 or 1, so their softmax is nearly uniform; only their order is meaningful. The initial
vectors are random for the rows, in the order of the data, so that names of nodes do not matter.

In: sets of nodes and their last nodes. Out: scores [B, C].
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

INITIAL_STD = 0.1
"""Standard deviation of the initial vectors, times the square root of their width."""


class IALSConfig(SetOptions):
    """Hyperparameters of the factorisation."""

    width: int = Field(32, ge=1, le=1024, description="width of the vectors")
    alpha0: float = Field(0.1, ge=0, le=1e6, description="weight of unobserved items")
    l2: float = Field(0.03, ge=1e-6, le=1e6, description="L2 regularisation of the vectors")
    nu: float = Field(
        1.0,
        ge=0,
        le=2,
        description="power with which the regularisation increases with frequency; 0: constant",
    )
    epochs: int = Field(16, ge=1, description="number of times that both sides are solved for")


class IALS(Recommender):
    """Matrix factorisation by alternating least squares, with an exact solution for new contexts.

    Use it as a factorisation baseline that needs no torch and few hyperparameters.
    """

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
        users = np.random.default_rng(self.seed).normal(0, INITIAL_STD / width**0.5, (len(rows), width))
        items = item_step(users, rows, self.config)
        for _ in range(1, self.config.epochs):
            users = user_step(items, rows.rows, rows.items, self.config)
            items = item_step(users, rows, self.config)
        self._items, self._vocabulary = items, data.vocabulary

    def _score(self, contexts: Contexts) -> Scores:
        items, vocabulary = self._fitted(self._items), self._fitted(self._vocabulary)
        sets = Sets.of(contexts, vocabulary, self.config.read)
        set_numbers, columns = np.nonzero(sets.multi_hot(vocabulary, last=self.config.last))
        rows = Ragged.of(np.bincount(set_numbers, minlength=len(sets)))
        users = user_step(items, rows, columns, self.config)
        services = slice(FIRST_SERVICE, FIRST_SERVICE + len(vocabulary.services))
        scores: Scores = (users @ items[services].T).astype(np.float32)
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
            raise ValueError(f"vectors of shape {items.shape} instead of {shape}")
        self._items, self._vocabulary = items, vocabulary


def user_step(items: Floats, rows: Ragged, columns: Ids, config: IALSConfig) -> Floats:
    """Return the optimal W [U, D] for given H; columns: the items of all rows, row by row."""
    num_items = int(items.any(axis=1).sum())
    l2: Floats = config.l2 * np.power(rows.lengths + config.alpha0 * num_items, config.nu)
    return solve(items, rows, columns, np.ones(len(columns)), config.alpha0 * items.T @ items, l2)


def item_step(users: Floats, rows: Interactions, config: IALSConfig) -> Floats:
    """Return the optimal H [I, D] for given W; 0 for items that do not occur."""
    by_item = rows.matrix().tocsc()
    l2: Floats = config.l2 * np.power(rows.totals() + config.alpha0 * rows.weights.sum(), config.nu)
    gram = config.alpha0 * users.T @ (users * rows.weights[:, None])
    weights = rows.weights[by_item.indices]
    return solve(users, Ragged(by_item.indptr), by_item.indices, weights, gram, l2)


def solve(
    vectors: Floats, rows: Ragged, columns: Ids, weights: Floats, gram: Floats, l2: Floats
) -> Floats:
    """Return ( sum c v v^T + gram + l2 )^-1 sum c v for each row, [n, D]; 0 for empty rows.

    The sums are over the entries of the row. vectors: [m, D] v of the other side; columns, weights: the
    indices of v and the weights c of all entries, row by row; gram: [D, D]; l2: [n].
    """
    width = vectors.shape[1]
    solution = np.zeros((len(l2), width))
    nonempty = np.flatnonzero(rows.lengths)
    for start in range(0, len(nonempty), ROWS_PER_PASS):
        part = nonempty[start : start + ROWS_PER_PASS]
        left, right = np.empty((len(part), width, width)), np.empty((len(part), width))
        for i, row in enumerate(part):
            entries = slice(rows.starts[row], rows.starts[row + 1])
            v = vectors[columns[entries]]
            weighted = v * weights[entries, None]
            left[i], right[i] = v.T @ weighted, weighted.sum(axis=0)
        left += gram + l2[part, None, None] * np.eye(width)
        solution[part] = np.linalg.solve(left, right[:, :, None])[:, :, 0]
    return solution
