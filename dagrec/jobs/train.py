"""Train recommenders on all data and publish them together as one bundle."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from dagrec.config import RunConfig
from dagrec.data.dataset import Dataset
from dagrec.data.examples import Example, require_examples
from dagrec.data.splits import hold_out
from dagrec.errors import ConfigError
from dagrec.evaluation.evaluator import TestPart
from dagrec.graph.evidence import Evidence
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
"""Called with the label of each model that was fitted, measuring included."""
Fit = Callable[[str, Recommender, TrainingData], tuple[Recommender, float]]
"""A label, a new recommender and its data -> the fitted recommender, and the seconds it took."""


@dataclass(frozen=True)
class TrainReport:
    """What a training job did."""

    version: str
    """Empty in a process that did not publish: of several that train together only the first does."""
    champion: str
    entries: Mapping[str, ModelEntry]
    notes: tuple[str, ...]
    """What one should know about it, such as declared links that name a key which no example has."""


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
    """Fit the configured models to all data, publish them, and make the bundle live.

    Before, each model is fitted ``measure`` times without a random ``share`` of the compositions and
    measured on it: the means go into the manifest, the model with the best MRR is the champion, and
    each gets the temperature under which the held-out parts are likeliest. With ``measure`` 0 nothing
    is measured, temperatures are 1, and the first model is the champion.
    """
    candidates = candidates or Candidates()
    check_models(config)
    examples, _ = require_examples(data.compositions, config.examples)
    with store.lock() if is_first_process() else nullcontext():
        parts = held_out_parts(examples, config, candidates, measure, share)
        quality = {label: measure_quality(label, config, parts, advance) for label in config.models}

        def fit(label: str, new: Recommender, training: TrainingData) -> tuple[Recommender, float]:
            model, seconds = timed_fit(label, new, training)
            if advance:
                advance(label)
            return model, seconds

        bundle = fit_bundle(
            data,
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
    """Raise :class:`ConfigError` where there is no model to train, or a label that is no plain name."""
    if not config.models:
        raise ConfigError("there must be a model to train, found none; name one with --model")
    check_labels(config.models)


def timed_fit(_label: str, new: Recommender, data: TrainingData) -> tuple[Recommender, float]:
    """A recommender fitted to these data, and the seconds it took."""
    start = time.perf_counter()
    return new.fit(data), time.perf_counter() - start


def fit_bundle(
    data: Dataset,
    examples: Sequence[Example],
    config: RunConfig,
    candidates: Candidates,
    quality: Mapping[str, Quality],
    *,
    fit: Fit = timed_fit,
    about: Mapping[str, object] | None = None,
) -> Bundle:
    """The configured models fitted to all examples. ``about`` is added to the stored configuration."""
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
        data=data.about(examples),
        config=config.model_dump(mode="json") | dict(about or {}),
        quality=quality,
        fit_seconds=seconds,
    )


def fit_notes(bundle: Bundle) -> tuple[str, ...]:
    """What one should know about a bundle that was just fitted."""
    notes = [note for fitted in bundle.models.values() for note in fitted.recommender.notes]
    if count := bundle.graph.unknown_links:
        notes.append(
            f"{count} declared links name a node or service that no example has; they were left out"
        )
    return tuple(notes)


def best_label(quality: Mapping[str, Quality]) -> str:
    """The label that is best on held-out parts; the first where nothing was measured."""
    return max(quality, key=lambda label: quality[label].metrics.get(CHAMPION_METRIC, 0.0))


def held_out_parts(
    examples: Sequence[Example],
    config: RunConfig,
    candidates: Candidates,
    count: int,
    share: float,
) -> list[TestPart]:
    """Random parts of the compositions, each with what is left to learn from."""
    parts = []
    for repeat in range(count):
        split = hold_out(examples, share, random.Random(f"measure:{config.seed}:{repeat}"))
        split = replace(split, services=candidates.services or {})
        parts.append(TestPart.of_split(split, config.mask, candidates.catalogue))
    return parts


def measure_quality(
    label: str, config: RunConfig, parts: Sequence[TestPart], advance: Advance | None = None
) -> Quality:
    """A model fitted for each part, and measured on it.

    Each part is answered with the temperature that the other parts ask for; the model gets the mean of
    all, on a logarithmic scale.
    """
    models = []
    for repeat, part in enumerate(parts):
        model = config.recommender(label, seed=config.seed + repeat)
        models.append(model.fit(part.data))
        if advance:
            advance(label)
    logs = np.log([part.temperature(model) for part, model in zip(parts, models, strict=True)])
    values: dict[str, list[float]] = {name: [] for name in METRICS} if parts else {}
    for i, (part, model) in enumerate(zip(parts, models, strict=True)):
        others = np.delete(logs, i)
        temperature = float(np.exp(others.mean())) if len(others) else 1.0
        outcome = part.outcome(part.fitted(model, temperature).probabilities)
        for name, metric in METRICS.items():
            values[name].append(metric(outcome))
    sizes = [len(part.examples) / len(part.data.examples) for part in parts]
    estimates = {name: mean_over_splits(each, float(np.mean(sizes))) for name, each in values.items()}
    return Quality(
        metrics={name: estimate.mean for name, estimate in estimates.items()},
        intervals={name: (e.low, e.high) for name, e in estimates.items() if len(parts) > 1},
        temperature=float(np.exp(logs.mean())) if len(logs) else 1.0,
    )
