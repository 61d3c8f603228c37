"""Time of fitting and answering, for each recommender in one run: ratios are what can be compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from dagrec.config import RunConfig
from dagrec.data.dataset import Dataset
from dagrec.data.examples import require_examples
from dagrec.data.vocabulary import Contexts
from dagrec.errors import ConfigError
from dagrec.models.fitted import Fitted
from dagrec.training.data import TrainingData
from dagrec.types import Ids

BATCH = 256
CALLS = 200
WARM_UP = 20

Advance = Callable[[str], None]


def benchmark(data: Dataset, config: RunConfig, *, advance: Advance | None = None) -> dict[str, Any]:
    """Seconds to fit on all of the data, and microseconds to score and mask a context.

    Calls are medians after a warm-up: alone (batch 1), and in a batch of 256, a context.
    """
    if not config.models:
        raise ConfigError("there must be a model to time, found none; name one with --model")
    examples, _ = require_examples(data.compositions, config.examples)
    training = TrainingData.of(examples)
    rows = np.arange(BATCH) % len(training.contexts)
    results: dict[str, Any] = {}
    for label in config.models:
        recommender = config.recommender(label)
        start = time.perf_counter()
        recommender.fit(training)
        fit = time.perf_counter() - start

        fitted = Fitted(recommender, training.graph, config.mask)
        call = partial(_answer, fitted, training.contexts)
        results[label] = {
            "fit_seconds": fit,
            "epochs": len(recommender.history),
            "microseconds_alone": 1e6 * _median(partial(call, rows[:1])),
            "microseconds_in_batch": 1e6 * _median(partial(call, rows)) / BATCH,
            "parameters": recommender.parameters(),
        }
        if advance:
            advance(label)
    return {
        "data": data.source,
        "examples": len(examples),
        "distinct_contexts": len(training.contexts),
        "services": len(training.vocabulary.services),
        "config": config.model_dump(mode="json"),
        "models": results,
    }


def _answer(fitted: Fitted, contexts: Contexts, rows: Ids) -> None:
    fitted.probabilities(contexts.take(rows))


def _median(call: Callable[[], None]) -> float:
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
