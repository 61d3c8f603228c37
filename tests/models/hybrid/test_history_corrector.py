"""Tests of the common behaviour of the cache mixture and the ranker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dagrec.data.examples import Call, Context
from dagrec.errors import ConfigError
from dagrec.models.base import Recommender
from dagrec.models.hybrid.history_corrector import HistoryCorrector
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores
from tests.checks import says
from tests.models.hybrid.owners import alternating, call_history, context_after, mostly_faithful
from tests.worlds import everything

WORLD = everything()
DATA = alternating()


@pytest.fixture(params=["cache", "ranker"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fitted(name: str, data: TrainingData = DATA, **options: object) -> HistoryCorrector:
    model = create(name, options).fit(data)
    assert isinstance(model, HistoryCorrector)
    return model


def scores(model: Recommender, data: TrainingData, *contexts: Context) -> Scores:
    return model.score(data.vocabulary.encode(list(contexts)))


def probabilities(model: Recommender, data: TrainingData, *contexts: Context) -> Floats:
    p: Floats = np.exp(scores(model, data, *contexts).astype(np.float64))
    return p


def test_score_uses_history_if_targets_depend_on_it(name: str) -> None:
    base = probabilities(
        create("markov").fit(DATA), DATA, context_after("a", "b"), context_after("b", "a")
    )
    assert base == pytest.approx(0.5, abs=0.02)
    a, b = probabilities(
        fitted(name), DATA, context_after("a", "b", "a", "b"), context_after("b", "a", "b", "a")
    )
    assert a[0] > 0.9
    assert b[1] > 0.9


def test_score_uses_history_without_times(name: str) -> None:
    p = probabilities(fitted(name), DATA, context_after("a", "b", "a", "b", timed=False))
    assert p[0, 0] > 0.9


def test_scores_without_history_equal_base(name: str) -> None:
    model = fitted(name, WORLD.data)
    base = create("markov").fit(WORLD.data)
    contexts = [replace(context, history=()) for context in WORLD.data.contexts.origins]
    expected, without_history = (
        scores(base, WORLD.data, *contexts),
        scores(model, WORLD.data, *contexts),
    )
    assert np.array_equal(without_history, expected)
    with_history = scores(
        model, WORLD.data, *[replace(c, history=call_history("plot")) for c in contexts]
    )
    assert not np.allclose(with_history, expected)


def test_history_of_unknown_services_equals_no_history(name: str) -> None:
    base, model = create("markov").fit(DATA), fitted(name)
    assert np.array_equal(
        scores(model, DATA, context_after("x", "y")), scores(base, DATA, context_after())
    )


def test_fit_without_histories_equals_base(name: str) -> None:
    data = TrainingData.of(
        [replace(e, context=replace(e.context, owner=None, history=())) for e in DATA.examples]
    )
    model, base = fitted(name, data), create("markov").fit(data)
    contexts = [context_after("a", "b"), context_after()]
    assert np.array_equal(scores(model, data, *contexts), scores(base, data, *contexts))
    vocabulary, graph = data.vocabulary, data.graph
    restored = create(name).restore(model.state(), vocabulary, graph)
    assert np.array_equal(scores(restored, data, *contexts), scores(base, data, *contexts))


def test_base_is_weighted_by_out_of_fold_predictions(name: str) -> None:
    """The base is always right for its training examples, because each table occurs once."""
    data = mostly_faithful()
    base = create("markov", {"mu": 0.5}).fit(data)
    correct = scores(base, data, *(e.context for e in data.examples)).argmax(axis=1) == data.targets
    assert correct.all()
    model = fitted(name, data, base_options={"mu": 0.5})
    # In training s0 followed the table; this owner never called s0.
    history = call_history("s1", "s1", "s1", "s2", "s1", "s1", path=("table_x",))
    p = probabilities(model, data, Context(("table_0_2",), time=0.0, history=history))
    assert p[0].argmax() == 1
    assert p[0, 0] < 0.4


def test_out_of_fold_examples_are_those_with_history(name: str) -> None:
    temperature, examples = fitted(name)._out_of_fold(DATA)
    expected = [e for e in DATA.examples if e.context.history]
    assert len(expected) == len(DATA.examples) - 16  # all but the first call of each owner
    assert len(examples) == len(expected)
    assert sorted(e.target for e in examples) == sorted(
        DATA.vocabulary.columns[e.target] for e in expected
    )
    assert all(np.exp(e.base).sum() == pytest.approx(1) for e in examples)
    assert temperature > 0


def test_scores_do_not_depend_on_owner(name: str) -> None:
    model = fitted(name)
    contexts = [
        replace(context_after("a", "b", "a"), owner=owner) for owner in ("owner-1", "new", None)
    ]
    result = scores(model, DATA, *contexts)
    assert (result == result[0]).all()


def test_scores_do_not_depend_on_batch(name: str) -> None:
    model = fitted(name)
    contexts = [
        context_after("a", "b"),
        context_after(),
        context_after("b", "b", "a"),
        context_after("x"),
        context_after("a", timed=False),
    ]
    batch = scores(model, DATA, *contexts)
    single = np.concatenate([scores(model, DATA, context) for context in contexts])
    np.testing.assert_allclose(batch, single, rtol=1e-6)
    np.testing.assert_allclose(scores(model, DATA, *contexts[::-1]), batch[::-1], rtol=1e-6)


def test_probabilities_with_history_sum_to_1(name: str) -> None:
    data = alternating(services=("a", "b", "c", "d"))
    contexts = [
        context_after("a", "b"),
        context_after("d"),
        context_after("c", "c", "x"),
        context_after("b", path=("new", "table_t")),
    ]
    assert probabilities(fitted(name, data), data, *contexts).sum(axis=1) == pytest.approx(1)


def test_new_call_changes_probabilities(name: str) -> None:
    model = fitted(name)
    before, after = probabilities(
        model, DATA, context_after("a", "b", "a"), context_after("a", "b", "a", "b")
    )
    assert before.argmax() != after.argmax()


def test_decreasing_times_have_finite_scores(name: str) -> None:
    history = (Call("a", ("table_t",), 50.0), Call("b", ("table_t",), 10.0))
    context = Context(("table_t",), time=20.0, history=history)
    assert np.isfinite(scores(fitted(name), DATA, context)).all()


def test_base_may_be_a_network(name: str) -> None:
    options = {"epochs": 2, "min_steps": 0}
    model = create(name, {"base": "fpmc", "base_options": options, "folds": 2}, seed=3)
    base = create("fpmc", options, seed=3).fit(DATA)
    model.fit(DATA)
    assert model.history == base.history != []
    assert np.array_equal(scores(model, DATA, context_after()), scores(base, DATA, context_after()))
    assert probabilities(model, DATA, context_after("a", "b", "a", "b"))[0, 0] > 0.8


@pytest.mark.parametrize(
    ("options", "parts"),
    [({"base": "nothing"}, ("nothing", "markov")), ({"base_options": {"no": 1}}, ("markov", "no"))],
)
def test_create_rejects_unknown_base_and_options(
    name: str, options: dict[str, object], parts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        create(name, options)
    assert says(error, name, *parts)
