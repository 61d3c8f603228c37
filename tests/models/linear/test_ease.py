from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.interactions import Interactions
from dagrec.models.linear.ease import EASE, EASEConfig
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.worlds import everything

DATA = everything().data
SERVICES = len(DATA.vocabulary.services)
LASTS = [True, False]


def fit(data: TrainingData = DATA, **options: object) -> tuple[Floats, Floats, Floats]:
    """Return B [I, C], the training rows X [U, I] and how often each row occurs [U]."""
    config = EASEConfig.model_validate(options)
    rows = Interactions.of_examples(data, config)
    weights = EASE(config).fit(data).state()["weights"].astype(np.float64)
    return weights, rows.matrix().toarray(), rows.weights


def items_of(column: int, last: bool) -> list[int]:
    """Return the node of a service and, with ``last``, the mark of this node as the last."""
    node = DATA.vocabulary.ids[DATA.vocabulary.services[column]]
    return [node, len(DATA.vocabulary) + node] if last else [node]


@pytest.mark.parametrize("last", LASTS)
@pytest.mark.parametrize("l2", [0.3, 5.0, 200.0])
def test_gradient_of_unconstrained_weights_is_zero(last: bool, l2: float) -> None:
    """X^T (X B - X) + l2 B = 0, except for the item itself and its mark, where B is 0."""
    b, x, counts = fit(last=last, l2=l2)
    targets = x[:, FIRST_SERVICE : FIRST_SERVICE + SERVICES]
    gradient = x.T @ ((x @ b - targets) * counts[:, None]) + l2 * b
    for column in range(SERVICES):
        free = np.ones(len(b), dtype=bool)
        free[items_of(column, last)] = False
        np.testing.assert_allclose(gradient[free, column], 0, atol=1e-9)
        np.testing.assert_array_equal(b[~free, column], 0)
        assert np.abs(gradient[~free, column]).max() > 0.1


@pytest.mark.parametrize("last", LASTS)
def test_columns_equal_ridge_regression_on_other_items(last: bool) -> None:
    b, x, counts = fit(last=last, l2=2.0)
    for column in range(SERVICES):
        others = np.setdiff1d(np.arange(len(b)), items_of(column, last))
        reference = Ridge(alpha=2.0, fit_intercept=False)
        reference.fit(x[:, others], x[:, FIRST_SERVICE + column], sample_weight=counts)
        np.testing.assert_allclose(b[others, column], reference.coef_, atol=1e-8)


def test_weights_without_marks_follow_formula_of_paper() -> None:
    b, x, counts = fit(last=False, l2=7.0)
    p = np.linalg.inv((x * counts[:, None]).T @ x + 7.0 * np.eye(len(b)))
    for i in range(len(b)):
        for column in range(SERVICES):
            j = column + FIRST_SERVICE
            assert b[i, column] == pytest.approx(0 if i == j else -p[i, j] / p[j, j], abs=1e-12)


@pytest.mark.parametrize("last", LASTS)
def test_weights_with_large_penalty_are_proportional_to_pair_counts(last: bool) -> None:
    b, x, counts = fit(last=last, l2=1e9)
    pair_counts = (x * counts[:, None]).T @ x[:, FIRST_SERVICE : FIRST_SERVICE + SERVICES]
    for column in range(SERVICES):
        pair_counts[items_of(column, last), column] = 0
    np.testing.assert_allclose(b * 1e9, pair_counts, atol=1e-4)


@pytest.mark.parametrize("last", LASTS)
@pytest.mark.parametrize("l2", [1e-6, 1e300])
def test_weights_are_finite_for_extreme_penalties(last: bool, l2: float) -> None:
    b, x, _ = fit(last=last, l2=l2)
    assert np.isfinite(b).all()
    unused = ~x.any(axis=0)
    assert unused.sum() >= 2
    np.testing.assert_array_equal(b[unused], 0)


@pytest.mark.parametrize("last", LASTS)
def test_scores_are_sums_of_weights(last: bool) -> None:
    model = EASE(EASEConfig(last=last)).fit(DATA)
    b = model.state()["weights"]
    ids, path = DATA.vocabulary.ids, ("table_l", "hub", "extract", "hub")
    expected = sum(b[ids[key]] for key in set(path))
    if last:
        expected = expected + b[len(DATA.vocabulary) + ids["hub"]]
    scores = model.score(DATA.vocabulary.encode([Context(path)]))[0]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-7)


def test_unknown_nodes_are_ignored() -> None:
    model = EASE().fit(DATA)
    with_unknown, without = model.score(
        DATA.vocabulary.encode([Context(("unknown", "table_l", "hub")), Context(("table_l", "hub"))])
    )
    np.testing.assert_array_equal(with_unknown, without)


def test_node_order_matters_only_with_last() -> None:
    contexts = DATA.vocabulary.encode([Context(("hub", "extract")), Context(("extract", "hub"))])
    forward, backward = EASE(EASEConfig(last=False)).fit(DATA).score(contexts)
    np.testing.assert_array_equal(forward, backward)
    forward, backward = EASE(EASEConfig(last=True)).fit(DATA).score(contexts)
    assert np.abs(forward - backward).max() > 1e-3


def test_equal_examples_are_counted_separately() -> None:
    """Twice the data with twice the penalty is the same problem."""
    twice = TrainingData.of([*DATA.examples, *DATA.examples])
    weights, doubled = fit(l2=3.0)[0], fit(twice, l2=6.0)[0]
    np.testing.assert_allclose(weights, doubled, atol=1e-12)
    assert np.abs(weights - fit(twice, l2=3.0)[0]).max() > 1e-3
