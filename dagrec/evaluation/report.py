"""Measured cells into the result that is written, printed and compared: means with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dagrec.evaluation.evaluator import Cell, HeldOut, Weighting
from dagrec.evaluation.metrics import METRICS, Outcome
from dagrec.evaluation.statistics import (
    Estimate,
    bootstrap_p,
    holm,
    over_draws,
    over_splits,
    paired_p,
    resampled_weights,
)
from dagrec.types import Floats

COMPARED = ("accuracy", "mrr")
"""Metrics on which models are tested against each other."""
BOOTSTRAP_DRAWS = 500
RESOLVED = 0.05


@dataclass(frozen=True)
class Resampling:
    """How the spread of a result is found.

    Over random splits (``draws`` None): the corrected t interval. On a single split: the bootstrap
    over its test compositions, with the same draws for all models.
    """

    test_over_train: float
    draws: list[Floats] | None

    @classmethod
    def over_splits(cls, sizes: Sequence[tuple[int, int]]) -> Resampling:
        """sizes: (training, test) examples of each split."""
        return cls(float(np.mean([test / train for train, test in sizes])), None)

    @classmethod
    def of_one(cls, test: HeldOut, weighting: Weighting, seed: int) -> Resampling:
        groups = np.array([example.composition for example in test.examples])
        rng = np.random.default_rng([seed, 3])
        return cls(0.0, resampled_weights(groups, test.weights(weighting), BOOTSTRAP_DRAWS, rng))

    @property
    def about(self) -> str:
        if self.draws is None:
            return "corrected resampled t over splits, 95 %"
        return f"bootstrap over test compositions, {len(self.draws)} draws, 95 %"


@dataclass(frozen=True)
class Measured:
    """One metric of one model: a value a repeat, and (on a single split) a value a bootstrap draw."""

    values: tuple[float, ...]
    draws: Floats | None

    @classmethod
    def of(cls, metric: str, outcomes: Sequence[Outcome], resampling: Resampling) -> Measured:
        function = METRICS[metric]
        values = tuple(function(outcome) for outcome in outcomes)
        if resampling.draws is None:
            return cls(values, None)
        drawn = [
            float(np.mean([function(outcome.reweighted(weights)) for outcome in outcomes]))
            for weights in resampling.draws
        ]
        return cls(values, np.array(drawn))

    def estimate(self, resampling: Resampling) -> Estimate:
        if self.draws is None:
            return over_splits(self.values, resampling.test_over_train)
        return over_draws(self.values, self.draws)

    def minus(self, other: Measured) -> Measured:
        draws = None if self.draws is None or other.draws is None else self.draws - other.draws
        return Measured(tuple(np.subtract(self.values, other.values).tolist()), draws)

    def p(self, resampling: Resampling) -> float:
        if self.draws is None:
            return paired_p(self.values, resampling.test_over_train)
        return bootstrap_p(self.draws)


def summarise(
    cells: Mapping[str, Sequence[Cell]], resampling: Resampling, weights: Sequence[Floats]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The ``models`` and ``comparisons`` of a result.

    cells: label -> a cell a repeat; weights: of the test examples, one array a repeat.
    """
    measured = {
        label: {
            metric: Measured.of(
                metric,
                [cell.outcome.reweighted(w) for cell, w in zip(own, weights, strict=True)],
                resampling,
            )
            for metric in METRICS
        }
        for label, own in cells.items()
    }
    models = {
        label: {
            "metrics": {
                metric: asdict(found.estimate(resampling)) for metric, found in measured[label].items()
            },
            "seconds": {
                "fit": float(np.mean([cell.fit_seconds for cell in own])),
                "score": float(np.mean([cell.score_seconds for cell in own])),
            },
            "parameters": own[-1].parameters,
        }
        for label, own in cells.items()
    }
    comparisons = []
    for metric in COMPARED:
        rows: list[dict[str, Any]] = []
        for a, b in itertools.combinations(measured, 2):
            difference = measured[a][metric].minus(measured[b][metric])
            estimate = difference.estimate(resampling)
            rows.append(
                {
                    "metric": metric,
                    "a": a,
                    "b": b,
                    "difference": estimate.mean,
                    "low": estimate.low,
                    "high": estimate.high,
                    "p": difference.p(resampling),
                }
            )
        for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
            comparisons.append(row | {"p_holm": adjusted, "resolved": adjusted < RESOLVED})
    return models, comparisons


def identical(models: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of models whose every metric is the same in every repeat: a bug until proved otherwise."""
    values = {
        label: {metric: found["values"] for metric, found in model["metrics"].items()}
        for label, model in models.items()
    }
    return [(a, b) for a, b in itertools.combinations(values, 2) if values[a] == values[b]]
