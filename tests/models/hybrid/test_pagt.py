from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics.pairwise import cosine_similarity

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import Call, Context, Example, extract
from dagrec.data.history import Histories
from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.errors import ConfigError, StoreError
from dagrec.metrics.temperature import log_softmax
from dagrec.models.hybrid import pagt
from dagrec.models.hybrid.pagt import PAGT, VARIANCE, Neighbours, PagtConfig, fit_gate
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids
from tests.checks import says
from tests.worlds import DAY, composition, everything

QUICK = {"epochs": 3, "learning_rate": 0.02}
DATA = everything().data
SERVICES = DATA.vocabulary.services


def new(**options: object) -> PAGT:
    found = create("pagt", {"base_options": QUICK, "folds": 2, **options})
    assert isinstance(found, PAGT)
    return found


@pytest.fixture(scope="module")
def model() -> PAGT:
    return new().fit(DATA)


def told() -> Contexts:
    """Training contexts that have a history."""
    return DATA.vocabulary.encode([e.context for e in DATA.examples if e.context.history])


def by_owner(
    owners: Sequence[str] = ("ann", "bob"), times: int = 12, wanted: str = "of_"
) -> list[Composition]:
    """Each owner calls its own service after the table, again and again: only history tells which."""
    return [
        composition(f"{owner}{i}", ("table_a", f"{wanted}{number % 2}"), owner=owner, time=i * DAY)
        for i in range(times)
        for number, owner in enumerate(owners)
    ]


# The formula


def counted(context: Context, vocabulary: Vocabulary, calls: int) -> list[int]:
    counts = Counter(call.service for call in context.history[-calls:])
    return [counts[service] for service in vocabulary.services]


def by_hand(context: Context, examples: Sequence[Example], config: PagtConfig) -> Floats | None:
    """P_pref by plain loops over what training examples had."""
    rows: dict[tuple[tuple[int, ...], str], Counter[str]] = {}
    for example in sorted(examples, key=lambda e: e.context.time or 0.0, reverse=True):
        vector = tuple(counted(example.context, DATA.vocabulary, config.calls))
        if any(vector):
            key = vector, example.context.path[-1]
            rows.setdefault(key, Counter())[example.target] += 1
    x = [counted(context, DATA.vocabulary, config.calls)]
    similar = cosine_similarity(x, [vector for vector, _ in rows])[0]
    near = {key: w for key, w in zip(rows, similar.tolist(), strict=True) if w > 1e-12}
    if config.after == "node" and any(key[1] == context.path[-1] for key in near):
        near = {key: w for key, w in near.items() if key[1] == context.path[-1]}
    chosen = sorted(near, key=lambda key: -round(near[key], 12))[: config.neighbours]
    total = sum(near[key] * rows[key].total() for key in chosen)
    if not total:
        return None
    return np.array([sum(near[key] * rows[key][y] for key in chosen) / total for y in SERVICES])


@pytest.mark.parametrize("options", [{}, {"after": "any"}, {"neighbours": 2}, {"calls": 256}], ids=str)
def test_preference_is_what_followed_similar_histories(options: dict[str, object]) -> None:
    config = PagtConfig(**options)
    neighbours = Neighbours.of(DATA.examples, DATA.vocabulary, config)
    contexts = told()
    for row, context in enumerate(contexts.origins):
        x = np.array(counted(context, DATA.vocabulary, config.calls), dtype=np.float64)
        found = neighbours.preference(x, int(contexts.last[row]), config)
        expected = by_hand(context, DATA.examples, config)
        assert found is not None
        assert expected is not None
        assert found.sum() == pytest.approx(1)
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_scores_are_the_logarithm_of_the_mixture(model: PAGT) -> None:
    contexts = told()
    base = create("graph_transformer", dict(QUICK)).fit(DATA).score(contexts)
    p_gt = np.exp(log_softmax(base.astype(np.float64)))
    expected = np.empty_like(p_gt)
    for row, context in enumerate(contexts.origins):
        preference = by_hand(context, DATA.examples, model.config)
        assert preference is not None
        alpha = 1 / (1 + np.exp(-(model._gate @ [1, np.log(1 + len(context.history))])))
        assert model.alpha(len(context.history)) == pytest.approx(alpha)
        expected[row] = alpha * p_gt[row] + (1 - alpha) * preference
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(np.exp(model.score(contexts)), expected, atol=1e-6)


