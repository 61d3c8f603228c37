from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.examples import Context, Example, extract
from dagrec.data.vocabulary import FIRST, UNKNOWN
from dagrec.models.base import Traits
from dagrec.models.counting.neighbours import (
    NeighbourOptions,
    NeighbourRecommender,
    Sessions,
    distinct,
    nearest,
)
from dagrec.models.counting.stan import STAN
from dagrec.models.counting.vsknn import VSKNN
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids
from tests.worlds import WORLDS, composition, diamond, everything

Pairs = Sequence[tuple[str, str]]


def data_of(*sessions: Pairs, times: Sequence[float | None] = ()) -> TrainingData:
    """One composition a session, of (path as letters, target) pairs."""
    return TrainingData.of(
        [
            Example(Context(tuple(path), time=times[i] if times else None), target, f"{i}-{j}", i)
            for i, pairs in enumerate(sessions)
            for j, (path, target) in enumerate(pairs)
        ]
    )


def links(data: TrainingData) -> list[dict[tuple[str, str], int]]:
    """(node, service) -> distance of each session."""
    sessions, keys = Sessions.of(data), [*data.vocabulary.services, *data.vocabulary.others]
    whole = zip(sessions.sources, sessions.services, sessions.distances, strict=True)
    named = [((keys[v - FIRST], data.vocabulary.services[y]), int(d)) for v, y, d in whole]
    ends = [0, *np.cumsum(sessions.degrees)]
    return [dict(named[a:b]) for a, b in itertools.pairwise(ends)]


# Sessions


def test_a_session_holds_the_least_distance_of_each_follower() -> None:
    (found,) = links(data_of([("a", "b"), ("ab", "c"), ("abc", "b"), ("cax", "c")]))
    assert found == {
        ("a", "b"): 1,
        ("a", "c"): 2,
        ("b", "c"): 1,
        ("c", "b"): 1,
        ("b", "b"): 2,
        ("c", "c"): 3,
        ("x", "c"): 1,
    }


def test_paths_that_meet_again_are_one_session_with_shortest_ways() -> None:
    (found,) = links(diamond().data)
    assert found["table_d", "merge"] == found["split", "report"] == 3
    assert found["split", "left"] == found["right", "merge"] == found["merge", "report"] == 1
    assert ("left", "right") not in found
    assert ("merge", "left") not in found


def test_a_session_knows_its_training_examples_alone() -> None:
    """The composition behind an example also holds what is to be predicted."""
    whole = composition("c", ["a", "b", "secret"])
    examples, _ = extract([whole])
    data = TrainingData.of([e for e in examples if e.target == "b"])
    assert links(data) == [{("a", "b"): 1}]
    assert Sessions.of(data).sizes.tolist() == [2]


def test_equal_examples_of_a_composition_count_once_and_compositions_apart() -> None:
    found = links(data_of([("a", "b"), ("a", "b")], [("a", "b")]))
    assert found == [{("a", "b"): 1}, {("a", "b"): 1}]


