from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.metrics import f1_score, log_loss, ndcg_score, precision_score, recall_score

from dagrec.metrics.ranking import (
    METRICS,
    Outcome,
    ece_band,
    hit_rate,
    macro_f1,
    macro_precision,
    macro_recall,
    ndcg,
    nll,
)
from dagrec.types import Floats, Ids

C = 15


def random(seed: int, *, ties: bool, rows: int = 60, misses: bool = True) -> Outcome:
    """Random predictions and weights, with or without ties and misses."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, C)) * 2
    if ties:
        scores = np.round(scores)
    if misses:
        scores[rng.uniform(size=scores.shape) < 0.3] = -np.inf
    scores[:, 0] = np.maximum(scores[:, 0], -2)  # at least one service of each row is allowed
    targets = rng.integers(C + 2 if misses else C, size=rows)
    weights = rng.uniform(0.5, 2, size=rows)
    return Outcome(log_softmax(scores, axis=1), targets, weights / weights.sum())


# Reference implementations of all metrics, as loops over rows and ranks


def ranks_of(row: Floats, target: int) -> list[int]:
    """The possible ranks of a target, which are equally likely; none for a miss."""
    if target >= len(row) or row[target] == -np.inf:
        return []
    before = sum(1 for score in row if score > row[target])
    tied = sum(1 for score in row if score == row[target])
    return list(range(before + 1, before + tied + 1))


def mean_over_ranks(o: Outcome, gain: Callable[[int], float], miss: float = 0.0) -> float:
    total = 0.0
    for row, target, weight in zip(o.log_probabilities, o.targets, o.weights, strict=True):
        ranks = ranks_of(row, target)
        total += weight * (sum(gain(r) for r in ranks) / len(ranks) if ranks else miss)
    return total


def per_label(o: Outcome) -> list[tuple[float, float, float]]:
    """The weight of hits, of predictions and of targets of each label."""
    totals: dict[int, list[float]] = {}
    for row, target, weight in zip(o.log_probabilities, o.targets, o.weights, strict=True):
        top = [y for y, score in enumerate(row) if score == row.max()]
        for y in top:
            totals.setdefault(y, [0, 0, 0])[1] += weight / len(top)
            if y == target:
                totals[y][0] += weight / len(top)
        totals.setdefault(int(target), [0, 0, 0])[2] += weight
    return [(hit, predicted, actual) for hit, predicted, actual in totals.values()]


def mean_ratio(pairs: list[tuple[float, float]]) -> float:
    return sum(top / bottom if bottom else 0.0 for top, bottom in pairs) / len(pairs)


def reference_coverage(o: Outcome) -> float:
    shown = set()
    for row in o.log_probabilities:
        order = sorted(range(len(row)), key=lambda y: (-row[y], y))
        shown |= {y for y in order[:10] if row[y] > -np.inf}
    return len(shown) / C


def reference_nll(o: Outcome) -> float:
    rows = zip(o.log_probabilities, o.targets, o.weights, strict=True)
    reachable = [(row[y], w) for row, y, w in rows if ranks_of(row, y)]
    return -sum(logp * w for logp, w in reachable) / sum(w for _, w in reachable)


def reference_brier(o: Outcome) -> float:
    total = 0.0
    for row, target, weight in zip(np.exp(o.log_probabilities), o.targets, o.weights, strict=True):
        one_hot = np.zeros(max(len(row), target + 1))
        one_hot[target] = 1
        total += weight * float(((row - one_hot[: len(row)]) ** 2).sum())
        total += weight * float(target >= len(row))
    return total


def reference_ece(o: Outcome) -> float:
    gaps = [0.0] * 10
    for row, target, weight in zip(o.log_probabilities, o.targets, o.weights, strict=True):
        confidence = math.exp(row.max())
        ranks = ranks_of(row, target)
        hit = 1 / len(ranks) if ranks and ranks[0] == 1 else 0.0
        gaps[min(int(confidence * 10), 9)] += weight * (hit - confidence)
    return sum(abs(gap) for gap in gaps)


REFERENCE: dict[str, Callable[[Outcome], float]] = {
    "accuracy": lambda o: mean_over_ranks(o, lambda r: r == 1),
    "hr@3": lambda o: mean_over_ranks(o, lambda r: r <= 3),
    "hr@5": lambda o: mean_over_ranks(o, lambda r: r <= 5),
    "hr@10": lambda o: mean_over_ranks(o, lambda r: r <= 10),
    "mrr": lambda o: mean_over_ranks(o, lambda r: 1 / r),
    "ndcg@5": lambda o: mean_over_ranks(o, lambda r: (r <= 5) / math.log2(1 + r)),
    "ndcg@10": lambda o: mean_over_ranks(o, lambda r: (r <= 10) / math.log2(1 + r)),
    "ndcg": lambda o: mean_over_ranks(o, lambda r: 1 / math.log2(1 + r)),
    "mean_rank": lambda o: mean_over_ranks(o, float, miss=C + 1),
    "ceiling": lambda o: mean_over_ranks(o, lambda _: 1.0),
    "macro_precision": lambda o: mean_ratio([(hit, predicted) for hit, predicted, _ in per_label(o)]),
    "macro_recall": lambda o: mean_ratio([(hit, actual) for hit, _, actual in per_label(o)]),
    "macro_f1": lambda o: mean_ratio(
        [(2 * hit, predicted + actual) for hit, predicted, actual in per_label(o)]
    ),
    "coverage": reference_coverage,
    "nll": reference_nll,
    "brier": reference_brier,
    "ece": reference_ece,
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", METRICS)
def test_metric_matches_reference(name: str, ties: bool) -> None:
    for seed in range(5):
        outcome = random(seed, ties=ties)
        assert METRICS[name](outcome) == pytest.approx(REFERENCE[name](outcome))


def test_every_metric_has_reference() -> None:
    assert REFERENCE.keys() == METRICS.keys()


# Known values


def harmonic(n: int) -> float:
    return sum(1 / r for r in range(1, n + 1))


EQUAL_SCORES = {
    "accuracy": 1 / C,
    "hr@3": 3 / C,
    "hr@5": 5 / C,
    "hr@10": 10 / C,
    "mrr": harmonic(C) / C,
    "ndcg@5": sum(1 / math.log2(1 + r) for r in range(1, 6)) / C,
    "ndcg@10": sum(1 / math.log2(1 + r) for r in range(1, 11)) / C,
    "ndcg": sum(1 / math.log2(1 + r) for r in range(1, C + 1)) / C,
    "mean_rank": (C + 1) / 2,
    "macro_precision": 1 / C,
    "macro_recall": 1 / C,
    "macro_f1": 1 / C,
    "nll": math.log(C),
    "brier": 1 - 1 / C,
    "ece": 0.0,
    "coverage": 10 / C,
    "ceiling": 1.0,
}


@pytest.mark.parametrize("name", METRICS)
def test_metric_of_equal_scores(name: str) -> None:
    """Every service is equally often the target."""
    targets = np.arange(2 * C) % C
    outcome = Outcome(np.full((2 * C, C), -math.log(C)), targets, np.full(2 * C, 1 / (2 * C)))
    assert METRICS[name](outcome) == pytest.approx(EQUAL_SCORES[name], abs=1e-12)


def test_equal_scores_give_published_values() -> None:
    values = [round(EQUAL_SCORES[name], 3) for name in ("accuracy", "hr@5", "mrr", "ndcg@5", "ndcg@10")]
    assert values == [0.067, 0.333, 0.221, 0.197, 0.303]


def single_row(row: list[float], target: int) -> Outcome:
    return Outcome(log_softmax(np.array([row]), axis=1), np.array([target]), np.ones(1))


def test_ties_by_hand() -> None:
    """a = 2, m = 4: HR@4 = 0.5, MRR = 0.2375, nDCG@4 = 0.2327, mean rank 4.5."""
    outcome = single_row([9, 8, 5, 5, 5, 5, 1], target=4)
    assert hit_rate(4)(outcome) == pytest.approx(0.5)
    assert METRICS["mrr"](outcome) == pytest.approx(0.2375)
    assert ndcg(4)(outcome) == pytest.approx(0.2327, abs=5e-5)
    assert METRICS["mean_rank"](outcome) == pytest.approx(4.5)


def test_hit_rate_is_monotonic_in_k() -> None:
    outcome = random(0, ties=True)
    rates = [hit_rate(k)(outcome) for k in range(1, C + 3)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(METRICS["ceiling"](outcome))


def test_cut_off_beyond_number_of_services_is_ignored() -> None:
    outcome = single_row([3.0, 2.0, 1.0], target=2)
    assert METRICS["hr@10"](outcome) == 1
    assert METRICS["ndcg@10"](outcome) == METRICS["ndcg"](outcome) == pytest.approx(1 / 2)


# Other implementations


def top_predictions(outcome: Outcome) -> Ids:
    return outcome.log_probabilities.argmax(axis=1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("metric", "reference"),
    [(macro_precision, precision_score), (macro_recall, recall_score), (macro_f1, f1_score)],
    ids=["precision", "recall", "f1"],
)
def test_macro_averages_match_scikit_learn(
    metric: Callable[[Outcome], float], reference: Callable[..., float], seed: int
) -> None:
    """scikit-learn also treats unknown targets as labels, with recall 0."""
    outcome = random(seed, ties=False)
    expected = reference(
        outcome.targets,
        top_predictions(outcome),
        average="macro",
        zero_division=0,
        sample_weight=outcome.weights,
    )
    assert metric(outcome) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_nll_matches_scikit_learn(seed: int) -> None:
    outcome = random(seed, ties=True, misses=False)
    p = np.exp(outcome.log_probabilities)
    expected = log_loss(
        outcome.targets,
        p / p.sum(axis=1, keepdims=True),
        labels=range(C),
        sample_weight=outcome.weights,
    )
    assert nll(outcome) == pytest.approx(expected)


@pytest.mark.parametrize("k", [5, 10, None])
@pytest.mark.parametrize("ties", [False, True])
def test_ndcg_matches_scikit_learn(k: int | None, ties: bool) -> None:
    outcome = random(1, ties=ties, misses=False)  # scikit-learn averages over ties, too
    relevant = np.eye(C)[outcome.targets]
    expected = ndcg_score(relevant, outcome.log_probabilities, k=k, sample_weight=outcome.weights)
    assert ndcg(k)(outcome) == pytest.approx(expected)


# Misses and weights


def test_misses_by_hand() -> None:
    """The three targets are a hit, a masked service and an unknown service."""
    log_p = np.log(np.array([[0.75, 0.25], [1.0, 1e-300], [0.5, 0.5]]))
    log_p[1, 1] = -np.inf
    outcome = Outcome(log_p, np.array([0, 1, 2]), np.array([0.5, 0.25, 0.25]))
    assert METRICS["accuracy"](outcome) == METRICS["hr@10"](outcome) == 0.5
    assert METRICS["mrr"](outcome) == METRICS["ceiling"](outcome) == 0.5
    assert METRICS["mean_rank"](outcome) == pytest.approx(0.5 * 1 + 0.25 * 3 + 0.25 * 3)
    assert METRICS["nll"](outcome) == pytest.approx(-math.log(0.75))


def test_nll_without_reachable_targets_is_zero() -> None:
    assert nll(single_row([1.0, 0.0], target=2)) == 0


def test_ece_by_hand() -> None:
    """Accuracy 0.5 at confidence 0.9, and 1 at confidence 0.6: 0.5 * 0.4 + 0.5 * 0.4."""
    log_p = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]))
    outcome = Outcome(log_p, np.array([0, 1, 0, 0]), np.full(4, 1 / 4))
    assert METRICS["ece"](outcome) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_brier_by_hand() -> None:
    log_p = np.log(np.array([[0.9, 0.1], [0.6, 0.4]]))
    outcome = Outcome(log_p, np.array([0, 1]), np.full(2, 1 / 2))
    assert METRICS["brier"](outcome) == pytest.approx((0.02 + 0.72) / 2)
    unknown = Outcome(log_p, np.array([2, 3]), np.full(2, 1 / 2))
    assert METRICS["brier"](unknown) == pytest.approx((0.82 + 0.52) / 2 + 1)


def test_ece_band_is_95_percent_quantile_of_calibrated_models() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=305)
    inside = []
    for _ in range(1000):
        targets = (p.cumsum(axis=1) > rng.random((305, 1))).argmax(axis=1)
        outcome = Outcome(np.log(p), targets, np.full(305, 1 / 305))
        inside.append(METRICS["ece"](outcome) <= ece_band(outcome))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)


def test_coverage_by_hand() -> None:
    """Services 0 and 2 are allowed in one row, 2 and 4 in the other: 3 of 15."""
    log_p = np.full((2, C), -np.inf)
    log_p[0, [0, 2]] = log_p[1, [2, 4]] = math.log(0.5)
    outcome = Outcome(log_p, np.array([0, 14]), np.full(2, 0.5))
    assert METRICS["coverage"](outcome) == pytest.approx(3 / 15)


def test_reweighted_reuses_values_that_do_not_depend_on_weights() -> None:
    outcome = random(0, ties=True)
    other = outcome.reweighted(np.full(60, 1 / 60))
    assert other.ranks is outcome.ranks
    assert other.top1 is outcome.top1
    for name, metric in METRICS.items():
        new = Outcome(outcome.log_probabilities, outcome.targets, np.full(60, 1 / 60))
        assert metric(other) == metric(new), name
