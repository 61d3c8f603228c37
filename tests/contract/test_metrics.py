"""The contract of metrics. Every entry of ``METRICS`` is tested.

A metric that violates a rule for a good reason is listed in ``EXCEPTIONS``, and must violate it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from scipy.special import log_softmax

from dagrec.metrics.ranking import METRICS, Outcome
from dagrec.types import Floats, Ids

Metric = Callable[[Outcome], float]

C = 12
ROWS = 40

LOWER_IS_BETTER = {"mean_rank", "nll", "brier", "ece"}
BEST = {"nll": 0.0, "brier": 0.0, "ece": 0.0}
"""The value for perfect predictions, if it is not 1."""

UNION = "it is the size of a union, which does not depend on weights or targets"
RATIO = "a ratio of expectations is not the expectation of ratios"
DEGREE = "it depends on the predicted probabilities, not only on the order"

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("macro_precision", "test_value_of_equal_scores_is_mean_over_all_orders"): RATIO,
    ("macro_f1", "test_value_of_equal_scores_is_mean_over_all_orders"): RATIO,
    ("nll", "test_value_of_equal_scores_is_mean_over_all_orders"): DEGREE,
    ("ece", "test_value_of_equal_scores_is_mean_over_all_orders"): DEGREE,
    ("nll", "test_value_is_invariant_to_scale_of_scores"): DEGREE,
    ("brier", "test_value_of_equal_scores_is_mean_over_all_orders"): DEGREE,
    ("brier", "test_value_is_invariant_to_scale_of_scores"): DEGREE,
    ("ece", "test_value_is_invariant_to_scale_of_scores"): DEGREE,
    (
        "coverage",
        "test_value_is_invariant_to_permutation_of_services",
    ): "it breaks ties by vocabulary order, as answers do",
    ("coverage", "test_rows_with_weight_zero_do_not_count"): UNION,
    ("nll", "test_misses_do_not_improve_value"): "it is a mean over the reachable targets",
    ("ece", "test_misses_do_not_improve_value"): "fewer hits can be closer to the predicted confidence",
}
"""(metric, test) -> the reason why the metric fails the test."""


@pytest.fixture(params=METRICS)
def name(request: pytest.FixtureRequest) -> str:
    """Each metric; the test is expected to fail for its known exceptions."""
    key = (request.param, request.function.__name__)
    if key in EXCEPTIONS:
        request.applymarker(
            pytest.mark.xfail(raises=AssertionError, reason=EXCEPTIONS[key], strict=True)
        )
    return str(request.param)


def outcome(scores: Floats, targets: Ids, weights: Floats | None = None) -> Outcome:
    equal = np.full(len(targets), 1 / len(targets))
    return Outcome(log_softmax(scores, axis=1), targets, equal if weights is None else weights)


def random(seed: int = 0, *, ties: bool = True) -> tuple[Floats, Ids, Floats]:
    """Random scores, with many ties or none, targets that include every service, and weights."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(ROWS, C))
    targets = rng.permutation(np.arange(ROWS) % C)
    weights = rng.uniform(0.5, 2, size=ROWS)
    return np.round(scores) if ties else scores, targets, weights / weights.sum()


def at_least_as_good(name: str, a: float, b: float) -> bool:
    """Whether value a is at least as good as b, up to rounding."""
    return a <= b + 1e-9 if name in LOWER_IS_BETTER else a >= b - 1e-9


def test_exceptions_refer_to_existing_metrics_and_tests() -> None:
    tests = {name for name in globals() if name.startswith("test_")}
    assert all(metric in METRICS and test in tests for metric, test in EXCEPTIONS)
    assert LOWER_IS_BETTER | set(BEST) <= set(METRICS)


def test_value_is_finite_and_not_negative(name: str) -> None:
    value = METRICS[name](outcome(*random()))
    assert isinstance(value, float)
    assert math.isfinite(value)
    assert value >= 0
    assert value <= 1 or name in LOWER_IS_BETTER


def test_value_of_equal_scores_is_mean_over_all_orders(name: str) -> None:
    """With four services, all 24 orders can be enumerated."""
    targets = np.arange(10) % 4
    orders = [np.tile(np.array(order, dtype=float), (10, 1)) for order in permutations(range(4))]
    mean = np.mean([METRICS[name](outcome(scores, targets)) for scores in orders])
    assert METRICS[name](outcome(np.zeros((10, 4)), targets)) == pytest.approx(mean)


def test_perfect_predictions_have_best_value(name: str) -> None:
    _, targets, weights = random()
    certain = np.where(np.arange(C) == targets[:, None], 0.0, -np.inf)
    assert METRICS[name](Outcome(certain, targets, weights)) == pytest.approx(BEST.get(name, 1.0))


