from __future__ import annotations

import json
import random

import numpy as np
import pytest

from dagrec.data.splits import split_compositions
from dagrec.evaluation.evaluator import RunResult, TestPart, evaluate_run
from dagrec.evaluation.report import (
    BOOTSTRAP_DRAWS,
    COMPARED,
    RunMetrics,
    Series,
    identical,
    summarise,
)
from dagrec.graph.mask import MaskPolicy
from dagrec.metrics.ranking import METRICS
from dagrec.metrics.statistics import (
    bootstrap_p_value,
    holm,
    mcnemar_p_value,
    mean_over_splits,
    paired_p_value,
)
from dagrec.models.base import Recommender
from dagrec.models.counting.markov import Markov, MarkovConfig
from dagrec.models.counting.popularity import Popularity
from tests.worlds import everything

SHARE = 0.5


def parts_of(repeat: int) -> list[TestPart]:
    split = split_compositions(everything().examples, SHARE, random.Random(repeat))
    return [TestPart.of_split(split, MaskPolicy.SOFT)]


def run_of(model: Recommender, parts: list[TestPart]) -> RunResult:
    return evaluate_run(lambda: model, parts)


def measure(model: Recommender, repeat: int = 0, *, bootstrap: bool = False) -> RunMetrics:
    parts = parts_of(repeat)
    weight = "pairs" if bootstrap else None
    return RunMetrics.of(run_of(model, parts), f"split {repeat}", weight, seed=5)


def grid(model: Recommender, splits: int = 4) -> list[list[RunMetrics]]:
    return [[measure(model, repeat)] for repeat in range(splits)]


# One run


def test_run_metrics_have_both_weights() -> None:
    parts = parts_of(0)
    run = run_of(Markov(), parts)
    metrics = RunMetrics.of(run, "split", None, seed=0)
    assert metrics.values["pairs"] == {name: metric(run.outcome) for name, metric in METRICS.items()}
    assert metrics.values["compositions"].keys() == METRICS.keys()
    assert metrics.values["compositions"] != metrics.values["pairs"]
    assert metrics.draws is None
    assert metrics.hits is None
    assert metrics.parameters == run.parameters


def test_run_metrics_of_single_split_have_draws_and_hits() -> None:
    parts = parts_of(0)
    run = run_of(Markov(), parts)
    metrics = RunMetrics.of(run, "split", "pairs", seed=0)
    assert metrics.draws is not None
    assert metrics.draws.keys() == METRICS.keys()
    assert all(len(draws) == BOOTSTRAP_DRAWS for draws in metrics.draws.values())
    assert np.mean(metrics.draws["accuracy"]) == pytest.approx(
        metrics.values["pairs"]["accuracy"], abs=0.03
    )
    assert metrics.hits is not None
    # A tie for the top prediction is not a hit.
    assert metrics.hits == (run.outcome.hits > 0.5).tolist()
    assert any(metrics.hits)


def test_models_of_one_split_have_same_bootstrap_samples() -> None:
    """Otherwise the differences between models would not be paired."""
    one, same = (measure(Markov(), bootstrap=True) for _ in range(2))
    assert one.draws == same.draws
    # The share of reachable targets does not depend on the model.
    other = measure(Popularity(), bootstrap=True)
    assert other.draws is not None
    assert one.draws is not None
    assert other.draws["ceiling"] == one.draws["ceiling"]
    assert len(set(one.draws["ceiling"])) > 1


@pytest.mark.parametrize("bootstrap", [False, True])
def test_run_metrics_can_be_read_from_json(bootstrap: bool) -> None:
    metrics = measure(Markov(), bootstrap=bootstrap)
    assert RunMetrics.model_validate_json(metrics.model_dump_json()) == metrics


# Series


def test_series_over_splits_has_corrected_interval() -> None:
    series = Series((0.5, 0.7, 0.6), None, 0.4)
    assert series.estimate() == mean_over_splits((0.5, 0.7, 0.6), 0.4)
    assert series.p_value() == paired_p_value((0.5, 0.7, 0.6), 0.4)


def test_series_on_single_split_has_bootstrap_interval() -> None:
    draws = tuple(np.linspace(-0.1, 0.5, 201))
    series = Series((0.2,), draws, 0.0)
    assert (series.estimate().low, series.estimate().high) == pytest.approx((-0.085, 0.485))
    assert series.p_value() == bootstrap_p_value(np.array(draws))


def test_difference_of_series_is_paired() -> None:
    one, other = Series((1.0, 2.0), (1.0, 5.0), 0.3), Series((0.5, 0.0), (0.0, 7.0), 0.3)
    assert one.minus(other) == Series((0.5, 2.0), (1.0, -2.0), 0.3)
    assert one.minus(Series((0.5, 0.0), None, 0.3)).draws is None


# Summaries


@pytest.fixture(scope="module")
def grids() -> dict[str, list[list[RunMetrics]]]:
    return {"markov": grid(Markov()), "popularity": grid(Popularity()), "again": grid(Markov())}


