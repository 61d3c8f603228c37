"""Test-time ensemble: the mean of several trainings of one recommender, or of several readings of a
context.

    p(y | c) = 1 / (n m) sum over n trainings and m readings of softmax(s)_y        (mean = probability)
    log p(y | c) = the mean of log softmax(s)_y, less what makes it add up to 1     (mean = log)

Trainings differ in the seed. A reading is a linear extension of the DAG upstream of the frontier:
another order of the same ancestors that its links allow, the frontier last. It needs a base that reads
ancestors as a sequence (``read = "upstream"``). Which extensions are drawn depends on the DAG and the
seed alone. The log-loss of the mean probability is at most the mean of the log-losses (Jensen).

In: whatever the base reads. Out: log p, [B, C].
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
from dagrec.models.hybrid.nested import BaseOptions, nest, restored
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores


class EnsembleConfig(BaseOptions):
    """What is averaged."""

    base: str = Field("gru4rec", description="the recommender that is trained several times")
    seeds: int = Field(5, ge=1, le=100, description="trainings")
    extensions: int = Field(
        1, ge=1, le=100, description="linear extensions read of a context; 1: the order as it stands"
    )
    mean: Literal["probability", "log"] = Field(
        "probability", description="of probabilities, or of their logarithms (a product of experts)"
    )

    @model_validator(mode="after")
    def _reads_what_is_reordered(self) -> Self:
        base = self.new_base(0)
        if self.extensions > 1 and getattr(base.config, "read", None) != "upstream":
            raise ValueError(
                f"extensions reorders ancestors, so base needs read = 'upstream', found {self.base} "
                "without; set base_options.read, or extensions to 1"
            )
        return self


class Ensemble(Recommender):
    """Several are more certain than one where they agree, and less where they do not."""

    name = "ensemble"
    paper = "Lakshminarayanan et al. 2017, arXiv 1612.01474"
    Config = EnsembleConfig
    traits = Traits(order_aware=True, graph_aware=True)
    config: EnsembleConfig

    _vocabulary: Vocabulary
    _trained: list[Recommender] | None = None

    def _bases(self) -> list[Recommender]:
        return [self.config.new_base(self.seed + number) for number in range(self.config.seeds)]

    def _fit(self, data: TrainingData) -> None:
        self._trained = [base.fit(data) for base in self._bases()]
        self._vocabulary = data.vocabulary

    def _score(self, contexts: Contexts) -> Scores:
        trained = self._fitted(self._trained)
        total: Floats | None = None
        for reading in self._readings(contexts):
            for model in trained:
                logs = log_softmax(model.score(reading).astype(np.float64))
                if total is None:
                    total = logs
                elif self.config.mean == "log":
                    total = total + logs
                else:
                    total = np.logaddexp(total, logs)
        assert total is not None
        if self.config.mean == "log":
            total = total / (len(trained) * self.config.extensions)
        scores: Scores = log_softmax(total).astype(np.float32)
        return scores

    def _readings(self, contexts: Contexts) -> Iterator[Contexts]:
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
        for number, model in enumerate(self._fitted(self._trained)):
            state |= nest(str(number), model.state())
        return state

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        bases = self._bases()
        if unknown := {name.split("/")[0] for name in state} - {str(i) for i in range(len(bases))}:
            raise ValueError(f"values of trainings {', '.join(sorted(unknown))}")
        self._trained = [
            restored(str(number), base, state, vocabulary, graph) for number, base in enumerate(bases)
        ]
        self._vocabulary = vocabulary


def _reordered(context: Context, dag: Upstream, seed: int) -> Context:
    """The context as a sequence of all its ancestors in a drawn order, itself last."""
    told = zlib.crc32(repr((dag.keys, dag.parents)).encode())
    order = linear_extension(dag.parents, np.random.default_rng((seed % 2**64, told)))
    return replace(context, path=tuple(dag.keys[i] for i in order), composition=None, at=None)
