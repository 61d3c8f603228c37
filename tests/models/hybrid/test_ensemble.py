from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.examples import Context
from dagrec.errors import ConfigError
from dagrec.graph.upstream import Upstream
from dagrec.metrics.temperature import log_softmax
from dagrec.models.hybrid.ensemble import Ensemble, _reordered
from dagrec.models.registry import create
from dagrec.types import Floats
from tests.checks import says
from tests.worlds import diamond, everything

DATA = everything().data
BASE = {"base": "gru4rec", "base_options": {"epochs": 3, "learning_rate": 0.02}, "seeds": 3}


def ensemble(**options: object) -> Ensemble:
    model = create("ensemble", BASE | options, seed=7)
    assert isinstance(model, Ensemble)
    return model


@pytest.fixture(scope="module")
def members() -> list[Floats]:
    """Return log p of the three models of the ensemble, fitted separately."""
    options = dict(BASE["base_options"])  # type: ignore[call-overload]
    members = [create("gru4rec", options, seed=7 + i).fit(DATA) for i in range(3)]
    return [log_softmax(model.score(DATA.contexts).astype(np.float64)) for model in members]


def test_mean_probability_averages_probabilities(members: list[Floats]) -> None:
    log_p = ensemble().fit(DATA).score(DATA.contexts)
    expected = np.log(np.mean(np.exp(members), axis=0))
    np.testing.assert_allclose(log_p, expected, atol=1e-5)


def test_mean_log_averages_log_probabilities(members: list[Floats]) -> None:
    log_p = ensemble(mean="log").fit(DATA).score(DATA.contexts)
    np.testing.assert_allclose(log_p, log_softmax(np.mean(members, axis=0)), atol=1e-5)


def test_log_loss_is_at_most_mean_of_members(members: list[Floats]) -> None:
    log_p = ensemble().fit(DATA).score(DATA.contexts)
    pairs = DATA.rows, DATA.targets
    assert -log_p[pairs].mean() <= np.mean([-member[pairs].mean() for member in members])


def test_single_model_and_order_equal_base(members: list[Floats]) -> None:
    log_p = ensemble(seeds=1).fit(DATA).score(DATA.contexts)
    np.testing.assert_allclose(log_p, members[0], atol=1e-5)


def test_orders_are_linear_extensions_that_depend_on_seed() -> None:
    contexts = [e.context for e in diamond().examples if e.context.path[-1] == "merge"]
    dag = Upstream.of(contexts[0])
    paths = {_reordered(contexts[0], dag, seed).path for seed in range(30)}
    start, left, right, end = ("table_d", "split"), ("left",), ("right",), ("merge",)
    assert paths == {(*start, *left, *right, *end), (*start, *right, *left, *end)}
    assert _reordered(contexts[0], dag, 3) == _reordered(contexts[0], dag, 3)


def test_extensions_are_averaged() -> None:
    """A context that is a single path has one extension; the base distinguishes those of others."""
    options = {"read": "upstream", "epochs": 5, "learning_rate": 0.02}
    base = create("gru4rec", options, seed=7).fit(DATA)
    model = ensemble(base_options=options, seeds=1, extensions=6).fit(DATA)
    contexts = DATA.vocabulary.encode([e.context for e in diamond().examples])
    base_log_p = log_softmax(base.score(contexts).astype(np.float64))
    log_p = model.score(contexts)
    branched = np.array([len(Upstream.of(c).keys) > len(c.path) for c in contexts.origins])
    assert branched.any()
    np.testing.assert_allclose(log_p[~branched], base_log_p[~branched], atol=1e-5)
    by_order = [
        log_softmax(base.score(DATA.vocabulary.encode([Context(path)])).astype(np.float64))[0]
        for path in (
            ("table_d", "split", "left", "right", "merge"),
            ("table_d", "split", "right", "left", "merge"),
        )
    ]
    low, high = np.minimum(*by_order), np.maximum(*by_order)
    assert (high - low).max() > 1e-4
    assert ((log_p[branched] >= low - 1e-4) & (log_p[branched] <= high + 1e-4)).all()


def test_extensions_require_base_with_read_upstream() -> None:
    with pytest.raises(ConfigError) as error:
        ensemble(extensions=2)
    assert says(error, "extensions", "read = 'upstream'", "gru4rec")


def test_create_rejects_unknown_base() -> None:
    with pytest.raises(ConfigError) as error:
        ensemble(base="nobody")
    assert says(error, "nobody")
