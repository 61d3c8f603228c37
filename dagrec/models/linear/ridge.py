"""Ridge regression of the target on the context (Hoerl and Kennard 1970): a directed EASE.

    min_{W, b}  sum_n | y_n - W^T c_n - b |^2 + l2 |W|^2
    s = W^T c + b

n runs over the training examples. y is the indicator of the target [C]; c is the indicator of the
context's nodes, followed (with ``last = true``) by the indicator of the last node. Unlike in EASE,
targets are not inputs, so a service that follows is distinguished from the nodes before it. b is not
regularised, so the scores of a context sum to 1, and for large l2 they are the relative frequencies of
the services. With only the last node as input and without b, W_cy = N(c, y) / (N(c) + l2) exactly: a
first-order Markov chain, shrunk towards 0.

Scores estimate P(y | c), but are not bounded to [0, 1]. Their softmax is nearly uniform; only their
order is meaningful. Equal contexts are one row with their counts, which gives the same solution. The
weights of a column that does not occur are 0.

In: sets of nodes and their last nodes. Out: scores [B, C].
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

    l2: float = Field(10.0, ge=1e-6, description="L2 regularisation of the weights, in examples")
    nodes: bool = Field(
        True, description="use all nodes of the set as inputs; false: only the last node"
    )
    bias: bool = Field(True, description="add a constant for each service, without regularisation")

    @model_validator(mode="after")
    def _has_inputs(self) -> Self:
        if not (self.nodes or self.last):
            raise ValueError("without nodes and without last there are no inputs")
        return self


class Ridge(LinearRecommender):
    """Linear regression from the nodes of the context to the next service, in closed form.

    Use it as a linear baseline that combines evidence from all upstream nodes; on small data it is
    often close to networks.
    """

    name = "ridge"
    paper = "Hoerl and Kennard 1970, Ridge regression: biased estimation for nonorthogonal problems"
    Config = RidgeConfig
    traits = Traits(order_aware=True)
    config: RidgeConfig

    def inputs(self, contexts: Contexts, vocabulary: Vocabulary) -> Floats:
        """Return [B, I]: the set, its last node and 1 for the bias, as configured."""
        x = super().inputs(contexts, vocabulary)
        if not self.config.nodes:
            x = x[:, len(vocabulary) :]
        return np.pad(x, ((0, 0), (0, 1)), constant_values=1) if self.config.bias else x

    def weights(self, data: TrainingData) -> Floats:
        from scipy.sparse import csr_array, vstack

        grouped = data.grouped(lambda context: set_key(context, self.config.read))
        contexts, services = grouped.contexts, len(data.vocabulary.services)
        passes = np.split(np.arange(len(contexts)), range(ROWS_PER_PASS, len(contexts), ROWS_PER_PASS))
        x = vstack([csr_array(self.inputs(contexts.take(rows), data.vocabulary)) for rows in passes])
        y = csr_array((grouped.counts, grouped.columns, grouped.starts), (len(contexts), services))
        gram = (x.T @ (x * y.sum(axis=1)[:, None])).toarray()
        penalty = np.full(len(gram), self.config.l2)
        if self.config.bias:
            penalty[-1] = 0
        weights: Floats = np.linalg.solve(gram + np.diag(penalty), (x.T @ y).toarray())
        return weights