def test_confident_wrong_predictions_have_worst_value(name: str) -> None:
    """The predictions are certain of a wrong service, and rank the target last."""
    _, targets, weights = random()
    column = np.arange(C)
    wrong = (targets[:, None] + 1) % C
    scores = np.where(column == wrong, 30.0, np.where(column == targets[:, None], -30.0, 0.0))
    worst = METRICS[name](outcome(scores, targets, weights))
    others = [outcome(random(seed)[0], targets, weights) for seed in range(30)]
    assert all(at_least_as_good(name, METRICS[name](other), worst) for other in others)


def test_value_is_invariant_to_order_of_rows(name: str) -> None:
    scores, targets, weights = random()
    order = np.random.default_rng(1).permutation(ROWS)
    value = METRICS[name](outcome(scores[order], targets[order], weights[order]))
    assert value == pytest.approx(METRICS[name](outcome(scores, targets, weights)))


def test_value_is_invariant_to_permutation_of_services(name: str) -> None:
    # With more rows, every service would be among the top ten of some row.
    scores, targets, weights = (part[:2] for part in random(4))
    weights = weights / weights.sum()
    before = METRICS[name](outcome(scores, targets, weights))
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(C)
        value = METRICS[name](outcome(scores[:, order], np.argsort(order)[targets], weights))
        assert value == pytest.approx(before)


def test_value_is_invariant_to_scale_of_scores(name: str) -> None:
    scores, targets, weights = random()
    before = METRICS[name](outcome(scores, targets, weights))
    assert METRICS[name](outcome(4 * scores, targets, weights)) == pytest.approx(before)


def test_value_is_invariant_to_constant_added_to_scores(name: str) -> None:
    scores, targets, weights = random()
    before = METRICS[name](outcome(scores, targets, weights))
    assert METRICS[name](outcome(scores + 8, targets, weights)) == pytest.approx(before)


def test_integer_weights_equal_copies_of_rows(name: str) -> None:
    scores, targets, _ = random()
    copies = np.random.default_rng(2).integers(1, 4, size=ROWS)
    weighted = outcome(scores, targets, copies / copies.sum())
    copied = outcome(np.repeat(scores, copies, axis=0), np.repeat(targets, copies))
    assert METRICS[name](weighted) == pytest.approx(METRICS[name](copied))


def test_rows_with_weight_zero_do_not_count(name: str) -> None:
    """The row has a target and top predictions that no other row has."""
    first = np.where(np.arange(C) < 6, 0.0, -np.inf)
    scores = np.tile(first, (4, 1)) + np.arange(C) / 8
    scores = np.concatenate([scores, -np.arange(C, dtype=float)[None]])
    targets, weights = np.array([0, 1, 2, 3, 11]), np.array([0.25, 0.25, 0.25, 0.25, 0.0])
    value = METRICS[name](outcome(scores, targets, weights))
    assert value == pytest.approx(METRICS[name](outcome(scores[:4], targets[:4], weights[:4])))


def test_reweighted_outcome_equals_new_outcome(name: str) -> None:
    scores, targets, weights = random()
    before = outcome(scores, targets)
    METRICS[name](before)
    assert METRICS[name](before.reweighted(weights)) == METRICS[name](outcome(scores, targets, weights))


@pytest.mark.parametrize("kind", ["masked", "unknown"])
def test_misses_do_not_improve_value(name: str, kind: str) -> None:
    """Masked and unknown targets stay in the denominator."""
    scores, targets, weights = random(3)
    scores[np.arange(ROWS), targets] += 2  # mostly correct, with low confidence
    before = METRICS[name](outcome(scores, targets, weights))
    hard = np.argsort(log_softmax(scores, axis=1)[np.arange(ROWS), targets])[: ROWS // 2]
    if kind == "masked":
        scores[hard, targets[hard]] = -np.inf
    else:
        targets = targets.copy()
        targets[hard] = C + np.arange(len(hard))
    assert at_least_as_good(name, before, METRICS[name](outcome(scores, targets, weights)))


def test_value_without_reachable_targets_is_finite(name: str) -> None:
    scores, targets, weights = random()
    value = METRICS[name](outcome(scores, np.full_like(targets, C), weights))
    assert math.isfinite(value)


def test_value_with_all_weight_on_misses_is_finite(name: str) -> None:
    """This occurs in a bootstrap sample without reachable targets."""
    scores, targets, _ = random()
    targets[0] = C
    weights = np.zeros(ROWS)
    weights[0] = 1
    assert math.isfinite(METRICS[name](outcome(scores, targets, weights)))


def test_metric_does_not_modify_outcome(name: str) -> None:
    scores, targets, weights = random()
    before = outcome(scores.copy(), targets.copy(), weights.copy())
    after = outcome(scores, targets, weights)
    METRICS[name](after)
    assert np.array_equal(after.log_probabilities, before.log_probabilities)
    assert np.array_equal(after.targets, before.targets)
    assert np.array_equal(after.weights, before.weights)
