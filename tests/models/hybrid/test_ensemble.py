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
    found = create("ensemble", BASE | options, seed=7)
    assert isinstance(found, Ensemble)
    return found


@pytest.fixture(scope="module")
def members() -> list[Floats]:
    """log p of three trainings of their own."""
    options = dict(BASE["base_options"])  # type: ignore[call-overload]
    models = [create("gru4rec", options, seed=7 + i).fit(DATA) for i in range(3)]
    return [log_softmax(model.score(DATA.contexts).astype(np.float64)) for model in models]


def test_it_is_the_mean_of_the_probabilities(members: list[Floats]) -> None:
    found = ensemble().fit(DATA).score(DATA.contexts)
    expected = np.log(np.mean(np.exp(members), axis=0))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_or_of_their_logarithms(members: list[Floats]) -> None:
    found = ensemble(mean="log").fit(DATA).score(DATA.contexts)
    np.testing.assert_allclose(found, log_softmax(np.mean(members, axis=0)), atol=1e-5)


def test_its_log_loss_is_at_most_the_mean_of_theirs(members: list[Floats]) -> None:
    found = ensemble().fit(DATA).score(DATA.contexts)
    at = DATA.rows, DATA.targets
    assert -found[at].mean() <= np.mean([-logs[at].mean() for logs in members])


def test_one_training_and_one_reading_are_the_base(members: list[Floats]) -> None:
    found = ensemble(seeds=1).fit(DATA).score(DATA.contexts)
    np.testing.assert_allclose(found, members[0], atol=1e-5)


def test_readings_are_linear_extensions_that_the_dag_and_the_seed_decide() -> None:
    contexts = [e.context for e in diamond().examples if e.context.path[-1] == "merge"]
    dag = Upstream.of(contexts[0])
    found = {_reordered(contexts[0], dag, seed).path for seed in range(30)}
    start, left, right, end = ("table_d", "split"), ("left",), ("right",), ("merge",)
    assert found == {(*start, *left, *right, *end), (*start, *right, *left, *end)}
    assert _reordered(contexts[0], dag, 3) == _reordered(contexts[0], dag, 3)


def test_extensions_are_averaged() -> None:
    """Of a context that is one path there is one extension; of others a base can tell them apart."""
    options = {"read": "upstream", "epochs": 5, "learning_rate": 0.02}
    base = create("gru4rec", options, seed=7).fit(DATA)
    model = ensemble(base_options=options, seeds=1, extensions=6).fit(DATA)
    contexts = DATA.vocabulary.encode([e.context for e in diamond().examples])
    logs = log_softmax(base.score(contexts).astype(np.float64))
    found = model.score(contexts)
    wide = np.array([len(Upstream.of(c).keys) > len(c.path) for c in contexts.origins])
    assert wide.any()
    np.testing.assert_allclose(found[~wide], logs[~wide], atol=1e-5)
    both = [
        log_softmax(base.score(DATA.vocabulary.encode([Context(path)])).astype(np.float64))[0]
        for path in (
            ("table_d", "split", "left", "right", "merge"),
            ("table_d", "split", "right", "left", "merge"),
        )
    ]
    low, high = np.minimum(*both), np.maximum(*both)
    assert (high - low).max() > 1e-4
    assert ((found[wide] >= low - 1e-4) & (found[wide] <= high + 1e-4)).all()


def test_extensions_need_a_base_that_reads_ancestors_in_order() -> None:
    with pytest.raises(ConfigError) as error:
        ensemble(extensions=2)
    assert says(error, "extensions", "read = 'upstream'", "gru4rec")


def test_an_unknown_base_is_refused_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        ensemble(base="nobody")
    assert says(error, "nobody")
