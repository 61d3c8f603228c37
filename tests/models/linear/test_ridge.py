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


def fit(data: TrainingData = DATA, **options: object) -> Ridge:
    return Ridge(RidgeConfig.model_validate(options)).fit(data)


def weights(model: Ridge) -> Floats:
    return model.state()["weights"].astype(np.float64)


def example_rows(options: SetOptions) -> tuple[Floats, Floats]:
    """Return the contexts [N, 2 V] and the indicators of the targets [N, C], one row per example."""
    contexts = DATA.vocabulary.encode([example.context for example in DATA.examples])
    x = Sets.of(contexts, DATA.vocabulary, options.read).multi_hot(DATA.vocabulary, last=True)
    return x, np.eye(SERVICES)[DATA.targets]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("nodes", "last", "columns"),
    [
        (True, True, slice(0, 2 * NODES)),
        (True, False, slice(0, NODES)),
        (False, True, slice(NODES, 2 * NODES)),
    ],
)
def test_weights_and_scores_equal_scikit_learn(
    nodes: bool, last: bool, columns: slice, bias: bool
) -> None:
    model = fit(nodes=nodes, last=last, bias=bias, l2=1.5)
    x, y = example_rows(model.config)
    reference = linear_model.Ridge(alpha=1.5, fit_intercept=bias).fit(x[:, columns], y)
    w = weights(model)
    np.testing.assert_allclose(w[: columns.stop - columns.start], reference.coef_.T, atol=1e-9)
    if bias:
        np.testing.assert_allclose(w[-1], reference.intercept_, atol=1e-9)
    scores = model.score(DATA.vocabulary.encode([e.context for e in DATA.examples]))
    np.testing.assert_allclose(scores, reference.predict(x[:, columns]), atol=1e-6)


@pytest.mark.parametrize("l2", [1e-6, 0.5, 20.0])
def test_weights_of_last_node_alone_are_shrunken_frequencies(l2: float) -> None:
    """W_cy = N(c, y) / (N(c) + l2)."""
    expected = np.zeros((NODES, SERVICES))
    for key, node in DATA.vocabulary.ids.items():
        targets = [example.target for example in DATA.examples if example.context.path[-1] == key]
        for column, service in enumerate(DATA.vocabulary.services):
            expected[node, column] = targets.count(service) / (len(targets) + l2)
    np.testing.assert_allclose(weights(fit(nodes=False, bias=False, l2=l2)), expected, rtol=1e-12)


def test_scores_equal_manual_calculation() -> None:
    data = branching().data
    scores = fit(data, nodes=False, bias=False, l2=2.0).score(data.contexts)
    assert dict(zip(data.vocabulary.services, scores[0].tolist(), strict=True)) == pytest.approx(
        {"often": 3 / 6, "rarely": 1 / 6}
    )


@pytest.mark.parametrize("l2", [1e-6, 3.0, 1e4])
def test_scores_of_a_context_sum_to_one_with_bias(l2: float) -> None:
    contexts = DATA.vocabulary.encode([*DATA.contexts.origins, Context(("unknown", "hub", "clean"))])
    np.testing.assert_allclose(fit(l2=l2).score(contexts).sum(axis=1), 1, atol=1e-5)
    assert np.abs(fit(l2=l2, bias=False).score(contexts).sum(axis=1) - 1).max() > 1e-7


def test_scores_with_large_penalty_are_service_frequencies() -> None:
    frequencies = np.bincount(DATA.targets, minlength=SERVICES) / len(DATA.targets)
    scores = fit(l2=1e300).score(DATA.contexts)
    np.testing.assert_allclose(scores, np.tile(frequencies, (len(DATA.contexts), 1)), atol=1e-6)


def test_nodes_distinguish_contexts_with_equal_last_node() -> None:
    """Only the tables determine whether west or east follows ``hub``."""
    contexts = DATA.vocabulary.encode([Context(("table_l", "hub")), Context(("table_r", "hub"))])
    columns = DATA.vocabulary.columns
    all_nodes, last_only = fit(l2=0.1).score(contexts), fit(l2=0.1, nodes=False).score(contexts)
    assert all_nodes[0, columns["west"]] > 0.9 > 0.1 > all_nodes[1, columns["west"]]
    assert all_nodes[1, columns["east"]] > 0.9 > 0.1 > all_nodes[0, columns["east"]]
    np.testing.assert_array_equal(last_only[0], last_only[1])


@pytest.mark.parametrize("rows", [1, 3])
def test_weights_do_not_depend_on_pass_size(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weights(fit())
    monkeypatch.setattr(ridge, "ROWS_PER_PASS", rows)
    np.testing.assert_allclose(weights(fit()), expected, atol=1e-12)


def test_weights_of_unused_columns_are_zero() -> None:
    x, _ = example_rows(RidgeConfig())
    unused = np.flatnonzero(~x.any(axis=0))
    assert len(unused) > 4
    np.testing.assert_array_equal(weights(fit(l2=1e-6))[unused], 0)


def test_config_rejects_ridge_without_inputs() -> None:
    with pytest.raises(ConfigError) as error:
        create("ridge", {"nodes": False, "last": False})
    assert says(error, "ridge", "without nodes and without last")
