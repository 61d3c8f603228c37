from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.examples import Call, Context, extract
from dagrec.errors import ConfigError
from dagrec.metrics.temperature import MIN_PROBABILITY, log_softmax
from dagrec.models.base import Recommender
from dagrec.models.hybrid.auto import Auto
from dagrec.models.hybrid.blend import Blend, BlendConfig
from dagrec.models.hybrid.blending import GROUPS, group_of
from dagrec.models.hybrid.ranker import Ranker
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Scores
from tests.checks import says
from tests.worlds import DAY, chain, composition, everything

WORLD = everything()


def blend(members: dict[str, dict[str, object]], **options: object) -> Blend:
    found = create("blend", {"members": members, **options})
    assert isinstance(found, Blend)
    return found


def softmax(scores: Scores) -> Scores:
    return np.exp(log_softmax(scores.astype(np.float64))).astype(np.float32)


def test_one_member_is_that_member_calibrated() -> None:
    alone = create("markov").fit(WORLD.data).score(WORLD.data.contexts).astype(np.float64)
    model = blend({"markov": {}}).fit(WORLD.data)
    expected = log_softmax(alone / model._temperatures[0])
    np.testing.assert_allclose(model.score(WORLD.data.contexts), expected, atol=1e-4)


def test_probabilities_are_the_weighted_mean_of_the_members() -> None:
    members = {"first": {"recommender": "markov", "order": 1}, "vsknn": {}}
    model = blend(members, conditioned=False, min_weight=0.0).fit(WORLD.data)
    contexts = WORLD.data.contexts
    parts = [
        np.maximum(np.exp(log_softmax(member.score(contexts).astype(np.float64) / t)), MIN_PROBABILITY)
        for member, t in zip(
            (create("markov", {"order": 1}).fit(WORLD.data), create("vsknn").fit(WORLD.data)),
            model._temperatures,
            strict=True,
        )
    ]
    w = model._weights[0]
    assert w.sum() == pytest.approx(1)
    np.testing.assert_allclose(
        softmax(model.score(contexts)), w[0] * parts[0] + w[1] * parts[1], atol=1e-5
    )


def told_by_one_of_two(first: str, second: str) -> TrainingData:
    """Contexts of one node tell nothing but by their last node; those of two by their first alone."""
    made = []
    for i in range(40):
        last, first_node = f"l{i % 4}", f"table_{i % 2}"
        made.append(composition(f"a{i}", (last, f"{first}{i % 4}")))
        made.append(composition(f"b{i}", (first_node, "same", f"{second}{i % 2}")))
    return TrainingData.of(extract(made)[0])


def test_a_member_that_only_harms_is_left_out() -> None:
    model = blend({"markov": {}, "popularity": {}}).fit(told_by_one_of_two("x", "y"))
    assert model._members is not None
    assert list(model._members) == ["markov"]


def test_what_is_left_is_never_nothing() -> None:
    twins = {label: {"recommender": "markov"} for label in ("a", "b", "c")}
    model = blend(twins, min_weight=0.45).fit(WORLD.data)
    assert model._members


def test_weights_depend_on_support_and_length() -> None:
    """Of long contexts only the whole path tells what follows; of short ones each member does."""
    data = told_by_one_of_two("x", "y")
    options = {"min_weight": 0.0, "strength": 1.0}
    members = {"one": {"recommender": "markov", "order": 1}, "whole": {"recommender": "markov"}}
    model = blend(members, **options).fit(data)
    contexts = data.vocabulary.encode([Context(("l0",)), Context(("table_0", "same"))])
    short, long = group_of(contexts, model._supports)
    assert short != long
    assert model._weights[long, 1] > 0.9
    flat = blend(members, conditioned=False, **options).fit(data)
    assert (flat._weights == flat._weights[0]).all()
    assert flat._weights.shape == (GROUPS, 2)


def test_groups_are_those_of_support_and_length() -> None:
    data = told_by_one_of_two("x", "y")
    paths = [("nobody",), ("l0",), ("l0", "l0"), ("x0", "l0", "l0"), ("a", "b", "c", "table_0")]
    contexts = data.vocabulary.encode([Context(path) for path in paths])
    supports = np.zeros(len(data.vocabulary))
    supports[data.vocabulary.ids["l0"]] = 25
    supports[data.vocabulary.ids["table_0"]] = 4
    assert group_of(contexts, supports).tolist() == [0, 9, 10, 11, 5]


