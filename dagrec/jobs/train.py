"""Train recommenders on all data and publish them together as one bundle."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dagrec.check import self_check
from dagrec.config import RunConfig
from dagrec.data.examples import Example, need_examples
from dagrec.data.formats import ReadReport, read
from dagrec.data.splits import hold_out
from dagrec.errors import ConfigError
from dagrec.evaluation.evaluator import HeldOut, prepare, scorer
from dagrec.evaluation.metrics import METRICS
from dagrec.evaluation.statistics import over_splits
from dagrec.graph.evidence import Evidence
from dagrec.jobs.experiment import about_data
from dagrec.jobs.processes import first_process
from dagrec.models.base import Recommender, Trainer
from dagrec.models.training_data import TrainingData
from dagrec.store.bundle import ModelEntry, check_labels
from dagrec.store.catalogue import Store
from dagrec.types import Options

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
    with store.lock() if first_process() else nullcontext():
        parts = held_out_parts(examples, config, measure, share, catalogue, services)
        found = {label: measured(label, config, parts, trainer, advance) for label in config.models}
        training = TrainingData.of(examples, catalogue=catalogue, services=services)
        models: dict[str, Recommender] = {}
        seconds: dict[str, float] = {}
        for label in config.models:
            start = time.perf_counter()
            models[label] = config.recommender(label).fit(training, trainer)
            seconds[label] = time.perf_counter() - start
            if advance:
                advance(label)
        champion, entries = champion_of(found), entries_of(models, found, seconds)
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
                check=self_check,
            )
            if trainer is not None:
                trainer.forget()
    return Published(version, champion, entries, training.graph.left_out, dataset.report)


class Found(Options):
    """What held-out parts say of a model: means of metrics, 95 % intervals, and its temperature."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    temperature: float


def champion_of(found: Mapping[str, Found]) -> str:
    """The label that is best on held-out parts; the first where nothing was measured."""
    return max(found, key=lambda label: found[label].metrics.get(CHAMPION_METRIC, 0.0))


def entries_of(
    models: Mapping[str, Recommender], found: Mapping[str, Found], seconds: Mapping[str, float]
) -> dict[str, ModelEntry]:
    """What the manifest says of fitted models."""
    return {
        label: ModelEntry(
            recommender=model.name,
            parameters=model.parameters(),
            metrics=found[label].metrics,
            intervals=found[label].intervals,
            fit_seconds=seconds[label],
            temperature=found[label].temperature,
        )
        for label, model in models.items()
    }


def held_out_parts(
    examples: Sequence[Example],
    config: RunConfig,
    count: int,
    share: float,
    catalogue: Sequence[tuple[str, str]] | None,
    services: Mapping[str, str] | None,
) -> list[HeldOut]:
    """Random parts of the compositions, each with what is left to learn from."""
    parts = []
    for repeat in range(count):
        split = hold_out(examples, share, random.Random(f"measure:{config.seed}:{repeat}"))
        parts.append(prepare(replace(split, services=services or {}), config.mask, catalogue))
    return parts


def measured(
    label: str,
    config: RunConfig,
    parts: Sequence[HeldOut],
    trainer: Trainer | None,
    advance: Advance | None = None,
) -> Found:
    """A model fitted for each part, and measured on it.

    Each part is answered with the temperature that the other parts ask for; the model gets the mean of
    all, on a logarithmic scale.
    """
    models = []
    for repeat, part in enumerate(parts):
        model = config.recommender(label, seed=config.seed + repeat)
        models.append(model.fit(part.data, trainer))
        if advance:
            advance(label)
    logs = np.log([part.temperature(scorer(model)) for part, model in zip(parts, models, strict=True)])
    values: dict[str, list[float]] = {name: [] for name in METRICS} if parts else {}
    for i, (part, model) in enumerate(zip(parts, models, strict=True)):
        others = np.delete(logs, i)
        temperature = float(np.exp(others.mean())) if len(others) else 1.0
        outcome = part.outcome(scorer(model, temperature))
        for name, metric in METRICS.items():
            values[name].append(metric(outcome))
    sizes = [len(part.examples) / len(part.data.examples) for part in parts]
    estimates = {name: over_splits(own, float(np.mean(sizes))) for name, own in values.items()}
    return Found(
        metrics={name: estimate.mean for name, estimate in estimates.items()},
        intervals={name: (e.low, e.high) for name, e in estimates.items() if len(parts) > 1},
        temperature=float(np.exp(logs.mean())) if len(logs) else 1.0,
    )
