"""Measure recommenders under a protocol; the result holds all that is needed to get it again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dagrec.config import RunConfig
from dagrec.data.examples import Example, need_examples
from dagrec.data.formats import Dataset, read
from dagrec.data.splits import PROTOCOLS, Split
from dagrec.errors import ConfigError
from dagrec.evaluation.evaluator import (
    Cell,
    HeldOut,
    Weighting,
    oracle_accuracy,
    popularity_outcome,
    prepare,
    random_outcome,
    run_cell,
)
from dagrec.evaluation.metrics import METRICS
from dagrec.evaluation.report import Resampling, identical, summarise
from dagrec.models.base import Trainer

TEST_FILE = "test-file"
ONE_SPLIT = ("temporal", TEST_FILE)
"""Protocols with a single split: repeats change the seed of training only."""

Advance = Callable[[str], None]
"""Told the label of each model that was measured on a split."""


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    protocol: str = "pairs"
    repeats: int = 20
    share: float = 0.3
    weighting: Weighting = "pairs"
    catalogue: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if self.protocol not in (*PROTOCOLS, TEST_FILE):
            raise ConfigError(
                f"no protocol {self.protocol!r}; there are {', '.join(PROTOCOLS)}, and --test FILE"
            )
        if self.repeats < 1 or not 0 < self.share < 1:
            raise ConfigError(
                f"repeats must be 1 or more and the test share between 0 and 1, "
                f"found {self.repeats} and {self.share}"
            )

    @classmethod
    def of(
        cls,
        protocol: str,
        repeats: int | None,
        share: float,
        weighting: Weighting,
        catalogue: Sequence[tuple[str, str]] | None,
    ) -> Plan:
        """A plan; where ``repeats`` is None, 20 random splits, or one training on a single split."""
        if repeats is None:
            repeats = 1 if protocol in ONE_SPLIT else 20
        return cls(protocol, repeats, share, weighting, tuple(catalogue) if catalogue else None)

    @property
    def one_split(self) -> bool:
        return self.protocol in ONE_SPLIT


def evaluate(
    data: Path,
    config: RunConfig,
    plan: Plan,
    trainer: Trainer | None,
    *,
    test: Path | None = None,
    advance: Advance | None = None,
) -> dict[str, Any]:
    """The result of measuring the configured models, as it goes into a JSON file."""
    if not config.models:
        raise ConfigError("there must be a model to measure, found none; name one with --model")
    dataset = read(data, config.read)
    examples, _ = need_examples(dataset.compositions, config.examples)
    test_set = None if test is None else read(test, config.read)
    cells: dict[str, list[Cell]] = {label: [] for label in config.models}
    held: list[HeldOut] = []
    fingerprints = []
    for repeat, split in enumerate(_splits(examples, test_set, config, plan)):
        fingerprints.append(split.fingerprint)
        part = held[0] if plan.one_split and held else prepare(split, config.mask, plan.catalogue)
        held.append(part)
        for label in config.models:
            recommender = config.recommender(label, seed=config.seed + repeat)
            cells[label].append(run_cell(recommender, part, trainer))
            if advance:
                advance(label)
    if plan.one_split:
        resampling = Resampling.of_one(held[0], plan.weighting, config.seed)
    else:
        sizes = [(len(part.data.examples), len(part.examples)) for part in held]
        resampling = Resampling.over_splits(sizes)
    models, comparisons = summarise(cells, resampling, [part.weights(plan.weighting) for part in held])
    return {
        "data": _about(data, dataset) | {"examples": len(examples)},
        "test": None if test is None or test_set is None else _about(test, test_set),
        "protocol": plan.protocol,
        "mask": config.mask.value,
        "weights": plan.weighting,
        "repeats": plan.repeats,
        "share": None if test else plan.share,
        "seed": config.seed,
        "interval": resampling.about,
        "config": config.model_dump(mode="json"),
        "splits": fingerprints,
        "models": models,
        "comparisons": comparisons,
        "reference": _reference(held, plan),
        "warnings": _warnings(models, plan),
    }


def _splits(
    examples: Sequence[Example], test_set: Dataset | None, config: RunConfig, plan: Plan
) -> Iterator[Split]:
    if test_set is not None:
        held_out, _ = need_examples(test_set.compositions, config.examples)
        split = Split(tuple(examples), held_out)
    elif plan.one_split:
        split = PROTOCOLS[plan.protocol](examples, plan.share, random.Random(config.seed))
    for repeat in range(plan.repeats):
        if not plan.one_split:
            rng = random.Random(f"split:{config.seed}:{repeat}")
            split = PROTOCOLS[plan.protocol](examples, plan.share, rng)
        yield split


def _about(path: Path, dataset: Dataset) -> dict[str, Any]:
    return {
        "path": str(path),
        "fingerprint": dataset.fingerprint,
        "compositions": len(dataset.compositions),
        "skipped": dict(dataset.report.skipped),
    }


def _reference(held: Sequence[HeldOut], plan: Plan) -> dict[str, Any]:
    """Lines that every model must be read against, as means over the splits."""
    parts = held[:1] if plan.one_split else held
    lines: dict[str, Any] = {}
    for name, outcome_of in (("random", random_outcome), ("popularity", popularity_outcome)):
        outcomes = [outcome_of(part).reweighted(part.weights(plan.weighting)) for part in parts]
        lines[name] = {
            metric: float(np.mean([function(outcome) for outcome in outcomes]))
            for metric, function in METRICS.items()
        }

    def mean(values: Sequence[float]) -> float:
        return float(np.mean(values))

    return lines | {
        "oracle_context": mean([oracle_accuracy(part.examples) for part in parts]),
        "oracle_context_owner": mean(
            [oracle_accuracy(part.examples, with_owner=True) for part in parts]
        ),
        "ceiling": lines["random"]["ceiling"],
        "unseen_links": mean([part.unseen_links() for part in parts]),
    }


def _warnings(models: dict[str, Any], plan: Plan) -> list[str]:
    found = [
        f"{a} and {b} have the same value of every metric in every repeat: two different models "
        "do not, so one of them may not be what it says"
        for a, b in identical(models)
    ]
    if plan.protocol == "pairs":
        found.append(
            "protocol pairs: pairs of one composition, and equal pairs, can be on both sides of a split"
        )
    if plan.repeats < 5 and not plan.one_split:
        found.append(f"{plan.repeats} repeats: intervals of so few splits are wide or missing")
    return found
