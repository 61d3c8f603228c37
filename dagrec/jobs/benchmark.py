"""Benchmark recommenders: the time to fit, and the time to score contexts.

All recommenders are timed in one process, so that ratios of their times can be compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from dagrec.data.dataset import Dataset
from dagrec.data.vocabulary import Contexts
from dagrec.errors import ConfigError
from dagrec.jobs.config import RunConfig
from dagrec.models.fitted import Fitted
from dagrec.training.data import TrainingData
from dagrec.types import Ids

BATCH_SIZE = 256
CALLS = 200
WARM_UP_CALLS = 20

Advance = Callable[[str], None]


def benchmark(data: Dataset, config: RunConfig, *, advance: Advance | None = None) -> dict[str, Any]:
    """Measure the seconds to fit all data, and the microseconds to score and mask a context.

    The latter are medians over calls with a single context, and with a batch of 256 contexts.
    """
    if not config.models:
        raise ConfigError("there must be a model to time, found none; choose one with --model")
    examples, _ = data.examples(config.examples)
    training = TrainingData.of(examples)
    rows = np.arange(BATCH_SIZE) % len(training.contexts)
    results: dict[str, Any] = {}
    for label in config.models:
        recommender = config.recommender(label)
        start = time.perf_counter()
        recommender.fit(training)
        fit_seconds = time.perf_counter() - start
        fitted = Fitted(recommender, training.graph, config.mask)
        call = partial(_score, fitted, training.contexts)
        results[label] = {
            "fit_seconds": fit_seconds,
            "epochs": len(recommender.history),
            "microseconds_alone": 1e6 * _median_seconds(partial(call, rows[:1])),
            "microseconds_in_batch": 1e6 * _median_seconds(partial(call, rows)) / BATCH_SIZE,
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


def _score(fitted: Fitted, contexts: Contexts, rows: Ids) -> None:
    fitted.probabilities(contexts.take(rows))


def _median_seconds(call: Callable[[], None]) -> float:
    for _ in range(WARM_UP_CALLS):
        call()
    times = []
    for _ in range(CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
