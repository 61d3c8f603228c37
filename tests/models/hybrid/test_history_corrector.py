"""What the cache mixture and the ranker have in common."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dagrec.data.examples import Call, Context
from dagrec.errors import ConfigError
from dagrec.models.base import Recommender
from dagrec.models.hybrid.over_base import OverBase
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Scores
from tests.checks import says
from tests.models.hybrid.owners import alternating, asked, mostly_faithful, past
from tests.worlds import everything

WORLD = everything()
DATA = alternating()


@pytest.fixture(params=["cache", "ranker"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def fitted(name: str, data: TrainingData = DATA, **options: object) -> OverBase:
    model = create(name, options).fit(data)
    assert isinstance(model, OverBase)
    return model


def scores(model: Recommender, data: TrainingData, *contexts: Context) -> Scores:
    return model.score(data.vocabulary.encode(list(contexts)))


def probabilities(model: Recommender, data: TrainingData, *contexts: Context) -> Floats:
    found: Floats = np.exp(scores(model, data, *contexts).astype(np.float64))
    return found


def test_only_the_history_tells_what_comes_next(name: str) -> None:
    base = probabilities(create("markov").fit(DATA), DATA, asked("a", "b"), asked("b", "a"))
    assert base == pytest.approx(0.5, abs=0.02)
    a, b = probabilities(fitted(name), DATA, asked("a", "b", "a", "b"), asked("b", "a", "b", "a"))
    assert a[0] > 0.9
    assert b[1] > 0.9


def test_what_happened_before_an_unknown_time_counts_too(name: str) -> None:
    p = probabilities(fitted(name), DATA, asked("a", "b", "a", "b", timed=False))
    assert p[0, 0] > 0.9


def test_a_new_owner_gets_the_scores_of_the_base_exactly(name: str) -> None:
    model = fitted(name, WORLD.data)
    base = create("markov").fit(WORLD.data)
    contexts = [replace(context, history=()) for context in WORLD.data.contexts.origins]
    alone, own = scores(base, WORLD.data, *contexts), scores(model, WORLD.data, *contexts)
    assert np.array_equal(own, alone)
    told = scores(model, WORLD.data, *[replace(c, history=past("plot")) for c in contexts])
    assert not np.allclose(told, alone)


def test_a_history_of_unknown_services_is_none(name: str) -> None:
    base, model = create("markov").fit(DATA), fitted(name)
    assert np.array_equal(scores(model, DATA, asked("x", "y")), scores(base, DATA, asked()))


def test_data_that_tell_nothing_of_owners_leave_the_base(name: str) -> None:
    strangers = TrainingData.of(
        [replace(e, context=replace(e.context, owner=None, history=())) for e in DATA.examples]
    )
    model, base = fitted(name, strangers), create("markov").fit(strangers)
    asked_for = [asked("a", "b"), asked()]
    assert np.array_equal(scores(model, strangers, *asked_for), scores(base, strangers, *asked_for))
    vocabulary, graph = strangers.vocabulary, strangers.graph
    again = create(name).restore(model.state(), vocabulary, graph)
    assert np.array_equal(scores(again, strangers, *asked_for), scores(base, strangers, *asked_for))


def test_a_base_is_not_trusted_for_what_it_has_seen(name: str) -> None:
    """In the examples it learned from the base is always right, because each table came once."""
    data = mostly_faithful()
    base = create("markov", {"mu": 0.5}).fit(data)
    right = scores(base, data, *(e.context for e in data.examples)).argmax(axis=1) == data.targets
    assert right.all()
    model = fitted(name, data, base_options={"mu": 0.5})
    # The table came with s0, which this owner never called.
    before = past("s1", "s1", "s1", "s2", "s1", "s1", path=("table_x",))
    p = probabilities(model, data, Context(("table_0_2",), time=0.0, history=before))
    assert p[0].argmax() == 1
    assert p[0, 0] < 0.4


def test_the_examples_predicted_out_of_fold_are_those_that_were_told_something(name: str) -> None:
    temperature, questions = fitted(name)._out_of_fold(DATA)
    told = [e for e in DATA.examples if e.context.history]
    assert len(told) == len(DATA.examples) - 16  # the first call of each owner
    assert len(questions) == len(told)
    assert sorted(q.target for q in questions) == sorted(
        DATA.vocabulary.columns[e.target] for e in told
    )
    assert all(np.exp(q.base).sum() == pytest.approx(1) for q in questions)
    assert temperature > 0


def test_who_asks_makes_no_difference(name: str) -> None:
    model = fitted(name)
    contexts = [replace(asked("a", "b", "a"), owner=owner) for owner in ("owner-1", "new", None)]
    found = scores(model, DATA, *contexts)
    assert (found == found[0]).all()


def test_rows_do_not_change_each_other(name: str) -> None:
    model = fitted(name)
    contexts = [asked("a", "b"), asked(), asked("b", "b", "a"), asked("x"), asked("a", timed=False)]
    together = scores(model, DATA, *contexts)
    alone = np.concatenate([scores(model, DATA, context) for context in contexts])
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    np.testing.assert_allclose(scores(model, DATA, *contexts[::-1]), together[::-1], rtol=1e-6)


def test_probabilities_sum_to_one_where_something_is_told(name: str) -> None:
    data = alternating(services=("a", "b", "c", "d"))
    contexts = [asked("a", "b"), asked("d"), asked("c", "c", "x"), asked("b", path=("new", "table_t"))]
    assert probabilities(fitted(name, data), data, *contexts).sum(axis=1) == pytest.approx(1)


def test_a_new_call_counts_at_once(name: str) -> None:
    model = fitted(name)
    before, after = probabilities(model, DATA, asked("a", "b", "a"), asked("a", "b", "a", "b"))
    assert before.argmax() != after.argmax()


def test_a_time_that_runs_backwards_is_no_error(name: str) -> None:
    history = (Call("a", ("table_t",), 50.0), Call("b", ("table_t",), 10.0))
    context = Context(("table_t",), time=20.0, history=history)
    assert np.isfinite(scores(fitted(name), DATA, context)).all()


def test_the_base_may_be_trained_by_gradient(name: str) -> None:
    options = {"epochs": 2, "min_steps": 0}
    model = create(name, {"base": "fpmc", "base_options": options, "folds": 2}, seed=3)
    base = create("fpmc", options, seed=3).fit(DATA)
    model.fit(DATA)
    assert model.history == base.history != []
    assert np.array_equal(scores(model, DATA, asked()), scores(base, DATA, asked()))
    assert probabilities(model, DATA, asked("a", "b", "a", "b"))[0, 0] > 0.8


@pytest.mark.parametrize(
    ("options", "parts"),
    [({"base": "nothing"}, ("nothing", "markov")), ({"base_options": {"no": 1}}, ("markov", "no"))],
)
def test_a_base_that_does_not_exist_is_refused(
    name: str, options: dict[str, object], parts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError) as error:
        create(name, options)
    assert says(error, name, *parts)