def test_a_gate_that_is_open_gives_the_base_and_one_that_is_shut_the_preference(model: PAGT) -> None:
    contexts, state = told(), model.state()
    known = DATA.vocabulary, DATA.graph
    base = model._base
    assert base is not None
    open_ = new().restore(state | {"gate": np.array([1e3, 0.0])}, *known)
    p_gt = log_softmax(base.score(contexts).astype(np.float64))
    np.testing.assert_allclose(open_.score(contexts), p_gt, atol=1e-5)
    shut = new().restore(state | {"gate": np.array([-1e3, 0.0])}, *known)
    expected = [by_hand(context, DATA.examples, model.config) for context in contexts.origins]
    np.testing.assert_allclose(np.exp(shut.score(contexts)), np.stack(expected), atol=1e-6)  # type: ignore[arg-type]


# The gate


def mixtures(seed: int) -> tuple[Floats, Floats, Ids]:
    """Of what came next: the preference is right where the history is long, the base where not."""
    rng = np.random.default_rng(seed)
    calls = rng.integers(1, 200, 400)
    right = rng.random(400) < 1 / (1 + np.exp(-(2 - np.log1p(calls))))
    return np.where(right, 0.8, 0.1), np.where(right, 0.05, 0.7), calls


@pytest.mark.parametrize("seed", range(4))
def test_the_gate_is_the_likeliest(seed: int) -> None:
    base, preference, calls = mixtures(seed)

    def loss(theta: Floats) -> float:
        alpha = 1 / (1 + np.exp(-(theta[0] + theta[1] * np.log1p(calls))))
        likelihood = np.log(alpha * base + (1 - alpha) * preference).sum()
        return float(-likelihood + theta @ theta / (2 * VARIANCE))

    found = fit_gate(base, preference, calls)
    best = minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-8})
    assert loss(found) == pytest.approx(best.fun, abs=1e-6)
    np.testing.assert_allclose(found, best.x, atol=0.02)
    assert found[0] > 0 > found[1]


def test_the_gate_follows_who_is_right() -> None:
    calls = np.arange(1, 50)
    sure, wrong = np.full(49, 0.9), np.zeros(49)

    def alpha(theta: Floats) -> Floats:
        return np.asarray(1 / (1 + np.exp(-(theta[0] + theta[1] * np.log1p(calls)))))

    assert alpha(fit_gate(sure, wrong, calls)).min() > 0.95
    assert alpha(fit_gate(wrong + 1e-9, sure, calls)).max() < 0.05
    assert fit_gate(sure, sure, calls).tolist() == [0, 0]
    assert fit_gate(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64)).tolist() == [0, 0]


# A new owner


def test_a_new_owner_gets_the_base_bit_by_bit(model: PAGT) -> None:
    assert model._base is not None
    paths = [c.path for c in DATA.contexts.origins]
    untold = [Context(path) for path in paths]
    unknown = [Context(path, history=(Call("nobody"), Call("table_a"))) for path in paths]
    # A service that no history holds, because every owner called it last.
    seen = {call.service for e in DATA.examples for call in e.context.history}
    unheard = [y for y in SERVICES if y not in seen]
    assert unheard
    apart = [Context(path, history=(Call(unheard[0]),)) for path in paths]
    for contexts in (untold, unknown, apart):
        encoded = DATA.vocabulary.encode(contexts)
        assert np.array_equal(model.score(encoded), model._base.score(encoded))
    mixed = DATA.vocabulary.encode([*untold, *told().origins])
    assert np.array_equal(model.score(mixed)[: len(untold)], model._base.score(mixed)[: len(untold)])


def one_with_times() -> Composition:
    """A composition whose calls have times of their own: the second has a history."""
    keys = ("table_a", "of_0", "of_1", "of_0")
    nodes = [
        Node(str(i), key, "table" if i == 0 else "service", None, i * DAY) for i, key in enumerate(keys)
    ]
    links = [(str(i), str(i + 1)) for i in range(3)]
    return compose("one", nodes, links, owner="ann", time=DAY)[0]