def test_models_have_means_intervals_and_values(grids: dict[str, list[list[RunMetrics]]]) -> None:
    models, _ = summarise(grids, "pairs", 0.5)
    assert list(models) == list(grids)
    for label, model in models.items():
        assert model["metrics"].keys() == METRICS.keys()
        for name, estimate in model["metrics"].items():
            values = [row[0].values["pairs"][name] for row in grids[label]]
            expected = mean_over_splits(values, 0.5)
            assert estimate["values"] == tuple(values)
            assert (estimate["mean"], estimate["low"], estimate["high"]) == pytest.approx(
                (expected.mean, expected.low, expected.high)
            )
            other = [row[0].values["compositions"][name] for row in grids[label]]
            assert model["by_compositions"][name] == pytest.approx(np.mean(other))


def test_summary_is_json(grids: dict[str, list[list[RunMetrics]]]) -> None:
    models, comparisons = summarise(grids, "compositions", 0.5)
    assert json.loads(json.dumps([models, comparisons], allow_nan=False))[1] == comparisons


def test_every_pair_of_models_is_compared(grids: dict[str, list[list[RunMetrics]]]) -> None:
    models, comparisons = summarise(grids, "pairs", 0.5)
    pairs = [("markov", "popularity"), ("markov", "again"), ("popularity", "again")]
    for metric in COMPARED:
        rows = [row for row in comparisons if row["metric"] == metric]
        assert [(row["a"], row["b"]) for row in rows] == pairs
        assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows])
        for row in rows:
            a, b = (models[row[side]]["metrics"][metric] for side in ("a", "b"))
            assert row["difference"] == pytest.approx(a["mean"] - b["mean"])
            differences = np.subtract(a["values"], b["values"]).tolist()
            assert row["p"] == paired_p_value(differences, 0.5)
            assert row["low"] <= row["difference"] <= row["high"]
            assert row["resolved"] == (row["p_holm"] < 0.05)


def with_values(values: list[float]) -> list[list[RunMetrics]]:
    """Runs in which all metrics have the given value of their split."""
    run = measure(Popularity())
    return [
        [run.model_copy(update={"values": dict.fromkeys(run.values, dict.fromkeys(METRICS, value))})]
        for value in values
    ]


def test_significance_depends_on_number_of_comparisons() -> None:
    """Differences 1, 3, 1, 3 have t = 2 / (s / 2) with s^2 = 4 / 3 and p = 0.04, which is adjusted."""
    a, b, c = [5.0, 7.0, 6.0, 6.0], [4.0, 4.0, 5.0, 3.0], [9.0, 1.0, 8.0, 3.0]
    grids = {"a": with_values(a), "b": with_values(b)}
    _, (two, *_) = summarise(grids, "pairs", 0.0)
    _, (three, *_) = summarise(grids | {"c": with_values(c)}, "pairs", 0.0)
    assert two["p"] == three["p"] == pytest.approx(0.0405, abs=5e-5)
    assert (two["p_holm"], two["resolved"]) == (two["p"], True)
    assert (three["p_holm"], three["resolved"]) == (3 * three["p"], False)


def test_difference_of_model_to_itself_is_zero(grids: dict[str, list[list[RunMetrics]]]) -> None:
    _, comparisons = summarise(grids, "pairs", 0.5)
    for row in comparisons:
        if (row["a"], row["b"]) == ("markov", "again"):
            assert (row["difference"], row["p"], row["resolved"]) == (0, 1, False)


def test_identical_models_are_reported(grids: dict[str, list[list[RunMetrics]]]) -> None:
    models, _ = summarise(grids, "pairs", 0.5)
    assert identical(models) == [("markov", "again")]


def test_models_with_one_different_repeat_are_not_identical() -> None:
    rows = grid(Markov())
    changed = [*rows[:-1], [measure(Markov(MarkovConfig(mu=0.1)), 3)]]
    models, _ = summarise({"one": rows, "other": changed}, "pairs", 0.5)
    assert identical(models) == []


def test_mcnemar_test_of_accuracy_on_single_split() -> None:
    runs = {
        label: [[measure(model, bootstrap=True)]]
        for label, model in {"markov": Markov(), "popularity": Popularity()}.items()
    }
    _, comparisons = summarise(runs, "pairs", 0.0)
    accuracy, mrr = comparisons
    hits = [rows[0][0].hits for rows in runs.values()]
    assert accuracy["p_mcnemar"] == mcnemar_p_value(*hits)
    assert "p_mcnemar" not in mrr


def test_seeds_are_averaged_within_split() -> None:
    rows = [[measure(Markov(), r), measure(Markov(MarkovConfig(mu=0.1)), r)] for r in range(3)]
    models, _ = summarise({"m": rows}, "pairs", 0.5)
    nll = models["m"]["metrics"]["nll"]
    seeds = [[run.values["pairs"]["nll"] for run in row] for row in rows]
    assert nll["values"] == pytest.approx(np.mean(seeds, axis=1))
    assert nll["seed_std"] == pytest.approx(np.sqrt(np.mean(np.var(seeds, axis=1, ddof=1))))
    single, _ = summarise({"m": grid(Markov(), 2)}, "pairs", 0.5)
    assert single["m"]["metrics"]["nll"]["seed_std"] is None
