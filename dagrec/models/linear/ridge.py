"""Ridge regression from the context to the target (Hoerl and Kennard 1970): EASE with a direction.

    min_{W, b}  sum_n | y_n - W^T c_n - b |^2 + l2 |W|^2
    s = W^T c + b

n runs over the training examples; y is the target's indicator [C], c is the set of the context's nodes,
and behind it (``last = true``) the indicator of the last node. Unlike EASE, targets are no inputs: what
follows is told from what leads to it. b carries no penalty, so that the scores of a context sum to 1,
and are the services' shares where l2 is large. With the last node alone, and no b,
W_cy = N(c, y) / (N(c) + l2) exactly: a Markov chain of order 1, shrunk toward 0.

Scores estimate P(y | c), though not within [0, 1]: softmax of them is nearly uniform, and their order
is what means something. Equal contexts are one row with their counts, which is the same mathematics. A
column that never occurs has no weights.

In: sets of nodes and their last. Out: scores [B, C].
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.interactions import ROWS_PER_PASS, SetOptions, set_key
from dagrec.models.linear.base import LinearRecommender
from dagrec.training.data import TrainingData
from dagrec.types import Floats


class RidgeConfig(SetOptions):
    """Hyperparameters of the regression."""

    l2: float = Field(10.0, ge=1e-6, description="weight of the squared weights, in examples")
    nodes: bool = Field(True, description="the set's nodes are inputs; false: its last node alone")
    bias: bool = Field(True, description="a constant for each service, without a penalty")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not (self.nodes or self.last):
            raise ValueError("without nodes and without last nothing of a context is an input")
        return self


class Ridge(LinearRecommender):
    """Weights from nodes to the services that follow, in closed form."""

    name = "ridge"
    paper = "Hoerl and Kennard 1970, Ridge regression: biased estimation for nonorthogonal problems"
    Config = RidgeConfig
    traits = Traits(order_aware=True)
    config: RidgeConfig

    def inputs(self, contexts: Contexts, vocabulary: Vocabulary) -> Floats:
        """[B, I]: the set, its last node, and 1 for the bias; each where it is wanted."""
        found = super().inputs(contexts, vocabulary)
        if not self.config.nodes:
            found = found[:, len(vocabulary) :]
        return np.pad(found, ((0, 0), (0, 1)), constant_values=1) if self.config.bias else found

    def weights(self, data: TrainingData) -> Floats:
        grouped = data.grouped(lambda context: set_key(context, self.config.read))
        inputs, services = self.width(data.vocabulary), len(data.vocabulary.services)
        gram, cross = np.zeros((inputs, inputs)), np.zeros((inputs, services))
        for start in range(0, len(grouped.contexts), ROWS_PER_PASS):
            rows = np.arange(start, min(start + ROWS_PER_PASS, len(grouped.contexts)))
            owners, pairs = grouped.pairs_of(rows)
            y = np.zeros((len(rows), services))
            y[owners, grouped.columns[pairs]] = grouped.counts[pairs]
            x = self.inputs(grouped.contexts.take(rows), data.vocabulary)
            gram += x.T @ (x * y.sum(axis=1, keepdims=True))
            cross += x.T @ y
        penalty = np.full(inputs, self.config.l2)
        if self.config.bias:
            penalty[-1] = 0
        return np.linalg.solve(gram + np.diag(penalty), cross).astype(np.float64, copy=False)
