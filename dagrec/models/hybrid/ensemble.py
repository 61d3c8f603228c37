"""Ensemble: the mean over several fits of one recommender and several orders of a context.

    p(y | c) = 1 / (n m) sum over n models and m orders of softmax(s)_y     (mean = probability)
    log p(y | c) = mean of log softmax(s)_y, normalised to sum to 1         (mean = log)

The models differ in their seed. An order is a linear extension of the DAG upstream of the frontier: a
topological order of its nodes with the frontier last. Several orders need a base that reads ancestors
as a sequence (``read = "upstream"``). The orders that are drawn depend only on the DAG and the seed.
The log-loss of the mean probability is at most the mean of the log-losses (Jensen).

In: as the base. Out: log p, [B, C].
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.graph.upstream import Upstream, linear_extension
from dagrec.metrics.temperature import log_softmax
from dagrec.models.base import Recommender, State, Traits
from dagrec.models.hybrid.nested import BaseOptions, nest, restore_member
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores


class EnsembleConfig(BaseOptions):
    """What the ensemble averages."""

    base: str = Field("gru4rec", description="the recommender that is fitted several times")
    seeds: int = Field(5, ge=1, le=100, description="number of fits, each with another seed")
    extensions: int = Field(
        1, ge=1, le=100, description="linear extensions scored per context; 1: only the given order"
    )
    mean: Literal["probability", "log"] = Field(
        "probability",
        description="mean of probabilities, or of their logarithms (a product of experts)",
    )

    @model_validator(mode="after")
    def _extensions_need_upstream(self) -> Self:
        base = self.new_base(0)
        if self.extensions > 1 and getattr(base.config, "read", None) != "upstream":
            raise ValueError(
                "extensions above 1 need a base with read = 'upstream', found "
                f"{self.base} without it; set base_options.read, or extensions to 1"
            )
        return self


class Ensemble(Recommender):
    """The averaged predictions of one recommender that is fitted with several seeds.

    Use it to reduce the variance of a network, at the cost of as many fits.
    """

    name = "ensemble"
    paper = "Lakshminarayanan et al. 2017, arXiv 1612.01474"
    Config = EnsembleConfig
    traits = Traits(order_aware=True, graph_aware=True)
    config: EnsembleConfig

    _vocabulary: Vocabulary
    _models: list[Recommender] | None = None

    def _bases(self) -> list[Recommender]:
        return [self.config.new_base(self.seed + number) for number in range(self.config.seeds)]

    def _fit(self, data: TrainingData) -> None:
        self._models = [base.fit(data) for base in self._bases()]
        self._vocabulary = data.vocabulary

    def _score(self, contexts: Contexts) -> Scores:
        models = self._fitted(self._models)
        total: Floats | None = None
        for ordered in self._orders(contexts):
            for model in models:
                log_p = log_softmax(model.score(ordered).astype(np.float64))
                if total is None:
                    total = log_p
                elif self.config.mean == "log":
                    total = total + log_p
                else:
                    total = np.logaddexp(total, log_p)
        assert total is not None
        if self.config.mean == "log":
            total = total / (len(models) * self.config.extensions)
        scores: Scores = log_softmax(total).astype(np.float32)
        return scores

    def _orders(self, contexts: Contexts) -> Iterator[Contexts]:
        """Yield the contexts with their nodes in each of the orders to average."""
        if self.config.extensions == 1:
            yield contexts
            return
        dags = [Upstream.of(context) for context in contexts.origins]
        for number in range(self.config.extensions):
            yield self._vocabulary.encode(
                [
                    _reordered(context, dag, self.seed + number)
                    for context, dag in zip(contexts.origins, dags, strict=True)
                ]
            )

    def _state(self) -> State:
        state: State = {}
        for number, model in enumerate(self._fitted(self._models)):
            state |= nest(str(number), model.state())
        return state

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        bases = self._bases()
        if unknown := {name.split("/")[0] for name in state} - {str(i) for i in range(len(bases))}:
            raise ValueError(f"values of unknown models {', '.join(sorted(unknown))}")
        self._models = [
            restore_member(str(number), base, state, vocabulary, graph)
            for number, base in enumerate(bases)
        ]
        self._vocabulary = vocabulary


def _reordered(context: Context, dag: Upstream, seed: int) -> Context:
    """Return the context with a random topological order of its upstream DAG as its path."""
    dag_hash = zlib.crc32(repr((dag.keys, dag.parents)).encode())
    order = linear_extension(dag.parents, np.random.default_rng((seed % 2**64, dag_hash)))
    return replace(context, path=tuple(dag.keys[i] for i in order), composition=None, at=None)
