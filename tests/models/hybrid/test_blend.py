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
    model = create("blend", {"members": members, **options})
    assert isinstance(model, Blend)
    return model


def softmax(scores: Scores) -> Scores:
    return np.exp(log_softmax(scores.astype(np.float64))).astype(np.float32)


def test_single_member_equals_calibrated_member() -> None:
    member_scores = create("markov").fit(WORLD.data).score(WORLD.data.contexts).astype(np.float64)
    model = blend({"markov": {}}).fit(WORLD.data)
    expected = log_softmax(member_scores / model._temperatures[0])
    np.testing.assert_allclose(model.score(WORLD.data.contexts), expected, atol=1e-4)


def test_probabilities_are_weighted_mean_of_members() -> None:
    members = {"first": {"recommender": "markov", "order": 1}, "vsknn": {}}
    model = blend(members, conditioned=False, min_weight=0.0).fit(WORLD.data)
    contexts = WORLD.data.contexts
    member_p = [
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
        softmax(model.score(contexts)), w[0] * member_p[0] + w[1] * member_p[1], atol=1e-5
    )


def two_kinds_of_contexts(first: str, second: str) -> TrainingData:
    """Return data whose targets depend on the last node of short and the first of long contexts."""
    compositions = []
    for i in range(40):
        last, first_node = f"l{i % 4}", f"table_{i % 2}"
        compositions.append(composition(f"a{i}", (last, f"{first}{i % 4}")))
        compositions.append(composition(f"b{i}", (first_node, "same", f"{second}{i % 2}")))
    return TrainingData.of(extract(compositions)[0])


def test_useless_member_is_left_out() -> None:
    model = blend({"markov": {}, "popularity": {}}).fit(two_kinds_of_contexts("x", "y"))
    assert model._members is not None
    assert list(model._members) == ["markov"]


def test_at_least_one_member_is_kept() -> None:
    twins = {label: {"recommender": "markov"} for label in ("a", "b", "c")}
    model = blend(twins, min_weight=0.45).fit(WORLD.data)
    assert model._members


def test_conditioned_weights_depend_on_support_and_length() -> None:
    """Only the member of unlimited order predicts long contexts; both predict short ones."""
    data = two_kinds_of_contexts("x", "y")
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


def test_groups_follow_support_and_length() -> None:
    data = two_kinds_of_contexts("x", "y")
    paths = [("nobody",), ("l0",), ("l0", "l0"), ("x0", "l0", "l0"), ("a", "b", "c", "table_0")]
    contexts = data.vocabulary.encode([Context(path) for path in paths])
    supports = np.zeros(len(data.vocabulary))
    supports[data.vocabulary.ids["l0"]] = 25
    supports[data.vocabulary.ids["table_0"]] = 4
    assert group_of(contexts, supports).tolist() == [0, 9, 10, 11, 5]


def test_out_of_fold_members_are_fitted_without_predicted_compositions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fitted_on: list[set[int]] = []
    original_fit = Recommender.fit

    def fit(self: Recommender, data: TrainingData) -> Recommender:
        if self.name == "markov":
            fitted_on.append({example.composition for example in data.examples})
        return original_fit(self, data)

    monkeypatch.setattr(Recommender, "fit", fit)
    blend({"markov": {}}, folds=4).fit(WORLD.data)
    all_compositions = {example.composition for example in WORLD.data.examples}
    *folds, last = fitted_on
    assert last == all_compositions
    assert len(folds) == 4
    held_out = [all_compositions - compositions for compositions in folds]
    assert sorted(c for compositions in held_out for c in compositions) == sorted(all_compositions)


def test_fold_graph_excludes_held_out_links() -> None:
    for rest, part in WORLD.data.folds(3, seed=1):
        assert rest.graph.popularity.sum() == len(rest.examples)
        assert part.graph is rest.graph
        assert rest.vocabulary is WORLD.data.vocabulary


def test_single_composition_gives_equal_weights() -> None:
    model = blend({"markov": {}, "vsknn": {}}).fit(chain(copies=1).data)
    np.testing.assert_allclose(model._weights, 0.5)


def test_create_rejects_unknown_members_and_options() -> None:
    with pytest.raises(ConfigError) as error:
        create("blend", {"members": {"nobody": {}}})
    assert says(error, "nobody")
    with pytest.raises(ConfigError) as error:
        create("blend", {"members": {"markov": {"no_such_option": 1}}})
    assert says(error, "markov", "no_such_option")
    with pytest.raises(ConfigError, match=r"members: .* at least 1"):
        create("blend", {"members": {}})


def test_constructor_accepts_members_as_keyword() -> None:
    members = {"markov": {"order": 1}, "popularity": {}}
    model = Blend(members=members, folds=2, seed=4)
    assert model.config == BlendConfig(members=members, folds=2)
    assert {member.seed for member in model.candidates().values()} == {4}
    with pytest.raises(ConfigError) as error:
        Blend(members={"markov": {"no_such_option": 1}})
    assert says(error, "markov", "no_such_option")


def test_nested_blend_survives_restore() -> None:
    members = {"inner": {"recommender": "blend", "members": {"markov": {}, "vsknn": {}}}, "stan": {}}
    model = blend(members, min_weight=0.0).fit(WORLD.data)
    restored = blend(members, min_weight=0.0).restore(
        model.state(), WORLD.data.vocabulary, WORLD.data.graph
    )
    contexts = WORLD.data.contexts
    np.testing.assert_array_equal(restored.score(contexts), model.score(contexts))


def test_networks_may_be_members() -> None:
    members = {"markov": {}, "dagset": {"epochs": 2, "min_steps": 0}}
    model = blend(members, min_weight=0.0).fit(WORLD.data)
    assert np.isfinite(model.score(WORLD.data.contexts)).all()


WITHOUT_OWNERS = TrainingData.of(
    extract([composition(c.id, [n.key for n in c.nodes], owner=None) for c in chain().compositions])[0]
)


def repeating_owners() -> TrainingData:
    """Return data in which each owner repeats a different service, so targets depend on the history."""
    compositions = [
        composition(f"{owner}{i}", ("table_a", f"of_{owner}"), owner=owner, time=i * DAY)
        for i in range(12)
        for owner in ("ann", "bob")
    ]
    return TrainingData.of(extract(compositions)[0])


@pytest.fixture
def auto() -> Auto:
    model = create("auto", {"candidates": ("markov", "cache", "ranker"), "min_weight": 0.0})
    assert isinstance(model, Auto)
    return model


def test_auto_uses_history_candidates_only_with_histories(auto: Auto) -> None:
    assert list(auto.usable(repeating_owners())) == ["markov", "cache", "ranker"]
    assert list(auto.usable(WITHOUT_OWNERS)) == ["markov"]
    assert auto.fit(WITHOUT_OWNERS)._members.keys() == {"markov"}  # type: ignore[union-attr]


def test_auto_skips_unavailable_candidates(auto: Auto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ranker, "unavailable", lambda _: "needs its library")
    assert list(auto.usable(repeating_owners())) == ["markov", "cache"]
    blend({"ranker": {}}).candidates()  # a blend accepts unavailable members until it is fitted


def test_auto_uses_history_of_owner(auto: Auto) -> None:
    data = repeating_owners()
    model = auto.fit(data)
    columns = data.vocabulary.columns
    history = tuple(Call("of_ann", ("table_a",), float(i)) for i in range(5))
    contexts = data.vocabulary.encode([Context(("table_a",), history=history)])
    scores = model.score(contexts)[0]
    assert scores[columns["of_ann"]] > scores[columns["of_bob"]] + 1
