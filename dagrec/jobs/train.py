"""Train recommenders on all data and publish them together as one bundle."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dagrec.config import RunConfig
from dagrec.data.examples import Example, need_examples
from dagrec.data.formats import ReadReport, read
from dagrec.data.splits import Split, hold_out
from dagrec.errors import ConfigError
from dagrec.evaluation.evaluator import HeldOut, prepare, scorer
from dagrec.evaluation.metrics import METRICS
from dagrec.graph.evidence import Evidence
from dagrec.jobs.experiment import about_data
from dagrec.jobs.processes import first_process
from dagrec.models.base import Recommender, Trainer
from dagrec.models.training_data import TrainingData
from dagrec.store.bundle import ModelEntry, check_labels
from dagrec.store.catalogue import Store

CHAMPION_METRIC = "mrr"

Advance = Callable[[str], None]
"""Told the label of each model that was fitted, measuring included."""


@dataclass(frozen=True)
class Published:
    """What a training job did."""

    version: str
    """Empty in a process that did not publish: of several that train together only the first does."""
    champion: str
    entries: dict[str, ModelEntry]
    left_out: int
    """Declared links that name a key which no example has."""
    report: ReadReport


def train(
    data: Path,
    store: Store,
    config: RunConfig,
    trainer: Trainer | None,
    *,
    catalogue: Sequence[tuple[str, str]] | None = None,
    services: Mapping[str, str] | None = None,
    measure: int = 3,
    share: float = 0.2,
    advance: Advance | None = None,
) -> Published:
    """Fit the configured models, publish them, and make the bundle live.

    ``services`` are candidates whether or not an example shows them: key -> text. Before, each model is
    fitted ``measure`` times without a random ``share`` of the compositions and measured on it: the
    means go into the manifest, the model with the best MRR is the champion, and each gets the
    temperature under which the held-out parts are likeliest. With ``measure`` 0 nothing is measured,
    temperatures are 1, and the first model is the champion.
    """
    if not config.models:
        raise ConfigError("there must be a model to train, found none; name one with --model")
    check_labels(config.models)
    dataset = read(data, config.read)
    examples, _ = need_examples(dataset.compositions, config.examples)
    parts = [
        prepare(_held_out(examples, share, config.seed, repeat, services), config.mask, catalogue)
        for repeat in range(measure)
    ]
    found = {label: _measure(label, config, parts, trainer, advance) for label in config.models}
    training = TrainingData.of(examples, catalogue=catalogue, services=services)
    models: dict[str, Recommender] = {}
    entries: dict[str, ModelEntry] = {}
    for label in config.models:
        start = time.perf_counter()
        models[label] = config.recommender(label).fit(training, trainer)
        entries[label] = ModelEntry(
            recommender=models[label].name,
            parameters=models[label].parameters(),
            metrics=found[label].metrics,
            fit_seconds=time.perf_counter() - start,
            temperature=found[label].temperature,
        )
        if advance:
            advance(label)
    champion = max(entries, key=lambda label: found[label].metrics.get(CHAMPION_METRIC, 0.0))
    version = ""
    if first_process():
        version = store.publish(
            vocabulary=training.vocabulary,
            graph=training.graph,
            evidence=Evidence.of(examples, training.vocabulary),
            models=models,
            entries=entries,
            champion=champion,
            data=about_data(data, dataset, examples),
            config=config.model_dump(mode="json") | {"measure": measure, "share": share},
        )
        if trainer is not None:
            trainer.forget()
    return Published(version, champion, entries, training.graph.left_out, dataset.report)


@dataclass(frozen=True)
class _Found:
    """What the held-out parts say of one model: means of metrics, and its temperature."""

    metrics: dict[str, float]
    temperature: float


def _held_out(
    examples: Sequence[Example],
    share: float,
    seed: int,
    repeat: int,
    services: Mapping[str, str] | None,
) -> Split:
    split = hold_out(examples, share, random.Random(f"measure:{seed}:{repeat}"))
    return replace(split, services=services or {})


def _measure(
    label: str,
    config: RunConfig,
    parts: Sequence[HeldOut],
    trainer: Trainer | None,
    advance: Advance | None,
) -> _Found:
    models = []
    for repeat, part in enumerate(parts):
        model = config.recommender(label, seed=config.seed + repeat)
        models.append(model.fit(part.data, trainer))
        if advance:
            advance(label)
    return _calibrated(parts, models)


def _calibrated(parts: Sequence[HeldOut], models: Sequence[Recommender]) -> _Found:
    """Each part is answered with the temperature that the other parts ask for; the model gets the mean
    of all, on a logarithmic scale."""
    logs = np.log([part.temperature(scorer(model)) for part, model in zip(parts, models, strict=True)])
    values = []
    for i, (part, model) in enumerate(zip(parts, models, strict=True)):
        others = np.delete(logs, i)
        temperature = float(np.exp(others.mean())) if len(others) else 1.0
        outcome = part.outcome(scorer(model, temperature))
        values.append({name: metric(outcome) for name, metric in METRICS.items()})
    means = {name: float(np.mean([v[name] for v in values])) for name in METRICS} if values else {}
    return _Found(means, float(np.exp(logs.mean())) if len(logs) else 1.0)
