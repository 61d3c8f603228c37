from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from dagrec.data.compositions import Composition, Node, compose
from dagrec.data.examples import Call, Context, Example, extract
from dagrec.data.history import Histories
from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.errors import ConfigError, StoreError
from dagrec.metrics.temperature import log_softmax
from dagrec.models.hybrid import pagt
from dagrec.models.hybrid.pagt import PAGT, Neighbours, PagtConfig
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.checks import says
from tests.worlds import DAY, composition, everything

QUICK = {"epochs": 3, "learning_rate": 0.02}
DATA = everything().data
SERVICES = DATA.vocabulary.services


def new(**options: object) -> PAGT:
    model = create("pagt", {"base_options": QUICK, "folds": 2, **options})
    assert isinstance(model, PAGT)
    return model


@pytest.fixture(scope="module")
def model() -> PAGT:
    return new().fit(DATA)


def contexts_with_history() -> Contexts:
    """Return the training contexts that have a history."""
    return DATA.vocabulary.encode([e.context for e in DATA.examples if e.context.history])


def repeating_owners(
    owners: Sequence[str] = ("ann", "bob"), times: int = 12, prefix: str = "of_"
) -> list[Composition]:
    """Return compositions in which each owner repeats one service, so targets depend on the history."""
    return [
        composition(f"{owner}{i}", ("table_a", f"{prefix}{number % 2}"), owner=owner, time=i * DAY)
        for i in range(times)
        for number, owner in enumerate(owners)
    ]


# Formula


def counts_of(context: Context, vocabulary: Vocabulary, calls: int) -> list[int]:
    counts = Counter(call.service for call in context.history[-calls:])
    return [counts[service] for service in vocabulary.services]


def reference_preference(
    context: Context, examples: Sequence[Example], config: PagtConfig
) -> Floats | None:
    """Return P_pref, computed by loops over the training examples."""
    rows: dict[tuple[tuple[int, ...], str], Counter[str]] = {}
    for example in sorted(examples, key=lambda e: e.context.time or 0.0, reverse=True):
        vector = tuple(counts_of(example.context, DATA.vocabulary, config.calls))
        if any(vector):
            key = vector, example.context.path[-1]
            rows.setdefault(key, Counter())[example.target] += 1
    x = [counts_of(context, DATA.vocabulary, config.calls)]
    similarities = cosine_similarity(x, [vector for vector, _ in rows])[0]
    near = {key: w for key, w in zip(rows, similarities.tolist(), strict=True) if w > 1e-12}
    if config.after == "node" and any(key[1] == context.path[-1] for key in near):
        near = {key: w for key, w in near.items() if key[1] == context.path[-1]}
    chosen = sorted(near, key=lambda key: -round(near[key], 12))[: config.neighbours]
    total = sum(near[key] * rows[key].total() for key in chosen)
    if not total:
        return None
    return np.array([sum(near[key] * rows[key][y] for key in chosen) / total for y in SERVICES])


@pytest.mark.parametrize("options", [{}, {"after": "any"}, {"neighbours": 2}, {"calls": 256}], ids=str)
def test_preference_matches_reference(options: dict[str, object]) -> None:
    config = PagtConfig(**options)
    neighbours = Neighbours.of(DATA.examples, DATA.vocabulary, config)
    contexts = contexts_with_history()
    for row, context in enumerate(contexts.origins):
        x = np.array(counts_of(context, DATA.vocabulary, config.calls), dtype=np.float64)
        preference = neighbours.preference(x, int(contexts.last[row]), config)
        expected = reference_preference(context, DATA.examples, config)
        assert preference is not None
        assert expected is not None
        assert preference.sum() == pytest.approx(1)
        np.testing.assert_allclose(preference, expected, atol=1e-9)


