"""Evaluate recommenders under a protocol. The result contains everything that reproduces it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dagrec.data.dataset import Dataset
from dagrec.data.splits import later_share
from dagrec.errors import ConfigError
from dagrec.evaluation.evaluator import join_outcomes, oracle_accuracy, reference_outcomes, row_weights
from dagrec.evaluation.report import BOOTSTRAP_DRAWS, Grid, identical, summarise
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.config import RunConfig
from dagrec.jobs.experiment import RANDOM, Experiment, Plan
from dagrec.jobs.runs import Advance, Measurement
from dagrec.metrics.ranking import METRICS


def evaluate(
    data: Dataset,
    config: RunConfig,
    plan: Plan,
    *,
    test: Dataset | None = None,
    keep: Path | None = None,
    processes: int = 1,
    advance: Advance | None = None,
) -> dict[str, Any]:
    """Evaluate the configured models, and return the result as it is written to JSON.

    ``keep`` is a folder for finished runs, from which an interrupted evaluation is resumed.
    """
    if not config.models:
        raise ConfigError("there must be a model to evaluate, found none; choose one with --model")
    configs = {
        label: config.model_copy(update={"models": {label: options}})
        for label, options in config.models.items()
    }
    experiment = Experiment.of(data, config, plan, test)
    grids = Measurement(experiment, configs, keep).grids(processes, advance)
    return {"mask": config.mask.value} | result_of(
        experiment, config.mask, grids, config.model_dump(mode="json")
    )


def result_of(
    experiment: Experiment, mask: MaskPolicy, grids: Mapping[str, Grid], config: dict[str, Any]
) -> dict[str, Any]:
    """The result of an experiment: its metrics, and everything that is needed to interpret them."""
    plan = experiment.plan
    reference, test_over_train = _reference(experiment, mask)
    models, comparisons = summarise(grids, plan.weight, test_over_train)
    first = next(iter(grids.values()))
    return {
        "data": experiment.about,
        "test": experiment.test_about,
        "protocol": plan.protocol,
        "plan": plan.model_dump(mode="json", exclude={"catalogue"}),
        "repeats": plan.repeats,
        "weight": plan.weight,
        "interval": _interval(plan),
        "config": config,
        "splits": [row[0].split for row in first],
        "models": models,
        "comparisons": comparisons,
        "reference": reference,
        "warnings": _warnings(models, plan, mask, reference["later_training"]),
    }


def _interval(plan: Plan) -> str:
    if plan.single_split:
        return f"95 %, bootstrap over test compositions, {BOOTSTRAP_DRAWS} draws"
    return "95 %, corrected resampled t over splits"


def _reference(experiment: Experiment, mask: MaskPolicy) -> tuple[dict[str, Any], float]:
    """The reference lines of the models as means over the splits, and the mean of n_test / n_train."""
    plan = experiment.plan
    values: dict[str, list[float]] = {}
    lines: dict[str, dict[str, list[float]]] = {}
    ratios = []
    for repeat in range(1 if plan.single_split else plan.repeats):
        split = experiment.split(repeat, mask, every=plan.every)
        examples = split.examples
        ratios.append(len(examples) / len(split.splits[0].train))
        outcomes, new_links = reference_outcomes(split)
        for name, parts in outcomes.items():
            outcome = join_outcomes(examples, parts).reweighted(row_weights(examples, plan.weight))
            for metric, function in METRICS.items():
                lines.setdefault(name, {}).setdefault(metric, []).append(function(outcome))
        for name, value in (
            ("oracle_path", oracle_accuracy(examples, path_only=True)),
            ("oracle_context", oracle_accuracy(examples)),
            ("oracle_context_owner", oracle_accuracy(examples, with_owner=True)),
            ("unseen_links", float(new_links.mean())),
            ("later_training", later_share(split.splits)),
        ):
            values.setdefault(name, []).append(value)
    means: dict[str, Any] = {name: float(np.mean(each)) for name, each in values.items()}
    for name, line in lines.items():
        means[name] = {metric: float(np.mean(each)) for metric, each in line.items()}
    means["ceiling"] = means["random"]["ceiling"]
    return means, float(np.mean(ratios))


def _warnings(
    models: Mapping[str, Any], plan: Plan, mask: MaskPolicy, later_training: float
) -> list[str]:
    warnings = [
        f"{a} and {b} have the same value of every metric in every repeat, so they are probably the "
        "same model; check their configuration"
        for a, b in identical(models)
    ]
    if plan.protocol == "pairs":
        warnings.append(
            "protocol pairs: pairs of one composition, and equal pairs, can be in both parts of a split"
        )
    if plan.protocol == "cold-services" and mask in (MaskPolicy.OBSERVED, MaskPolicy.CATALOGUE):
        warnings.append(
            f"protocol cold-services: mask {mask.value} allows cold services only after unknown "
            "nodes and nodes without followers; use --mask none or soft"
        )
    if plan.protocol == "leave-one-out" and later_training:
        warnings.append(
            f"protocol leave-one-out: for {100 * later_training:.0f} % of the test examples, the "
            "training part has later examples; use protocol temporal to predict the future"
        )
    if plan.repeats == 1 and plan.protocol in RANDOM:
        warnings.append(
            "a single random split: the interval does not include the variance between splits"
        )
    return warnings
