"""What every metric must do. The table of metrics says which there are: adding one needs no line here.

A metric that may break a rule stands in ``EXCEPTIONS`` with the reason, and must break it.
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
"""What a perfect answer gets, where that is not 1."""

UNION = "it is the size of a union, and knows no weights and no targets"
RATIO = "a ratio of expectations is not the expectation of ratios"
DEGREE = "it looks at how sure an answer is, not only at the order"

EXCEPTIONS: dict[tuple[str, str], str] = {
    ("macro_precision", "test_equal_scores_are_the_mean_over_all_orders"): RATIO,
    ("macro_f1", "test_equal_scores_are_the_mean_over_all_orders"): RATIO,
    ("nll", "test_equal_scores_are_the_mean_over_all_orders"): DEGREE,
    ("ece", "test_equal_scores_are_the_mean_over_all_orders"): DEGREE,
    ("nll", "test_scaling_the_scores_changes_nothing"): DEGREE,
    ("brier", "test_equal_scores_are_the_mean_over_all_orders"): DEGREE,
    ("brier", "test_scaling_the_scores_changes_nothing"): DEGREE,
    ("ece", "test_scaling_the_scores_changes_nothing"): DEGREE,
    ("coverage", "test_permuting_candidates_changes_nothing"): "it breaks ties as an answer does",
    ("coverage", "test_a_row_without_weight_changes_nothing"): UNION,
    ("nll", "test_a_miss_is_never_better"): "it is over the targets that can be answered",
    ("ece", "test_a_miss_is_never_better"): "fewer hits may be nearer to what was promised",
}
"""(metric, test) -> why the rule does not hold for it."""


@pytest.fixture(params=METRICS)
def name(request: pytest.FixtureRequest) -> str:
    """Each metric, and its known exception to the rule that is tested."""
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
    """Scores (with many ties, or none), targets of every service, and weights that add up to 1."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(ROWS, C))
    targets = rng.permutation(np.arange(ROWS) % C)
    weights = rng.uniform(0.5, 2, size=ROWS)
    return np.round(scores) if ties else scores, targets, weights / weights.sum()


def better(name: str, a: float, b: float) -> bool:
    """Whether value a is at least as good as b, but for rounding."""
    return a <= b + 1e-9 if name in LOWER_IS_BETTER else a >= b - 1e-9


def test_exceptions_are_of_metrics_and_tests_that_exist() -> None:
    tests = {name for name in globals() if name.startswith("test_")}
    assert all(metric in METRICS and test in tests for metric, test in EXCEPTIONS)
    assert LOWER_IS_BETTER | set(BEST) <= set(METRICS)


def test_it_is_a_finite_number_that_is_not_negative(name: str) -> None:
    value = METRICS[name](outcome(*random()))
    assert isinstance(value, float)
    assert math.isfinite(value)
    assert value >= 0
    assert value <= 1 or name in LOWER_IS_BETTER


def test_equal_scores_are_the_mean_over_all_orders(name: str) -> None:
    """With four candidates the random line can be enumerated: 24 orders, each as likely."""
    targets = np.arange(10) % 4
    orders = [np.tile(np.array(order, dtype=float), (10, 1)) for order in permutations(range(4))]
    mean = np.mean([METRICS[name](outcome(scores, targets)) for scores in orders])
    assert METRICS[name](outcome(np.zeros((10, 4)), targets)) == pytest.approx(mean)


def test_the_oracle_gets_the_best_there_is(name: str) -> None:
    _, targets, weights = random()
    certain = np.where(np.arange(C) == targets[:, None], 0.0, -np.inf)
    assert METRICS[name](Outcome(certain, targets, weights)) == pytest.approx(BEST.get(name, 1.0))


def test_the_anti_oracle_gets_the_worst_there_is(name: str) -> None:
    """It is certain of a wrong service, and puts the right one last."""
    _, targets, weights = random()
    column = np.arange(C)
    wrong = (targets[:, None] + 1) % C
    scores = np.where(column == wrong, 30.0, np.where(column == targets[:, None], -30.0, 0.0))
    worst = METRICS[name](outcome(scores, targets, weights))
    others = [outcome(random(seed)[0], targets, weights) for seed in range(30)]
    assert all(better(name, METRICS[name](other), worst) for other in others)


