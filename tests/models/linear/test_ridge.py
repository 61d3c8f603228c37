from __future__ import annotations

import numpy as np
import pytest
from sklearn import linear_model

from dagrec.data.examples import Context
from dagrec.errors import ConfigError
from dagrec.models.interactions import SetOptions, Sets
from dagrec.models.linear import ridge
from dagrec.models.linear.ridge import Ridge, RidgeConfig
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.checks import says
from tests.worlds import branching, everything

DATA = everything().data
NODES, SERVICES = len(DATA.vocabulary), len(DATA.vocabulary.services)


def fitted(data: TrainingData = DATA, **options: object) -> Ridge:
    return Ridge(RidgeConfig.model_validate(options)).fit(data)


def weights(model: Ridge) -> Floats:
    return model.state()["weights"].astype(np.float64)


def rows(options: SetOptions) -> tuple[Floats, Floats]:
    """One row an example, none merged: its context [N, 2 V], its target's indicator [N, C]."""
    contexts = DATA.vocabulary.encode([example.context for example in DATA.examples])
    x = Sets.of(contexts, DATA.vocabulary, options.read).multi_hot(DATA.vocabulary, last=True)
    return x, np.eye(SERVICES)[DATA.targets]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("nodes", "last", "used"),
    [
        (True, True, slice(0, 2 * NODES)),
        (True, False, slice(0, NODES)),
        (False, True, slice(NODES, 2 * NODES)),
    ],
)
def test_it_is_the_ridge_regression_of_all_examples(
    nodes: bool, last: bool, used: slice, bias: bool
) -> None:
    model = fitted(nodes=nodes, last=last, bias=bias, l2=1.5)
    x, y = rows(model.config)
    oracle = linear_model.Ridge(alpha=1.5, fit_intercept=bias).fit(x[:, used], y)
    found = weights(model)
    np.testing.assert_allclose(found[: used.stop - used.start], oracle.coef_.T, atol=1e-9)
    if bias:
        np.testing.assert_allclose(found[-1], oracle.intercept_, atol=1e-9)
    predicted = model.score(DATA.vocabulary.encode([e.context for e in DATA.examples]))
    np.testing.assert_allclose(predicted, oracle.predict(x[:, used]), atol=1e-6)


@pytest.mark.parametrize("l2", [1e-6, 0.5, 20.0])
def test_the_last_node_alone_gives_shrunken_counts(l2: float) -> None:
    """W_cy = N(c, y) / (N(c) + l2)."""
    found = weights(fitted(nodes=False, bias=False, l2=l2))
    expected = np.zeros((NODES, SERVICES))
    for key, node in DATA.vocabulary.ids.items():
        after = [example.target for example in DATA.examples if example.context.path[-1] == key]
        for column, service in enumerate(DATA.vocabulary.services):
            expected[node, column] = after.count(service) / (len(after) + l2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_share_by_hand() -> None:
    data = branching().data
    scores = fitted(data, nodes=False, bias=False, l2=2.0).score(data.contexts)
    assert dict(zip(data.vocabulary.services, scores[0].tolist(), strict=True)) == pytest.approx(
        {"often": 3 / 6, "rarely": 1 / 6}
    )


@pytest.mark.parametrize("l2", [1e-6, 3.0, 1e4])
def test_scores_of_a_context_sum_to_one(l2: float) -> None:
    asked = DATA.vocabulary.encode([*DATA.contexts.origins, Context(("nobody", "hub", "clean"))])
    np.testing.assert_allclose(fitted(l2=l2).score(asked).sum(axis=1), 1, atol=1e-5)
    assert np.abs(fitted(l2=l2, bias=False).score(asked).sum(axis=1) - 1).max() > 1e-7


def test_a_large_penalty_gives_the_shares_of_the_services() -> None:
    shares = np.bincount(DATA.targets, minlength=SERVICES) / len(DATA.targets)
    scores = fitted(l2=1e300).score(DATA.contexts)
    np.testing.assert_allclose(scores, np.tile(shares, (len(DATA.contexts), 1)), atol=1e-6)


def test_contexts_of_the_memory_world_are_told_apart() -> None:
    """Markov of order 1 cannot tell west from east after ``hub``; the tables do."""
    asked = DATA.vocabulary.encode([Context(("table_l", "hub")), Context(("table_r", "hub"))])
    columns = DATA.vocabulary.columns
    both, alone = fitted(l2=0.1).score(asked), fitted(l2=0.1, nodes=False).score(asked)
    assert both[0, columns["west"]] > 0.9 > 0.1 > both[1, columns["west"]]
    assert both[1, columns["east"]] > 0.9 > 0.1 > both[0, columns["east"]]
    np.testing.assert_array_equal(alone[0], alone[1])


@pytest.mark.parametrize("at_once", [1, 3])
def test_stretches_of_rows_add_up(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights(fitted())
    monkeypatch.setattr(ridge, "ROWS_PER_PASS", at_once)
    np.testing.assert_allclose(weights(fitted()), whole, atol=1e-12)


def test_columns_that_never_occur_have_no_weights() -> None:
    found = weights(fitted(l2=1e-6))
    x, _ = rows(RidgeConfig())
    never = np.flatnonzero(~x.any(axis=0))
    assert len(never) > 4
    np.testing.assert_array_equal(found[never], 0)


def test_a_context_must_be_an_input_somehow() -> None:
    with pytest.raises(ConfigError) as error:
        create("ridge", {"nodes": False, "last": False})
    assert says(error, "ridge", "without nodes and without last")
