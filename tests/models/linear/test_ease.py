from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST
from dagrec.models.interactions import Interactions
from dagrec.models.linear.ease import EASE, EASEConfig
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.worlds import everything

DATA = everything().data
SERVICES = len(DATA.vocabulary.services)
LASTS = [True, False]


def learned(data: TrainingData = DATA, **options: object) -> tuple[Floats, Floats, Floats]:
    """B [I, C], and what it was learned from: X [U, I] and how often each row occurs [U]."""
    config = EASEConfig.model_validate(options)
    rows = Interactions.of_examples(data, config)
    weights = EASE(config).fit(data).state()["weights"].astype(np.float64)
    return weights, rows.dense(), rows.weights


def own(column: int, last: bool) -> list[int]:
    """The service's node, and the mark that this node is the last."""
    node = DATA.vocabulary.ids[DATA.vocabulary.services[column]]
    return [node, len(DATA.vocabulary) + node] if last else [node]


@pytest.mark.parametrize("last", LASTS)
@pytest.mark.parametrize("l2", [0.3, 5.0, 200.0])
def test_the_gradient_is_zero_where_weights_are_free(last: bool, l2: float) -> None:
    """X^T (X B - X) + l2 B = 0, but for the item itself and its mark, where B is 0."""
    b, x, counts = learned(last=last, l2=l2)
    targets = x[:, FIRST : FIRST + SERVICES]
    gradient = x.T @ ((x @ b - targets) * counts[:, None]) + l2 * b
    for column in range(SERVICES):
        free = np.ones(len(b), dtype=bool)
        free[own(column, last)] = False
        np.testing.assert_allclose(gradient[free, column], 0, atol=1e-9)
        np.testing.assert_array_equal(b[~free, column], 0)
        assert np.abs(gradient[~free, column]).max() > 0.1


@pytest.mark.parametrize("last", LASTS)
def test_each_column_is_the_ridge_regression_on_the_others(last: bool) -> None:
    b, x, counts = learned(last=last, l2=2.0)
    for column in range(SERVICES):
        others = np.setdiff1d(np.arange(len(b)), own(column, last))
        oracle = Ridge(alpha=2.0, fit_intercept=False)
        oracle.fit(x[:, others], x[:, FIRST + column], sample_weight=counts)
        np.testing.assert_allclose(b[others, column], oracle.coef_, atol=1e-8)


def test_without_marks_it_is_the_formula_of_the_paper() -> None:
    b, x, counts = learned(last=False, l2=7.0)
    p = np.linalg.inv((x * counts[:, None]).T @ x + 7.0 * np.eye(len(b)))
    for i in range(len(b)):
        for column in range(SERVICES):
            j = column + FIRST
            assert b[i, column] == pytest.approx(0 if i == j else -p[i, j] / p[j, j], abs=1e-12)


@pytest.mark.parametrize("last", LASTS)
def test_a_large_penalty_leaves_counts_of_pairs(last: bool) -> None:
    b, x, counts = learned(last=last, l2=1e9)
    together = (x * counts[:, None]).T @ x[:, FIRST : FIRST + SERVICES]
    for column in range(SERVICES):
        together[own(column, last), column] = 0
    np.testing.assert_allclose(b * 1e9, together, atol=1e-4)


@pytest.mark.parametrize("last", LASTS)
@pytest.mark.parametrize("l2", [1e-6, 1e300])
def test_extreme_penalties_and_columns_that_never_occur_stay_finite(last: bool, l2: float) -> None:
    b, x, _ = learned(last=last, l2=l2)
    assert np.isfinite(b).all()
    never = ~x.any(axis=0)
    assert never.sum() >= 2
    np.testing.assert_array_equal(b[never], 0)


@pytest.mark.parametrize("last", LASTS)
def test_scores_are_sums_of_weights(last: bool) -> None:
    model = EASE(EASEConfig(last=last)).fit(DATA)
    b = model.state()["weights"]
    ids, path = DATA.vocabulary.ids, ("table_l", "hub", "extract", "hub")
    expected = sum(b[ids[key]] for key in set(path))
    if last:
        expected = expected + b[len(DATA.vocabulary) + ids["hub"]]
    found = model.score(DATA.vocabulary.encode([Context(path)]))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_what_is_unknown_says_nothing() -> None:
    model = EASE().fit(DATA)
    one, other = model.score(
        DATA.vocabulary.encode([Context(("nobody", "table_l", "hub")), Context(("table_l", "hub"))])
    )
    np.testing.assert_array_equal(one, other)


def test_the_order_counts_where_the_last_node_is_marked() -> None:
    asked = DATA.vocabulary.encode([Context(("hub", "extract")), Context(("extract", "hub"))])
    one, other = EASE(EASEConfig(last=False)).fit(DATA).score(asked)
    np.testing.assert_array_equal(one, other)
    one, other = EASE(EASEConfig(last=True)).fit(DATA).score(asked)
    assert np.abs(one - other).max() > 1e-3


def test_n_equal_examples_are_n_rows() -> None:
    """Twice the data with twice the penalty is the same problem."""
    twice = TrainingData.of([*DATA.examples, *DATA.examples])
    one, other = learned(l2=3.0)[0], learned(twice, l2=6.0)[0]
    np.testing.assert_allclose(one, other, atol=1e-12)
    assert np.abs(one - learned(twice, l2=3.0)[0]).max() > 1e-3