def test_scores_are_log_of_mixture(model: PAGT) -> None:
    contexts = contexts_with_history()
    base = create("graph_transformer", dict(QUICK)).fit(DATA).score(contexts)
    p_gt = np.exp(log_softmax(base.astype(np.float64)))
    expected = np.empty_like(p_gt)
    for row, context in enumerate(contexts.origins):
        preference = reference_preference(context, DATA.examples, model.config)
        assert preference is not None
        alpha = 1 / (1 + np.exp(-(model._gate @ [1, np.log(1 + len(context.history))])))
        assert model.alpha(len(context.history)) == pytest.approx(alpha)
        expected[row] = alpha * p_gt[row] + (1 - alpha) * preference
    np.testing.assert_allclose(expected.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(np.exp(model.score(contexts)), expected, atol=1e-6)


def test_extreme_gates_select_base_or_preference(model: PAGT) -> None:
    contexts, state = contexts_with_history(), model.state()
    known = DATA.vocabulary, DATA.graph
    base = model._base
    assert base is not None
    base_only = new().restore(state | {"gate": np.array([1e3, 0.0])}, *known)
    p_gt = log_softmax(base.score(contexts).astype(np.float64))
    np.testing.assert_allclose(base_only.score(contexts), p_gt, atol=1e-5)
    preference_only = new().restore(state | {"gate": np.array([-1e3, 0.0])}, *known)
    expected = [
        reference_preference(context, DATA.examples, model.config) for context in contexts.origins
    ]
    np.testing.assert_allclose(np.exp(preference_only.score(contexts)), np.stack(expected), atol=1e-6)  # type: ignore[arg-type]


# Without a history


def test_scores_without_usable_history_equal_base(model: PAGT) -> None:
    assert model._base is not None
    paths = [c.path for c in DATA.contexts.origins]
    without_history = [Context(path) for path in paths]
    unknown_services = [Context(path, history=(Call("nobody"), Call("table_a"))) for path in paths]
    # A service that is in no history, because it was always called last.
    called = {call.service for e in DATA.examples for call in e.context.history}
    never_called = [y for y in SERVICES if y not in called]
    assert never_called
    no_common_service = [Context(path, history=(Call(never_called[0]),)) for path in paths]
    for contexts in (without_history, unknown_services, no_common_service):
        encoded = DATA.vocabulary.encode(contexts)
        assert np.array_equal(model.score(encoded), model._base.score(encoded))
    mixed = DATA.vocabulary.encode([*without_history, *contexts_with_history().origins])
    assert np.array_equal(
        model.score(mixed)[: len(without_history)], model._base.score(mixed)[: len(without_history)]
    )


def one_with_times() -> Composition:
    """Return a composition whose calls have separate times, so the second one has a history."""
    keys = ("table_a", "of_0", "of_1", "of_0")
    nodes = [
        Node(str(i), key, "table" if i == 0 else "service", None, i * DAY) for i, key in enumerate(keys)
    ]
    links = [(str(i), str(i + 1)) for i in range(3)]
    return compose("one", nodes, links, owner="ann", time=DAY)[0]


@pytest.mark.parametrize("compositions", [repeating_owners(times=1), [one_with_times()]], ids=len)
def test_fit_without_out_of_fold_predictions_equals_base(
    compositions: list[Composition],
) -> None:
    data = TrainingData.of(extract(compositions)[0])
    model = new().fit(data)
    assert model._base is not None
    with_history = [replace(e.context, history=(Call(e.target),)) for e in data.examples]
    contexts = data.vocabulary.encode(with_history)
    assert np.array_equal(model.score(contexts), model._base.score(contexts))


# Leakage


def test_out_of_fold_neighbours_exclude_predicted_compositions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    neighbour_examples: list[Sequence[Example]] = []
    predicted: list[Contexts] = []
    original_of, original_preferences = Neighbours.of, PAGT._preferences

    def recorded_of(examples: Sequence[Example], *rest: object) -> Neighbours:
        neighbour_examples.append(examples)
        return original_of(examples, *rest)  # type: ignore[arg-type]

    def recorded_preferences(self: PAGT, contexts: Contexts, *rest: object) -> object:
        predicted.append(contexts)
        return original_preferences(self, contexts, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pagt.Neighbours, "of", recorded_of)
    monkeypatch.setattr(PAGT, "_preferences", recorded_preferences)
    new(folds=3).fit(DATA)
    *folds, final = neighbour_examples
    assert [e.target for e in final] == [e.target for e in DATA.examples]
    assert len(folds) == len(predicted) == 3
    assert sum(map(len, predicted)) == len(contexts_with_history())
    for examples, contexts in zip(folds, predicted, strict=True):
        compositions = {e.composition for e in examples}
        held_out = [e for e in DATA.examples if e.composition not in compositions]
        assert {c.composition.id for c in contexts.origins if c.composition}.isdisjoint(
            e.context.composition.id for e in examples if e.context.composition
        )
        # The histories of the neighbours have only calls of the neighbours' examples.
        held_out_calls = {(e.context.owner, e.target, e.context.path, e.context.time) for e in held_out}
        calls = {(e.context.owner, e.target, e.context.path, e.context.time) for e in examples}
        history_calls = {(e.context.owner, *call) for e in examples for call in e.context.history}
        assert history_calls <= calls
        assert history_calls.isdisjoint(held_out_calls - calls)


def out_of_fold_predictions(compositions: list[Composition]) -> list[tuple[float, float, int]]:
    data = TrainingData.of(extract(compositions)[0])
    return new(after="any")._out_of_fold(data)


def shared_call(i: int, owner: str, node: str) -> Composition:
    """Return a composition of a table and a call with a time, which other compositions may share."""
    nodes = [Node(f"t{i}", "table_a", "table"), Node(node, "of_0", "service", None, i * DAY)]
    return compose(f"{owner}{i}", nodes, [(f"t{i}", node)], owner=owner, time=i * DAY)[0]


def test_shared_calls_are_not_predicted_out_of_fold() -> None:
    originals = [shared_call(i, "ann", f"call{i}") for i in range(6)]
    copies = [replace(c, id=f"copy of {c.id}") for c in originals]
    # Without copies, all calls but the first have a history and are predicted.
    assert len(out_of_fold_predictions(originals)) == 5
    data = TrainingData.of(extract([*originals, *copies])[0])
    expected = sum(
        e.event not in {other.event for other in rest.examples}
        for rest, fold in data.folds(2, 0)
        for e in fold.examples
        if e.context.history
    )
    assert 0 < expected < 10
    assert len(out_of_fold_predictions([*originals, *copies])) == expected


def test_preferences_do_not_depend_on_predicted_target() -> None:
    """The target of the last call does not change the preference that predicts it."""
    data = TrainingData.of(extract(repeating_owners())[0])
    last = data.examples[-1]
    other = next(y for y in data.vocabulary.services if y != last.target)
    changed = replace(data, examples=(*data.examples[:-1], replace(last, target=other)))

    def preferences(data: TrainingData) -> Floats:
        rows = []
        for rest, fold in data.folds(2, 0):
            examples = Histories.of(rest.examples).with_history(rest.examples)
            neighbours = Neighbours.of(examples, data.vocabulary, PagtConfig())
            for example in fold.examples:
                if example.node == last.node and example.composition == last.composition:
                    x = counts_of(example.context, data.vocabulary, 4)
                    node = data.vocabulary.ids["table_a"]
                    preference = neighbours.preference(
                        np.array(x, dtype=np.float64), node, PagtConfig()
                    )
                    assert preference is not None
                    rows.append(preference)
        return np.stack(rows)

    assert np.array_equal(preferences(data), preferences(changed))
    assert len(out_of_fold_predictions(repeating_owners())) == 22


def test_scores_do_not_depend_on_batch(model: PAGT) -> None:
    contexts = contexts_with_history()
    batch = model.score(contexts)
    for row in range(0, len(contexts), 5):
        single = model.score(contexts.take(np.array([row])))[0]
        np.testing.assert_allclose(single, batch[row], atol=1e-5)


# State


def test_state_does_not_depend_on_owner_names_and_times(model: PAGT) -> None:
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


def test_neighbours_keep_newest_examples() -> None:
    limited = Neighbours.of(DATA.examples, DATA.vocabulary, PagtConfig(max_examples=6))
    assert limited.followed.sum() == 6
    unlimited = Neighbours.of(DATA.examples, DATA.vocabulary, PagtConfig())
    assert unlimited.followed.sum() == len(contexts_with_history())
    newest = sorted((e for e in DATA.examples if e.context.history), key=lambda e: e.context.time or 0)
    targets = Counter(e.target for e in newest[-6:])
    assert dict(zip(SERVICES, limited.followed.sum(axis=0), strict=True)) == {
        y: targets[y] for y in SERVICES
    }


def test_restore_rejects_inconsistent_values(model: PAGT) -> None:
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


def test_create_rejects_unknown_base_option() -> None:
    with pytest.raises(ConfigError) as error:
        create("pagt", {"base_options": {"no_such_option": 1}})
    assert says(error, "pagt", "base", "graph_transformer", "no_such_option", "found 1")


def test_base_may_be_another_recommender() -> None:
    model = new(base="markov", base_options={"order": 1}).fit(DATA)
    base = create("markov", {"order": 1}).fit(DATA)
    without_history = DATA.vocabulary.encode([replace(c, history=()) for c in DATA.contexts.origins])
    assert np.array_equal(model.score(without_history), base.score(without_history))
    assert not np.allclose(model.score(contexts_with_history()), base.score(contexts_with_history()))


# Learning


def test_fit_learns_preferences_if_targets_depend_on_history() -> None:
    data = TrainingData.of(extract(repeating_owners())[0])
    model = new().fit(data)
    # These owners are not in the training data.
    new_owners = extract(repeating_owners(("cyd", "dan"), 4))[0]
    examples = [e for e in Histories.of(new_owners).with_history(new_owners) if e.context.history]
    targets = np.array([data.vocabulary.columns[e.target] for e in examples])
    contexts = data.vocabulary.encode([e.context for e in examples])
    assert (model.score(contexts).argmax(axis=1) == targets).all()
    assert model._base is not None
    assert (model._base.score(contexts).argmax(axis=1) == targets).mean() == 0.5
    assert model.alpha(5) < 0.1


def test_fit_keeps_base_if_history_is_uninformative() -> None:
    """The target depends only on the table, not on the history."""
    rng = np.random.default_rng(0)
    compositions = [
        composition(f"c{i}", (f"table_{k}", f"of_{k}"), owner="ann", time=i * DAY)
        for i, k in enumerate(rng.integers(0, 3, 60))
    ]
    data = TrainingData.of(extract(compositions)[0])
    options = {"epochs": 40, "learning_rate": 0.02}
    model = new(after="any", base_options=options).fit(data)
    assert model.alpha(10) > 0.9