def test_the_time_of_a_session_is_that_of_its_newest_example() -> None:
    examples = [
        Example(Context(("a",), time=time), "b", str(i), i // 2)
        for i, time in enumerate([1.0, 5.0, None, 3.0, None, None])
    ]
    times = Sessions.of(TrainingData.of(examples)).times
    assert times[:2].tolist() == [5.0, 3.0]
    assert np.isnan(times[2])


@pytest.mark.parametrize("world", WORLDS)
def test_lookups_equal_plain_loops(world: str) -> None:
    data = WORLDS[world].data
    sessions, found = Sessions.of(data), links(data)
    keys = [*data.vocabulary.services, *data.vocabulary.others]
    nodes = np.arange(FIRST, len(data.vocabulary) + 3)  # and three that no session has
    which, owners = sessions.holding(nodes)
    held = {(keys[nodes[i] - FIRST], int(s)) for i, s in zip(which, owners, strict=True)}
    assert held == {(key, s) for s, own in enumerate(found) for link in own for key in link}
    assert len(held) == len(which) == sessions.sizes.sum()
    pairs = np.array([(s, v) for s in range(len(sessions)) for v in nodes])
    which, columns, distances = sessions.followers(pairs[:, 0], pairs[:, 1])
    got: list[dict[tuple[str, str], int]] = [{} for _ in found]
    for i, y, d in zip(which, columns, distances, strict=True):
        got[pairs[i, 0]][keys[pairs[i, 1] - FIRST], data.vocabulary.services[y]] = int(d)
    assert got == found


# Contexts


def test_nodes_of_a_context_count_once_at_their_last_place_the_oldest_first() -> None:
    a, b = FIRST, FIRST + 1
    nodes = np.array([[a, b, a, UNKNOWN, 0], [b, 0, 0, 0, 0], [a, a, b, b, a]])
    rows, steps = distinct(nodes, np.array([4, 1, 5]))
    assert sorted(zip(rows.tolist(), steps.tolist(), strict=True)) == [
        (0, 2), (0, 3), (1, 1), (2, 1), (2, 2),
    ]  # fmt: skip
    assert steps.tolist() == sorted(steps.tolist(), reverse=True)


# Neighbours


def test_the_nearest_by_hand() -> None:
    rows, columns, shares = nearest(np.array([[3.0, 2, 2, 1, 0], [0, 0, 0, 4, 0]]), 2)
    assert rows.tolist() == [0, 0, 0, 1]
    assert columns.tolist() == [0, 1, 2, 3]
    assert shares.tolist() == [1, 0.5, 0.5, 1]


@given(
    st.lists(st.lists(st.integers(0, 4).map(float), min_size=6, max_size=6), min_size=1, max_size=5),
    st.integers(1, 8),
)
def test_the_nearest_are_k_and_none_that_is_left_is_nearer(table: list[list[float]], k: int) -> None:
    similarities = np.array(table)
    rows, columns, shares = nearest(similarities, k)
    taken = np.zeros_like(similarities)
    taken[rows, columns] = shares
    assert (similarities[rows, columns] > 0).all()
    np.testing.assert_allclose(taken.sum(axis=1), np.minimum(k, (similarities > 0).sum(axis=1)))
    for values, own in zip(similarities, taken, strict=True):
        partly = values[(own > 0) & (own < 1)]
        assert len(set(partly)) <= 1
        least = values[own > 0].min(initial=np.inf)
        assert (values[own < 1] <= least).all()


# Scores


class Unit(NeighbourRecommender):
    """Every session that shares a node is as near, and nothing fades."""

    name = "unit"
    paper = "test"
    Config = NeighbourOptions
    traits = Traits()

    def weights(self, steps: Ids, lengths: Ids) -> Floats:  # noqa: ARG002
        return np.ones(len(steps))

    def similarities(self, shared: Floats, *_: object) -> Floats:
        return (shared > 0).astype(np.float64)

    def decay(self, steps: Ids, distances: Ids) -> Floats:  # noqa: ARG002
        return np.ones(len(steps))


def probabilities(model: NeighbourRecommender, data: TrainingData, path: Sequence[str]) -> Floats:
    scores = model.score(data.vocabulary.encode([Context(tuple(path))]))[0]
    return np.exp(scores.astype(np.float64))


@pytest.mark.parametrize("path", [["hub"], ["table_l", "hub"], ["table_black", "black_1"]])
def test_with_all_neighbours_as_near_it_is_popularity_among_those_that_share_a_node(
    path: list[str],
) -> None:
    data = everything().data
    model = Unit(NeighbourOptions(neighbours=1000, mu=1e-9)).fit(data)
    counts = np.zeros(len(data.vocabulary.services))
    for own in links(data):
        met = next((v for v in reversed(path) if any(v in link for link in own)), None)
        for source, service in own:
            counts[data.vocabulary.columns[service]] += source == met
    assert counts.sum() > 3
    np.testing.assert_allclose(
        probabilities(model, data, path), counts / counts.sum(), rtol=1e-4, atol=1e-6
    )


def by_definition(model: NeighbourRecommender, data: TrainingData, path: Sequence[str]) -> Floats:
    """The formulas of V-SKNN and STAN, session by session, with ties shared out by hand."""
    found, services = links(data), data.vocabulary.services
    places = {v: len(path) - i for i, v in enumerate(path)}  # the last place wins
    known = {v: t for v, t in places.items() if v in data.vocabulary.ids}
    if isinstance(model, VSKNN):
        weights = {v: (len(path) - t + 1) / len(path) for v, t in known.items()}
        norm, power = sum(weights.values()), 0.0
    else:
        assert isinstance(model, STAN)
        weights = {v: np.exp(-(t - 1) / (model.config.node_decay or np.inf)) for v, t in known.items()}
        norm, power = sum(w**2 for w in weights.values()) ** 0.5, model.config.size_power
    near = []
    for own in found:
        items = {key for link in own for key in link}
        near.append(sum(weights[v] for v in known if v in items) / norm / len(items) ** power)
    order = sorted(near, reverse=True)
    k = model.config.neighbours
    last = order[k - 1] if k <= len(order) else 0.0
    above = sum(value > last + 1e-9 for value in near)
    tied = sum(abs(value - last) <= 1e-9 for value in near)
    total = np.zeros(len(services))
    for value, own in zip(near, found, strict=True):
        share = 1.0 if value > last + 1e-9 else max(0.0, (k - above) / tied) if tied else 0.0
        if value < last - 1e-9 or value == 0:
            continue
        items = {key for link in own for key in link}
        t, met = min((t, v) for v, t in known.items() if v in items)
        for (source, service), d in own.items():
            if source == met:
                total[services.index(service)] += share * value * decay(model, t, d)
    counts = np.array([sum(e.target == y for e in data.examples) for y in services]) + 1.0
    mu = model.config.mu
    found_p: Floats = (total + mu * counts / counts.sum()) / (total.sum() + mu)
    return found_p


def decay(model: VSKNN | STAN, t: int, d: int) -> float:
    if isinstance(model, VSKNN):
        return float((t * d) ** -model.config.fade)
    return float(np.exp(-(d - 1) / (model.config.service_decay or np.inf)))


@pytest.mark.parametrize("neighbours", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("class_", "options"),
    [(VSKNN, {}), (VSKNN, {"fade": 0.5}), (STAN, {}), (STAN, {"size_power": 0.5, "mu": 0.3})],
    ids=str,
)
def test_scores_equal_the_definition(
    class_: type[VSKNN | STAN], options: dict[str, float], neighbours: int
) -> None:
    data = everything().data
    model = class_(class_.Config.model_validate({**options, "neighbours": neighbours})).fit(data)
    paths = [c.path for c in data.contexts.origins]
    paths += [("table_l", "nobody", "black_1", "table_l"), ("black_0", "clean", "hub"), ("plot",)]
    for path in paths:
        np.testing.assert_allclose(
            probabilities(model, data, path), by_definition(model, data, path), rtol=1e-4
        )


@pytest.mark.parametrize("class_", [VSKNN, STAN])
def test_a_node_that_ends_every_session_leaves_the_frequencies(class_: type[VSKNN | STAN]) -> None:
    data = data_of([("a", "b"), ("ab", "c")], [("a", "c")])
    found = probabilities(class_().fit(data), data, ["c"])
    np.testing.assert_allclose(found, [2 / 5, 3 / 5], rtol=1e-6)
    assert data.vocabulary.services == ("b", "c")


@pytest.mark.parametrize("class_", [VSKNN, STAN])
def test_mu_goes_from_the_neighbours_to_the_frequencies(class_: type[VSKNN | STAN]) -> None:
    data = data_of([("a", "b")], [("x", "c")], [("x", "c")])
    low, high = (
        probabilities(class_(class_.Config.model_validate({"mu": mu})).fit(data), data, ["a"])
        for mu in (1e-6, 1e6)
    )
    np.testing.assert_allclose(low, [1, 0], atol=1e-5)
    np.testing.assert_allclose(high, [2 / 5, 3 / 5], rtol=1e-4)


@pytest.mark.parametrize("class_", [VSKNN, STAN])
def test_the_order_of_the_sessions_does_not_matter(class_: type[VSKNN | STAN]) -> None:
    """Also where the places of the k nearest are fought for."""
    world = everything()
    config = class_.Config.model_validate({"neighbours": 3})
    forth, back = (
        TrainingData.of(extract(compositions)[0])
        for compositions in (world.compositions, world.compositions[::-1])
    )
    a, b = (class_(config).fit(data).score(forth.contexts) for data in (forth, back))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_many_contexts_at_once_equal_few(monkeypatch: pytest.MonkeyPatch) -> None:
    data = everything().data
    model = VSKNN().fit(data)
    whole = model.score(data.contexts)
    monkeypatch.setattr("dagrec.models.counting.neighbours.CELLS_PER_PASS", 3 * len(Sessions.of(data)))
    np.testing.assert_allclose(model.score(data.contexts), whole, rtol=1e-6)
