"""Summaries of runs: means with intervals, and paired comparisons."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from dagrec.evaluation.breakdown import Sums, breakdown, group_means
from dagrec.evaluation.evaluator import RunResult, Weight, row_weights
from dagrec.metrics.ranking import METRICS, ece_band
from dagrec.metrics.statistics import (
    Estimate,
    bootstrap_p_value,
    holm,
    mcnemar_p_value,
    mean_over_draws,
    mean_over_splits,
    paired_p_value,
    resampled_weights,
)
from dagrec.types import Options

COMPARED = ("accuracy", "mrr")
"""The metrics in which models are compared."""
BOOTSTRAP_DRAWS = 500
SIGNIFICANCE_LEVEL = 0.05
WEIGHTS: tuple[Weight, ...] = ("pairs", "compositions")


class RunMetrics(Options):
    """The metrics of one recommender in one repeat, as stored on disk."""

    split: str
    """The fingerprint of the training and test examples."""
    values: dict[Weight, dict[str, float]]
    """Weight -> metric -> value."""
    draws: dict[str, list[float]] | None = None
    """For a single split: the bootstrap values of each metric, with the chosen weight."""
    hits: list[bool] | None = None
    """For a single split: whether the top prediction of each example is the target."""
    breakdown: Sums
    fit_seconds: float
    score_seconds: float
    fits: int
    parameters: int
    service_cosine: float | None = None
    """The same as in :class:`RunResult`; also None in old files."""
    ece_band: float | None = None
    """:func:`dagrec.metrics.ranking.ece_band` with equal weights of pairs; None in old files."""

    @classmethod
    def of(cls, run: RunResult, split: str, bootstrap: Weight | None, seed: int) -> Self:
        """Compute the metrics of a run, and bootstrap samples of them if a weight is given.

        All models of a split have the same bootstrap samples, because they have the same seed.
        """
        examples = run.examples
        outcome = run.outcome
        values = {}
        for weight in WEIGHTS:
            weighted = outcome.reweighted(row_weights(examples, weight))
            values[weight] = {name: metric(weighted) for name, metric in METRICS.items()}
        draws = hits = None
        if bootstrap is not None:
            groups = np.array([example.composition for example in examples])
            rng = np.random.default_rng([seed, 3])
            samples = [
                outcome.reweighted(weights)
                for weights in resampled_weights(
                    groups, row_weights(examples, bootstrap), BOOTSTRAP_DRAWS, rng
                )
            ]
            draws = {name: [metric(s) for s in samples] for name, metric in METRICS.items()}
            hits = [bool(hit > 0.5) for hit in outcome.hits]
        return cls(
            split=split,
            values=values,
            draws=draws,
            hits=hits,
            breakdown=breakdown(run),
            fit_seconds=run.fit_seconds,
            score_seconds=run.score_seconds,
            fits=run.fits,
            parameters=run.parameters,
            service_cosine=run.service_cosine,
            ece_band=ece_band(outcome),
        )


@dataclass(frozen=True)
class Series:
    """One metric of one model: a value per split (the mean over its seeds), and any bootstrap draws."""

    values: tuple[float, ...]
    draws: tuple[float, ...] | None
    test_over_train: float

    def estimate(self) -> Estimate:
        """The mean with its interval."""
        if self.draws is None:
            return mean_over_splits(self.values, self.test_over_train)
        return mean_over_draws(self.values, np.array(self.draws))

    def minus(self, other: Series) -> Series:
        """The paired difference to another series."""
        draws = None
        if self.draws is not None and other.draws is not None:
            draws = tuple(np.subtract(self.draws, other.draws).tolist())
        values = tuple(np.subtract(self.values, other.values).tolist())
        return Series(values, draws, self.test_over_train)

    def p_value(self) -> float:
        """The p-value of the hypothesis that the mean is 0."""
        if self.draws is None:
            return paired_p_value(self.values, self.test_over_train)
        return bootstrap_p_value(np.array(self.draws))


Grid = Sequence[Sequence[RunMetrics]]
"""The runs of a model, with one row per split and one column per seed."""


def summarise(
    grids: Mapping[str, Grid], weight: Weight, test_over_train: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the ``models`` and ``comparisons`` of a result.

    grids: label -> runs; test_over_train: n_test / n_train of the random splits.
    """
    series = {
        label: {name: _series(grid, name, weight, test_over_train) for name in METRICS}
        for label, grid in grids.items()
    }
    models = {label: _model(grid, series[label], weight) for label, grid in grids.items()}
    comparisons = []
    for metric in COMPARED:
        rows: list[dict[str, Any]] = []
        for a, b in itertools.combinations(grids, 2):
            difference = series[a][metric].minus(series[b][metric])
            estimate = difference.estimate()
            row = {"metric": metric, "a": a, "b": b, "difference": estimate.mean}
            row |= {"low": estimate.low, "high": estimate.high, "p": difference.p_value()}
            hits = grids[a][0][0].hits, grids[b][0][0].hits
            if metric == "accuracy" and hits[0] is not None and hits[1] is not None:
                row["p_mcnemar"] = mcnemar_p_value(hits[0], hits[1])
            rows.append(row)
        for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
            comparisons.append(row | {"p_holm": adjusted, "resolved": adjusted < SIGNIFICANCE_LEVEL})
    return models, comparisons


def identical(models: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return pairs of models for which all metrics are equal in all repeats, probably due to a bug."""
    values = {
        label: {metric: estimate["values"] for metric, estimate in model["metrics"].items()}
        for label, model in models.items()
    }
    return [(a, b) for a, b in itertools.combinations(values, 2) if values[a] == values[b]]


def _series(grid: Grid, metric: str, weight: Weight, test_over_train: float) -> Series:
    values = tuple(float(np.mean([run.values[weight][metric] for run in row])) for row in grid)
    draws = None
    if grid[0][0].draws is not None:
        runs = [run.draws[metric] for row in grid for run in row if run.draws is not None]
        draws = tuple(np.mean(runs, axis=0).tolist())
    return Series(values, draws, test_over_train)


def _model(grid: Grid, series: Mapping[str, Series], weight: Weight) -> dict[str, Any]:
    runs = [run for row in grid for run in row]
    cosines = [run.service_cosine for run in runs if run.service_cosine is not None]
    bands = [run.ece_band for run in runs if run.ece_band is not None]
    other = next(name for name in WEIGHTS if name != weight)
    metrics = {}
    for name, metric_series in series.items():
        seeds = [[run.values[weight][name] for run in row] for row in grid]
        metrics[name] = asdict(metric_series.estimate()) | {"seed_std": _seed_std(seeds)}
    return {
        "metrics": metrics,
        f"by_{other}": {
            name: float(np.mean([run.values[other][name] for run in runs])) for name in METRICS
        },
        "seconds": {
            "fit": float(np.mean([run.fit_seconds for run in runs])),
            "score": float(np.mean([run.score_seconds for run in runs])),
        },
        "fits": runs[-1].fits,
        "parameters": runs[-1].parameters,
        "service_cosine": float(np.mean(cosines)) if cosines else None,
        "ece_band": float(np.mean(bands)) if bands else None,
        "breakdown": group_means([run.breakdown for run in runs]),
    }


def _seed_std(seeds: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation over seeds, pooled over splits; None with a single seed."""
    if len(seeds[0]) < 2:
        return None
    return float(np.sqrt(np.mean([np.var(row, ddof=1) for row in seeds])))