def test_every_example_is_predicted_by_members_that_have_not_seen_its_composition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted_on: list[set[int]] = []
    inner = Recommender.fit

    def fit(self: Recommender, data: TrainingData) -> Recommender:
        if self.name == "markov":
            fitted_on.append({example.composition for example in data.examples})
        return inner(self, data)

    monkeypatch.setattr(Recommender, "fit", fit)
    blend({"markov": {}}, folds=4).fit(WORLD.data)
    everyone = {example.composition for example in WORLD.data.examples}
    *folds, last = fitted_on
    assert last == everyone
    assert len(folds) == 4
    left_out = [everyone - part for part in folds]
    assert sorted(c for part in left_out for c in part) == sorted(everyone)


def test_folds_know_no_link_of_what_they_are_asked() -> None:
    for rest, part in WORLD.data.folds(3, seed=1):
        assert rest.graph.popularity.sum() == len(rest.examples)
        assert part.graph is rest.graph
        assert rest.vocabulary is WORLD.data.vocabulary


def test_one_composition_alone_weighs_all_members_the_same() -> None:
    model = blend({"markov": {}, "vsknn": {}}).fit(chain(copies=1).data)
    np.testing.assert_allclose(model._weights, 0.5)


def test_a_member_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        create("blend", {"members": {"nobody": {}}})
    assert says(error, "nobody")
    with pytest.raises(ConfigError) as error:
        create("blend", {"members": {"markov": {"no_such_option": 1}}})
    assert says(error, "markov", "no_such_option")
    with pytest.raises(ConfigError, match=r"members: .* at least 1"):
        create("blend", {"members": {}})


def test_members_can_be_given_by_keyword() -> None:
    members = {"markov": {"order": 1}, "popularity": {}}
    model = Blend(members=members, folds=2, seed=4)
    assert model.config == BlendConfig(members=members, folds=2)
    assert {member.seed for member in model.candidates().values()} == {4}
    with pytest.raises(ConfigError) as error:
        Blend(members={"markov": {"no_such_option": 1}})
    assert says(error, "markov", "no_such_option")


def test_a_blend_in_a_blend_is_saved_and_loaded() -> None:
    members = {"inner": {"recommender": "blend", "members": {"markov": {}, "vsknn": {}}}, "stan": {}}
    model = blend(members, min_weight=0.0).fit(WORLD.data)
    again = blend(members, min_weight=0.0).restore(
        model.state(), WORLD.data.vocabulary, WORLD.data.graph
    )
    contexts = WORLD.data.contexts
    np.testing.assert_array_equal(again.score(contexts), model.score(contexts))


def test_networks_can_be_members() -> None:
    members = {"markov": {}, "dagset": {"epochs": 2, "min_steps": 0}}
    model = blend(members, min_weight=0.0).fit(WORLD.data)
    assert np.isfinite(model.score(WORLD.data.contexts)).all()


WITHOUT_OWNERS = TrainingData.of(
    extract([composition(c.id, [n.key for n in c.nodes], owner=None) for c in chain().compositions])[0]
)


def by_owner() -> TrainingData:
    """Each owner calls the same service again and again, each another one: only history tells."""
    made = [
        composition(f"{owner}{i}", ("table_a", f"of_{owner}"), owner=owner, time=i * DAY)
        for i in range(12)
        for owner in ("ann", "bob")
    ]
    return TrainingData.of(extract(made)[0])


@pytest.fixture
def auto() -> Auto:
    found = create("auto", {"candidates": ("markov", "cache", "ranker"), "min_weight": 0.0})
    assert isinstance(found, Auto)
    return found


def test_who_reads_history_is_a_candidate_only_where_there_is_one(auto: Auto) -> None:
    assert list(auto.usable(by_owner())) == ["markov", "cache", "ranker"]
    assert list(auto.usable(WITHOUT_OWNERS)) == ["markov"]
    assert auto.fit(WITHOUT_OWNERS)._members.keys() == {"markov"}  # type: ignore[union-attr]


def test_what_this_machine_cannot_run_is_no_candidate_of_auto(
    auto: Auto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ranker, "missing", lambda _: "its library")
    assert list(auto.usable(by_owner())) == ["markov", "cache"]
    blend({"ranker": {}}).candidates()  # whoever names it is told when it is fitted


def test_auto_knows_an_owner_by_what_it_did(auto: Auto) -> None:
    data = by_owner()
    model = auto.fit(data)
    columns = data.vocabulary.columns
    history = tuple(Call("of_ann", ("table_a",), float(i)) for i in range(5))
    asked = data.vocabulary.encode([Context(("table_a",), history=history)])
    scores = model.score(asked)[0]
    assert scores[columns["of_ann"]] > scores[columns["of_bob"]] + 1