@pytest.mark.parametrize("compositions", [by_owner(times=1), [one_with_times()]], ids=len)
def test_where_nothing_is_predicted_out_of_fold_it_is_the_base(
    compositions: list[Composition],
) -> None:
    data = TrainingData.of(extract(compositions)[0])
    model = new().fit(data)
    assert model._base is not None
    asked = [replace(e.context, history=(Call(e.target),)) for e in data.examples]
    contexts = data.vocabulary.encode(asked)
    assert np.array_equal(model.score(contexts), model._base.score(contexts))


# No leaks


def test_no_neighbour_knows_anything_of_what_is_asked_out_of_fold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stores: list[Sequence[Example]] = []
    asked: list[Contexts] = []
    of, preferences = Neighbours.of, PAGT._preferences

    def watched_of(examples: Sequence[Example], *rest: object) -> Neighbours:
        stores.append(examples)
        return of(examples, *rest)  # type: ignore[arg-type]

    def watched(self: PAGT, contexts: Contexts, *rest: object) -> object:
        asked.append(contexts)
        return preferences(self, contexts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pagt.Neighbours, "of", watched_of)
    monkeypatch.setattr(PAGT, "_preferences", watched)
    new(folds=3).fit(DATA)
    *folds, whole = stores
    assert [e.target for e in whole] == [e.target for e in DATA.examples]
    assert len(folds) == len(asked) == 3
    assert sum(map(len, asked)) == len(told())
    for store, questions in zip(folds, asked, strict=True):
        inside = {e.composition for e in store}
        left_out = [e for e in DATA.examples if e.composition not in inside]
        assert {c.composition.id for c in questions.origins if c.composition}.isdisjoint(
            e.context.composition.id for e in store if e.context.composition
        )
        # Their calls are in no history either: histories are made of what the store itself did.
        calls = {(e.context.owner, e.target, e.context.path, e.context.time) for e in left_out}
        kept = {(e.context.owner, e.target, e.context.path, e.context.time) for e in store}
        in_histories = {(e.context.owner, *call) for e in store for call in e.context.history}
        assert in_histories <= kept
        assert in_histories.isdisjoint(calls - kept)


def answers(compositions: list[Composition]) -> list[tuple[float, float, int]]:
    data = TrainingData.of(extract(compositions)[0])
    return new(after="any")._out_of_fold(data)


def shared_call(i: int, owner: str, node: str) -> Composition:
    """A composition of a table and a call with a time of its own, which others may share."""
    nodes = [Node(f"t{i}", "table_a", "table"), Node(node, "of_0", "service", None, i * DAY)]
    return compose(f"{owner}{i}", nodes, [(f"t{i}", node)], owner=owner, time=i * DAY)[0]


def test_a_call_that_compositions_share_is_not_asked_about_where_it_is_known() -> None:
    own = [shared_call(i, "ann", f"call{i}") for i in range(6)]
    twins = [replace(c, id=f"twin of {c.id}") for c in own]
    # Without twins, all but the first call have a history and are asked about.
    assert len(answers(own)) == 5
    data = TrainingData.of(extract([*own, *twins])[0])
    apart = sum(
        e.event not in {other.event for other in rest.examples}
        for rest, fold in data.folds(2, 0)
        for e in fold.examples
        if e.context.history
    )
    assert 0 < apart < 10
    assert len(answers([*own, *twins])) == apart


def test_an_example_does_not_change_what_it_is_predicted_with() -> None:
    """The last call of an owner may be any: the preferences of all examples stay as they are."""
    data = TrainingData.of(extract(by_owner())[0])
    last = data.examples[-1]
    other = next(y for y in data.vocabulary.services if y != last.target)
    changed = replace(data, examples=(*data.examples[:-1], replace(last, target=other)))

    def preferences(data: TrainingData) -> Floats:
        rows = []
        for rest, fold in data.folds(2, 0):
            store = Histories.of(rest.examples).with_history(rest.examples)
            neighbours = Neighbours.of(store, data.vocabulary, PagtConfig())
            for example in fold.examples:
                if example.node == last.node and example.composition == last.composition:
                    x = counted(example.context, data.vocabulary, 4)
                    node = data.vocabulary.ids["table_a"]
                    found = neighbours.preference(np.array(x, dtype=np.float64), node, PagtConfig())
                    assert found is not None
                    rows.append(found)
        return np.stack(rows)

    assert np.array_equal(preferences(data), preferences(changed))
    assert len(answers(by_owner())) == 22


