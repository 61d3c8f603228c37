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
    """Answers with and without ties, of which some miss the target, and weights."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(rows, C)) * 2
    if ties:
        scores = np.round(scores)
    if misses:
        scores[rng.uniform(size=scores.shape) < 0.3] = -np.inf
    scores[:, 0] = np.maximum(scores[:, 0], -2)  # no row is empty
    targets = rng.integers(C + 2 if misses else C, size=rows)
    weights = rng.uniform(0.5, 2, size=rows)
    return Outcome(log_softmax(scores, axis=1), targets, weights / weights.sum())


# A second definition of every metric, as plain loops over rows and ranks


def ranks_of(row: Floats, target: int) -> list[int]:
    """The ranks that a target may have, each as likely; none for a miss."""
    if target >= len(row) or row[target] == -np.inf:
        return []
    before = sum(1 for score in row if score > row[target])
    tied = sum(1 for score in row if score == row[target])
    return list(range(before + 1, before + tied + 1))


def over_ranks(o: Outcome, worth: Callable[[int], float], miss: float = 0.0) -> float:
    total = 0.0
    for row, target, weight in zip(o.log_probabilities, o.targets, o.weights, strict=True):
        ranks = ranks_of(row, target)
        total += weight * (sum(worth(r) for r in ranks) / len(ranks) if ranks else miss)
    return total


def per_label(o: Outcome) -> list[tuple[float, float, float]]:
    """Of each label that is a target or an answer: weight of hits, of answers and of targets."""
    found: dict[int, list[float]] = {}
    for row, target, weight in zip(o.log_probabilities, o.targets, o.weights, strict=True):
        top = [y for y, score in enumerate(row) if score == row.max()]
        for y in top:
            found.setdefault(y, [0, 0, 0])[1] += weight / len(top)
            if y == target:
                found[y][0] += weight / len(top)
        found.setdefault(int(target), [0, 0, 0])[2] += weight
    return [(hit, answered, wanted) for hit, answered, wanted in found.values()]


def mean_ratio(pairs: list[tuple[float, float]]) -> float:
    return sum(above / below if below else 0.0 for above, below in pairs) / len(pairs)


def plain_coverage(o: Outcome) -> float:
    shown = set()
    for row in o.log_probabilities:
        order = sorted(range(len(row)), key=lambda y: (-row[y], y))
        shown |= {y for y in order[:10] if row[y] > -np.inf}
    return len(shown) / C


def plain_nll(o: Outcome) -> float:
    rows = zip(o.log_probabilities, o.targets, o.weights, strict=True)
    kept = [(row[y], w) for row, y, w in rows if ranks_of(row, y)]
    return -sum(logp * w for logp, w in kept) / sum(w for _, w in kept)


def plain_brier(o: Outcome) -> float:
    total = 0.0
    for row, target, weight in zip(np.exp(o.log_probabilities), o.targets, o.weights, strict=True):
        wanted = np.zeros(max(len(row), target + 1))
        wanted[target] = 1
        total += weight * float(((row - wanted[: len(row)]) ** 2).sum())
        total += weight * float(target >= len(row))
    return total


def plain_ece(o: Outcome) -> float:
    gaps = [0.0] * 10
    for row, target, weight in zip(o.log_probabilities, o.targets, o.weights, strict=True):
        confidence = math.exp(row.max())
        ranks = ranks_of(row, target)
        hit = 1 / len(ranks) if ranks and ranks[0] == 1 else 0.0
        gaps[min(int(confidence * 10), 9)] += weight * (hit - confidence)
    return sum(abs(gap) for gap in gaps)


PLAIN: dict[str, Callable[[Outcome], float]] = {
    "accuracy": lambda o: over_ranks(o, lambda r: r == 1),
    "hr@3": lambda o: over_ranks(o, lambda r: r <= 3),
    "hr@5": lambda o: over_ranks(o, lambda r: r <= 5),
    "hr@10": lambda o: over_ranks(o, lambda r: r <= 10),
    "mrr": lambda o: over_ranks(o, lambda r: 1 / r),
    "ndcg@5": lambda o: over_ranks(o, lambda r: (r <= 5) / math.log2(1 + r)),
    "ndcg@10": lambda o: over_ranks(o, lambda r: (r <= 10) / math.log2(1 + r)),
    "ndcg": lambda o: over_ranks(o, lambda r: 1 / math.log2(1 + r)),
    "mean_rank": lambda o: over_ranks(o, float, miss=C + 1),
    "ceiling": lambda o: over_ranks(o, lambda _: 1.0),
    "macro_precision": lambda o: mean_ratio([(hit, answered) for hit, answered, _ in per_label(o)]),
    "macro_recall": lambda o: mean_ratio([(hit, wanted) for hit, _, wanted in per_label(o)]),
    "macro_f1": lambda o: mean_ratio(
        [(2 * hit, answered + wanted) for hit, answered, wanted in per_label(o)]
    ),
    "coverage": plain_coverage,
    "nll": plain_nll,
    "brier": plain_brier,
    "ece": plain_ece,
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", METRICS)
def test_every_metric_equals_a_plain_loop(name: str, ties: bool) -> None:
    for seed in range(5):
        outcome = random(seed, ties=ties)
        assert METRICS[name](outcome) == pytest.approx(PLAIN[name](outcome))


def test_the_plain_loops_are_of_the_same_metrics() -> None:
    assert PLAIN.keys() == METRICS.keys()


# Known values


def harmonic(n: int) -> float:
    return sum(1 / r for r in range(1, n + 1))


RANDOM_LINE = {
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
def test_equal_scores_give_the_random_line(name: str) -> None:
    """Every service is the target equally often."""
    targets = np.arange(2 * C) % C
    outcome = Outcome(np.full((2 * C, C), -math.log(C)), targets, np.full(2 * C, 1 / (2 * C)))
    assert METRICS[name](outcome) == pytest.approx(RANDOM_LINE[name], abs=1e-12)


def test_published_values_of_the_random_line() -> None:
    found = [round(RANDOM_LINE[name], 3) for name in ("accuracy", "hr@5", "mrr", "ndcg@5", "ndcg@10")]
    assert found == [0.067, 0.333, 0.221, 0.197, 0.303]


def one(row: list[float], target: int) -> Outcome:
    return Outcome(log_softmax(np.array([row]), axis=1), np.array([target]), np.ones(1))


def test_a_tie_block_by_hand() -> None:
    """a = 2, m = 4: HR@4 = 0.5, MRR = 0.2375, nDCG@4 = 0.2327, mean rank 4.5."""
    outcome = one([9, 8, 5, 5, 5, 5, 1], target=4)
    assert hit_rate(4)(outcome) == pytest.approx(0.5)
    assert METRICS["mrr"](outcome) == pytest.approx(0.2375)
    assert ndcg(4)(outcome) == pytest.approx(0.2327, abs=5e-5)
    assert METRICS["mean_rank"](outcome) == pytest.approx(4.5)


def test_hit_rate_never_falls_with_k() -> None:
    outcome = random(0, ties=True)
    rates = [hit_rate(k)(outcome) for k in range(1, C + 3)]
    assert rates == sorted(rates)
    assert rates[-1] == pytest.approx(METRICS["ceiling"](outcome))


def test_cut_offs_beyond_the_catalogue_are_the_whole_catalogue() -> None:
    outcome = one([3.0, 2.0, 1.0], target=2)
    assert METRICS["hr@10"](outcome) == 1
    assert METRICS["ndcg@10"](outcome) == METRICS["ndcg"](outcome) == pytest.approx(1 / 2)


# Other implementations


def hard_answers(outcome: Outcome) -> Ids:
    return outcome.log_probabilities.argmax(axis=1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("own", "other"),
    [(macro_precision, precision_score), (macro_recall, recall_score), (macro_f1, f1_score)],
    ids=["precision", "recall", "f1"],
)
def test_macro_averages_equal_those_of_scikit_learn(
    own: Callable[[Outcome], float], other: Callable[..., float], seed: int
) -> None:
    """Unknown targets are labels of their own there too: never answered, so of recall 0."""
    outcome = random(seed, ties=False)
    expected = other(
        outcome.targets,
        hard_answers(outcome),
        average="macro",
        zero_division=0,
        sample_weight=outcome.weights,
    )
    assert own(outcome) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_nll_equals_that_of_scikit_learn(seed: int) -> None:
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
def test_ndcg_equals_that_of_scikit_learn_which_averages_ties(k: int | None, ties: bool) -> None:
    outcome = random(1, ties=ties, misses=False)
    relevant = np.eye(C)[outcome.targets]
    expected = ndcg_score(relevant, outcome.log_probabilities, k=k, sample_weight=outcome.weights)
    assert ndcg(k)(outcome) == pytest.approx(expected)


# Misses and weights


def test_misses_by_hand() -> None:
    """One hit, one target that the mask removed, one that training does not know."""
    log_p = np.log(np.array([[0.75, 0.25], [1.0, 1e-300], [0.5, 0.5]]))
    log_p[1, 1] = -np.inf
    outcome = Outcome(log_p, np.array([0, 1, 2]), np.array([0.5, 0.25, 0.25]))
    assert METRICS["accuracy"](outcome) == METRICS["hr@10"](outcome) == 0.5
    assert METRICS["mrr"](outcome) == METRICS["ceiling"](outcome) == 0.5
    assert METRICS["mean_rank"](outcome) == pytest.approx(0.5 * 1 + 0.25 * 3 + 0.25 * 3)
    assert METRICS["nll"](outcome) == pytest.approx(-math.log(0.75))


def test_nll_of_nothing_reachable_is_zero() -> None:
    assert nll(one([1.0, 0.0], target=2)) == 0


def test_calibration_by_hand() -> None:
    """Sure at 0.9 and right half the time, sure at 0.6 and right always: 0.5 * 0.4 + 0.5 * 0.4."""
    log_p = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]))
    outcome = Outcome(log_p, np.array([0, 1, 0, 0]), np.full(4, 1 / 4))
    assert METRICS["ece"](outcome) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)


def test_brier_by_hand() -> None:
    log_p = np.log(np.array([[0.9, 0.1], [0.6, 0.4]]))
    outcome = Outcome(log_p, np.array([0, 1]), np.full(2, 1 / 2))
    assert METRICS["brier"](outcome) == pytest.approx((0.02 + 0.72) / 2)
    unknown = Outcome(log_p, np.array([2, 3]), np.full(2, 1 / 2))
    assert METRICS["brier"](unknown) == pytest.approx((0.82 + 0.52) / 2 + 1)


def test_the_band_of_ece_holds_95_of_100_calibrated_models() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(4), size=305)
    inside = []
    for _ in range(1000):
        targets = (p.cumsum(axis=1) > rng.random((305, 1))).argmax(axis=1)
        found = Outcome(np.log(p), targets, np.full(305, 1 / 305))
        inside.append(METRICS["ece"](found) <= ece_band(found))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)


def test_coverage_by_hand() -> None:
    """Services 0 and 2 are let through in one row, 2 and 4 in the other: 3 of 15."""
    log_p = np.full((2, C), -np.inf)
    log_p[0, [0, 2]] = log_p[1, [2, 4]] = math.log(0.5)
    outcome = Outcome(log_p, np.array([0, 14]), np.full(2, 0.5))
    assert METRICS["coverage"](outcome) == pytest.approx(3 / 15)


def test_reweighting_keeps_what_does_not_depend_on_weights() -> None:
    outcome = random(0, ties=True)
    other = outcome.reweighted(np.full(60, 1 / 60))
    assert other.ranks is outcome.ranks
    assert other.first is outcome.first
    for name, metric in METRICS.items():
        again = Outcome(outcome.log_probabilities, outcome.targets, np.full(60, 1 / 60))
        assert metric(other) == metric(again), name
