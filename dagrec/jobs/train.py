"""Train recommenders on all data, and publish them as one bundle."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dagrec.data.dataset import Dataset
from dagrec.data.examples import Example
from dagrec.data.splits import hold_out
from dagrec.errors import ConfigError
from dagrec.evaluation.evaluator import TestPart
from dagrec.graph.evidence import Evidence
from dagrec.jobs.config import RunConfig
from dagrec.metrics.ranking import METRICS
from dagrec.metrics.statistics import mean_over_splits
from dagrec.models.base import Recommender
from dagrec.models.fitted import Fitted
from dagrec.recommend.check import self_check
from dagrec.store.bundle import Bundle, ModelEntry, Quality, check_labels
from dagrec.store.store import Store
from dagrec.training.data import Candidates, TrainingData
from dagrec.training.runtime import current_runtime, is_first_process

CHAMPION_METRIC = "mrr"
Advance = Callable[[str], None]
"""Called with the label of a model each time it was fitted."""
Fit = Callable[[str, Recommender, TrainingData], tuple[Recommender, float]]
"""Label, unfitted recommender and training data -> fitted recommender and seconds."""


@dataclass(frozen=True)
class TrainReport:
    """The result of a training job.

    version: the published version, "" in all but the first process of a distributed training; entries:
    the manifest's entry of each label; notes: remarks for the user, such as unused declared links.
    """

    version: str
    champion: str
    entries: Mapping[str, ModelEntry]
    notes: tuple[str, ...]


def train(
    data: Dataset,
    store: Store,
    config: RunConfig,
    candidates: Candidates | None = None,
    *,
    measure: int = 3,
    share: float = 0.2,
    advance: Advance | None = None,
) -> TrainReport:
    """Fit the configured models to all data, and publish them as the live bundle.

    First, each model is fitted ``measure`` times without a random ``share`` of the compositions, and
    measured on that share. The means of the metrics are stored in the manifest, the model with the best
    MRR is the champion, and each model gets the temperature that maximises the likelihood of the
    held-out parts. With ``measure`` 0, temperatures are 1 and the first model is the champion.
    """
    candidates = candidates or Candidates()
    check_models(config)
    examples, extracted = data.examples(config.examples)
    with store.lock() if is_first_process() else nullcontext():
        parts = held_out_parts(examples, config, candidates, measure, share)
        quality = {label: measure_quality(label, config, parts, advance) for label in config.models}

        def fit(label: str, new: Recommender, training: TrainingData) -> tuple[Recommender, float]:
            model, seconds = timed_fit(label, new, training)
            if advance:
                advance(label)
            return model, seconds

        bundle = fit_bundle(
            data.about(extracted),
            examples,
            config,
            candidates,
            quality,
            fit=fit,
            about={"measure": measure, "share": share},
        )
        version = ""
        if is_first_process():
            version = store.publish(bundle, check=self_check)
            current_runtime().remove_checkpoints()
    manifest = bundle.manifest
    return TrainReport(version, manifest.champion, manifest.models, fit_notes(bundle))


def check_models(config: RunConfig) -> None:
    """Raise :class:`ConfigError` if there is no model to train, or a label is not a plain name."""
    if not config.models:
        raise ConfigError("there must be a model to train, found none; choose one with --model")
    check_labels(config.models)


def timed_fit(_label: str, new: Recommender, data: TrainingData) -> tuple[Recommender, float]:
    """Fit a recommender; return it, and the seconds that it took."""
    start = time.perf_counter()
    return new.fit(data), time.perf_counter() - start


def fit_bundle(
    data: Mapping[str, Any],
    examples: Sequence[Example],
    config: RunConfig,
    candidates: Candidates,
    quality: Mapping[str, Quality],
    *,
    fit: Fit = timed_fit,
    about: Mapping[str, object] | None = None,
) -> Bundle:
    """Fit the configured models to all examples.

    ``data`` says what they were drawn from, and ``about`` is added to the stored configuration.
    """
    training = candidates.training(examples)
    models: dict[str, Fitted] = {}
    seconds: dict[str, float] = {}
    for label in config.models:
        model, seconds[label] = fit(label, config.recommender(label), training)
        temperature = quality[label].temperature
        models[label] = Fitted(model, training.graph, config.mask, temperature)
    return Bundle.of(
        models,
        Evidence.of(examples, training.vocabulary),
        champion=best_label(quality),
        data=dict(data),
        config=config.model_dump(mode="json") | dict(about or {}),
        quality=quality,
        fit_seconds=seconds,
    )


def fit_notes(bundle: Bundle) -> tuple[str, ...]:
    """Remarks for the user about a newly fitted bundle."""
    notes = [note for fitted in bundle.models.values() for note in fitted.recommender.notes]
    if count := bundle.graph.unknown_links:
        notes.append(f"{count} declared links were ignored: no example contains their node or service")
    return tuple(notes)


def best_label(quality: Mapping[str, Quality]) -> str:
    """The label with the best MRR on held-out parts; the first one if nothing was measured."""
    return max(quality, key=lambda label: quality[label].metrics.get(CHAMPION_METRIC, 0.0))


def held_out_parts(
    examples: Sequence[Example],
    config: RunConfig,
    candidates: Candidates,
    count: int,
    share: float,
) -> list[TestPart]:
    """Random test parts of the compositions, each with the others as training data."""
    parts = []
    for repeat in range(count):
        split = hold_out(examples, share, random.Random(f"measure:{config.seed}:{repeat}"))
        split = replace(split, services=candidates.services or {})
        parts.append(TestPart.of_split(split, config.mask, candidates.catalogue))
    return parts


def measure_quality(
    label: str, config: RunConfig, parts: Sequence[TestPart], advance: Advance | None = None
) -> Quality:
    """Fit a model without each part, and measure it on the part.

    The temperature for each part is the geometric mean of those fitted to the other parts; the
    temperature of the result is that of all parts.
    """
    models = []
    for repeat, part in enumerate(parts):
        model = config.recommender(label, seed=config.seed + repeat)
        models.append(model.fit(part.data))
        if advance:
            advance(label)
    log_temperatures = np.log(
        [part.temperature(model) for part, model in zip(parts, models, strict=True)]
    )
    values: dict[str, list[float]] = {name: [] for name in METRICS} if parts else {}
    for i, (part, model) in enumerate(zip(parts, models, strict=True)):
        others = np.delete(log_temperatures, i)
        temperature = float(np.exp(others.mean())) if len(others) else 1.0
        outcome = part.outcome(part.fitted(model, temperature).probabilities)
        for name, metric in METRICS.items():
            values[name].append(metric(outcome))
    ratios = [len(part.examples) / len(part.data.examples) for part in parts]
    estimates = {name: mean_over_splits(each, float(np.mean(ratios))) for name, each in values.items()}
    return Quality(
        metrics={name: estimate.mean for name, estimate in estimates.items()},
        intervals={name: (e.low, e.high) for name, e in estimates.items() if len(parts) > 1},
        temperature=float(np.exp(log_temperatures.mean())) if parts else 1.0,
    )