def test_the_order_of_rows_does_not_matter(name: str) -> None:
    scores, targets, weights = random()
    order = np.random.default_rng(1).permutation(ROWS)
    found = METRICS[name](outcome(scores[order], targets[order], weights[order]))
    assert found == pytest.approx(METRICS[name](outcome(scores, targets, weights)))


def test_permuting_candidates_changes_nothing(name: str) -> None:
    # Few rows: over many, every service is among the first ten of some.
    scores, targets, weights = (part[:2] for part in random(4))
    weights = weights / weights.sum()
    before = METRICS[name](outcome(scores, targets, weights))
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(C)
        found = METRICS[name](outcome(scores[:, order], np.argsort(order)[targets], weights))
        assert found == pytest.approx(before)


def test_scaling_the_scores_changes_nothing(name: str) -> None:
    scores, targets, weights = random()
    before = METRICS[name](outcome(scores, targets, weights))
    assert METRICS[name](outcome(4 * scores, targets, weights)) == pytest.approx(before)


def test_adding_a_constant_to_the_scores_changes_nothing(name: str) -> None:
    scores, targets, weights = random()
    before = METRICS[name](outcome(scores, targets, weights))
    assert METRICS[name](outcome(scores + 8, targets, weights)) == pytest.approx(before)


def test_weights_count_as_copies(name: str) -> None:
    """A row of weight 3 is that row three times."""
    scores, targets, _ = random()
    times = np.random.default_rng(2).integers(1, 4, size=ROWS)
    weighted = outcome(scores, targets, times / times.sum())
    copied = outcome(np.repeat(scores, times, axis=0), np.repeat(targets, times))
    assert METRICS[name](weighted) == pytest.approx(METRICS[name](copied))


def test_a_row_without_weight_changes_nothing(name: str) -> None:
    """Its target is a service, and its answers are services, that no other row has."""
    first = np.where(np.arange(C) < 6, 0.0, -np.inf)
    scores = np.tile(first, (4, 1)) + np.arange(C) / 8
    scores = np.concatenate([scores, -np.arange(C, dtype=float)[None]])
    targets, weights = np.array([0, 1, 2, 3, 11]), np.array([0.25, 0.25, 0.25, 0.25, 0.0])
    with_it = METRICS[name](outcome(scores, targets, weights))
    assert with_it == pytest.approx(METRICS[name](outcome(scores[:4], targets[:4], weights[:4])))


def test_reweighting_equals_measuring_again(name: str) -> None:
    scores, targets, weights = random()
    before = outcome(scores, targets)
    METRICS[name](before)
    assert METRICS[name](before.reweighted(weights)) == METRICS[name](outcome(scores, targets, weights))


@pytest.mark.parametrize("kind", ["removed", "unknown"])
def test_a_miss_is_never_better(name: str, kind: str) -> None:
    """Targets that the mask removed, or that training does not know, stay in the denominator."""
    scores, targets, weights = random(3)
    scores[np.arange(ROWS), targets] += 2  # answers that are mostly right, and not sure of it
    before = METRICS[name](outcome(scores, targets, weights))
    hard = np.argsort(log_softmax(scores, axis=1)[np.arange(ROWS), targets])[: ROWS // 2]
    if kind == "removed":
        scores[hard, targets[hard]] = -np.inf
    else:
        targets = targets.copy()
        targets[hard] = C + np.arange(len(hard))
    assert better(name, before, METRICS[name](outcome(scores, targets, weights)))


def test_nothing_reachable_is_answered_with_numbers(name: str) -> None:
    scores, targets, weights = random()
    value = METRICS[name](outcome(scores, np.full_like(targets, C), weights))
    assert math.isfinite(value)


def test_weight_on_misses_alone_is_answered_with_numbers(name: str) -> None:
    """As in a bootstrap draw that happens to hold no reachable target."""
    scores, targets, _ = random()
    targets[0] = C
    weights = np.zeros(ROWS)
    weights[0] = 1
    assert math.isfinite(METRICS[name](outcome(scores, targets, weights)))


def test_its_argument_stays_as_it_was(name: str) -> None:
    scores, targets, weights = random()
    before = outcome(scores.copy(), targets.copy(), weights.copy())
    after = outcome(scores, targets, weights)
    METRICS[name](after)
    assert np.array_equal(after.log_probabilities, before.log_probabilities)
    assert np.array_equal(after.targets, before.targets)
    assert np.array_equal(after.weights, before.weights)