def test_a_row_is_answered_alone(model: PAGT) -> None:
    contexts = told()
    together = model.score(contexts)
    for row in range(0, len(contexts), 5):
        alone = model.score(contexts.take(np.array([row])))[0]
        np.testing.assert_allclose(alone, together[row], atol=1e-5)


# What is stored


def test_names_and_times_of_owners_are_not_stored(model: PAGT) -> None:
    names = {"ann": "zoe", "bob": "yan", "eve": "xia", "joe": "ann"}
    renamed = [
        compose(
            c.id,
            [replace(n, time=n.time) for n in c.nodes],
            c.links,
            owner=names[c.owner or ""],
            time=(c.time or 0) * 3 + 5,
        )[0]
        for c in everything().compositions
    ]
    state = new().fit(TrainingData.of(extract(renamed)[0])).state()
    assert state.keys() == model.state().keys()
    assert all(np.array_equal(array, state[name]) for name, array in model.state().items())
    assert {n for n in state if "/" not in n} == {"counts", "nodes", "followed", "gate", "prior"}


def test_the_newest_examples_are_stored() -> None:
    few = Neighbours.of(DATA.examples, DATA.vocabulary, PagtConfig(store=6))
    assert few.followed.sum() == 6
    whole = Neighbours.of(DATA.examples, DATA.vocabulary, PagtConfig())
    assert whole.followed.sum() == len(told())
    newest = sorted((e for e in DATA.examples if e.context.history), key=lambda e: e.context.time or 0)
    targets = Counter(e.target for e in newest[-6:])
    assert dict(zip(SERVICES, few.followed.sum(axis=0), strict=True)) == {
        y: targets[y] for y in SERVICES
    }


def test_values_that_do_not_belong_together_are_refused(model: PAGT) -> None:
    state = model.state()
    broken = [
        {"gate": np.array([np.nan, 0.0])},
        {"counts": -state["counts"].astype(np.float64)},
        {"nodes": state["nodes"][:, None]},
        {"more": np.zeros(1)},
    ]
    for change in broken:
        with pytest.raises(StoreError) as error:
            new().restore(state | change, DATA.vocabulary, DATA.graph)
        assert says(error, "pagt", "train it again")


def test_an_option_that_the_base_does_not_have_is_refused_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        create("pagt", {"base_options": {"no_such_option": 1}})
    assert says(error, "pagt", "base", "graph_transformer", "no_such_option", "found 1")


def test_another_recommender_may_be_the_base() -> None:
    model = new(base="markov", base_options={"order": 1}).fit(DATA)
    base = create("markov", {"order": 1}).fit(DATA)
    untold = DATA.vocabulary.encode([replace(c, history=()) for c in DATA.contexts.origins])
    assert np.array_equal(model.score(untold), base.score(untold))
    assert not np.allclose(model.score(told()), base.score(told()))


# Learning


def test_where_only_history_tells_it_is_right_and_the_base_is_not() -> None:
    data = TrainingData.of(extract(by_owner())[0])
    model = new().fit(data)
    # Owners that training never saw: who they are does not matter.
    strangers = extract(by_owner(("cyd", "dan"), 4))[0]
    asked = [e for e in Histories.of(strangers).with_history(strangers) if e.context.history]
    wanted = np.array([data.vocabulary.columns[e.target] for e in asked])
    contexts = data.vocabulary.encode([e.context for e in asked])
    assert (model.score(contexts).argmax(axis=1) == wanted).all()
    assert model._base is not None
    assert (model._base.score(contexts).argmax(axis=1) == wanted).mean() == 0.5
    assert model.alpha(5) < 0.1


def test_where_history_tells_nothing_the_base_keeps_most() -> None:
    """What follows is told by the table alone, whoever asks and whatever was before."""
    rng = np.random.default_rng(0)
    made = [
        composition(f"c{i}", (f"table_{k}", f"of_{k}"), owner="ann", time=i * DAY)
        for i, k in enumerate(rng.integers(0, 3, 60))
    ]
    data = TrainingData.of(extract(made)[0])
    options = {"epochs": 40, "learning_rate": 0.02}
    model = new(after="any", base_options=options).fit(data)
    assert model.alpha(10) > 0.9
