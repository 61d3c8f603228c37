from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.examples import Context, Example, extract
from dagrec.data.vocabulary import FIRST_SERVICE, UNKNOWN
from dagrec.models.base import Traits
from dagrec.models.counting.neighbours import (
    NeighbourOptions,
    NeighbourRecommender,
    Sessions,
    distinct_nodes,
    nearest,
)
from dagrec.models.counting.stan import STAN
from dagrec.models.counting.vsknn import VSKNN
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids
from tests.worlds import WORLDS, composition, diamond, everything

Pairs = Sequence[tuple[str, str]]
Links = dict[tuple[str, str], int]


def data_of(*sessions: Pairs, times: Sequence[float | None] = ()) -> TrainingData:
    """Return data with one composition per session, given as pairs (letters of the path, target)."""
    return TrainingData.of(
        [
            Example(Context(tuple(path), time=times[i] if times else None), target, f"{i}-{j}", i)
            for i, pairs in enumerate(sessions)
            for j, (path, target) in enumerate(pairs)
        ]
    )


def links_of(data: TrainingData) -> list[Links]:
    """Return (node, service) -> distance for each session."""
    sessions, keys = Sessions.of(data), [*data.vocabulary.services, *data.vocabulary.others]
    rows = zip(sessions.sources, sessions.services, sessions.distances, strict=True)
    links = [((keys[v - FIRST_SERVICE], data.vocabulary.services[y]), int(d)) for v, y, d in rows]
    ends = [0, *np.cumsum(sessions.degrees)]
    return [dict(links[a:b]) for a, b in itertools.pairwise(ends)]


# Sessions


def test_session_stores_smallest_distance_of_each_follower() -> None:
    (links,) = links_of(data_of([("a", "b"), ("ab", "c"), ("abc", "b"), ("cax", "c")]))
    assert links == {
        ("a", "b"): 1,
        ("a", "c"): 2,
        ("b", "c"): 1,
        ("c", "b"): 1,
        ("b", "b"): 2,
        ("c", "c"): 3,
        ("x", "c"): 1,
    }


def test_branches_of_a_composition_are_one_session() -> None:
    (links,) = links_of(diamond().data)
    assert links["table_d", "merge"] == links["split", "report"] == 3
    assert links["split", "left"] == links["right", "merge"] == links["merge", "report"] == 1
    assert ("left", "right") not in links
    assert ("merge", "left") not in links


def test_session_contains_only_training_examples() -> None:
    """The composition of an example also contains the services to predict."""
    whole = composition("c", ["a", "b", "test_target"])
    examples, _ = extract([whole])
    data = TrainingData.of([e for e in examples if e.target == "b"])
    assert links_of(data) == [{("a", "b"): 1}]
    assert Sessions.of(data).sizes.tolist() == [2]


def test_equal_examples_are_merged_only_within_a_composition() -> None:
    links = links_of(data_of([("a", "b"), ("a", "b")], [("a", "b")]))
    assert links == [{("a", "b"): 1}, {("a", "b"): 1}]


def test_session_time_is_that_of_newest_example() -> None:
    examples = [
        Example(Context(("a",), time=time), "b", str(i), i // 2)
        for i, time in enumerate([1.0, 5.0, None, 3.0, None, None])
    ]
    times = Sessions.of(TrainingData.of(examples)).times
    assert times[:2].tolist() == [5.0, 3.0]
    assert np.isnan(times[2])


@pytest.mark.parametrize("world", WORLDS)
def test_session_lookups_equal_plain_loops(world: str) -> None:
    data = WORLDS[world].data
    sessions, expected = Sessions.of(data), links_of(data)
    keys = [*data.vocabulary.services, *data.vocabulary.others]
    nodes = np.arange(FIRST_SERVICE, len(data.vocabulary) + 3)  # three of them are in no session
    indices, owners = sessions.containing(nodes)
    pairs = {(keys[nodes[i] - FIRST_SERVICE], int(s)) for i, s in zip(indices, owners, strict=True)}
    assert pairs == {(key, s) for s, links in enumerate(expected) for link in links for key in link}
    assert len(pairs) == len(indices) == sessions.sizes.sum()
    queries = np.array([(s, v) for s in range(len(sessions)) for v in nodes])
    indices, columns, distances = sessions.followers(queries[:, 0], queries[:, 1])
    actual: list[Links] = [{} for _ in expected]
    for i, y, d in zip(indices, columns, distances, strict=True):
        source = keys[queries[i, 1] - FIRST_SERVICE]
        actual[queries[i, 0]][source, data.vocabulary.services[y]] = int(d)
    assert actual == expected


# Contexts


def test_distinct_nodes_keeps_last_occurrence_oldest_first() -> None:
    a, b = FIRST_SERVICE, FIRST_SERVICE + 1
    nodes = np.array([[a, b, a, UNKNOWN, 0], [b, 0, 0, 0, 0], [a, a, b, b, a]])
    rows, steps = distinct_nodes(nodes, np.array([4, 1, 5]))
    assert sorted(zip(rows.tolist(), steps.tolist(), strict=True)) == [
        (0, 2), (0, 3), (1, 1), (2, 1), (2, 2),
    ]  # fmt: skip
    assert steps.tolist() == sorted(steps.tolist(), reverse=True)


# Neighbours


def test_nearest_shares_last_place_among_ties() -> None:
    rows, columns, shares = nearest(np.array([[3.0, 2, 2, 1, 0], [0, 0, 0, 4, 0]]), 2)
    assert rows.tolist() == [0, 0, 0, 1]
    assert columns.tolist() == [0, 1, 2, 3]
    assert shares.tolist() == [1, 0.5, 0.5, 1]


@given(
    st.lists(st.lists(st.integers(0, 4).map(float), min_size=6, max_size=6), min_size=1, max_size=5),
    st.integers(1, 8),
)
def test_nearest_returns_k_largest_positive_entries(table: list[list[float]], k: int) -> None:
    similarities = np.array(table)
    rows, columns, shares = nearest(similarities, k)
    share_of = np.zeros_like(similarities)
    share_of[rows, columns] = shares
    assert (similarities[rows, columns] > 0).all()
    np.testing.assert_allclose(share_of.sum(axis=1), np.minimum(k, (similarities > 0).sum(axis=1)))
    for values, row in zip(similarities, share_of, strict=True):
        tied = values[(row > 0) & (row < 1)]
        assert len(set(tied)) <= 1
        smallest = values[row > 0].min(initial=np.inf)
        assert (values[row < 1] <= smallest).all()


# Scores


class UniformNeighbours(NeighbourRecommender):
    """Similarity 1 for every session that shares a node, and no decay."""

    name = "uniform"
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
def test_uniform_neighbours_give_popularity_among_sessions_that_share_a_node(path: list[str]) -> None:
    data = everything().data
    model = UniformNeighbours(NeighbourOptions(neighbours=1000, mu=1e-9)).fit(data)
    counts = np.zeros(len(data.vocabulary.services))
    for links in links_of(data):
        match = next((v for v in reversed(path) if any(v in link for link in links)), None)
        for source, service in links:
            counts[data.vocabulary.columns[service]] += source == match
    assert counts.sum() > 3
    np.testing.assert_allclose(
        probabilities(model, data, path), counts / counts.sum(), rtol=1e-4, atol=1e-6
    )


def reference(model: NeighbourRecommender, data: TrainingData, path: Sequence[str]) -> Floats:
    """Return the probabilities by the formulas of V-SKNN and STAN, session by session."""
    sessions, services = links_of(data), data.vocabulary.services
    steps = {v: len(path) - i for i, v in enumerate(path)}  # the last occurrence overwrites
    known = {v: t for v, t in steps.items() if v in data.vocabulary.ids}
    if isinstance(model, VSKNN):
        weights = {v: (len(path) - t + 1) / len(path) for v, t in known.items()}
        norm, power = sum(weights.values()), 0.0
    else:
        assert isinstance(model, STAN)
        weights = {v: np.exp(-(t - 1) / (model.config.node_decay or np.inf)) for v, t in known.items()}
        norm, power = sum(w**2 for w in weights.values()) ** 0.5, model.config.size_power
    similarities = []
    for links in sessions:
        items = {key for link in links for key in link}
        shared = sum(weights[v] for v in known if v in items)
        similarities.append(shared / norm / len(items) ** power)
    ranked = sorted(similarities, reverse=True)
    k = model.config.neighbours
    last = ranked[k - 1] if k <= len(ranked) else 0.0
    above = sum(value > last + 1e-9 for value in similarities)
    tied = sum(abs(value - last) <= 1e-9 for value in similarities)
    total = np.zeros(len(services))
    for value, links in zip(similarities, sessions, strict=True):
        share = 1.0 if value > last + 1e-9 else max(0.0, (k - above) / tied) if tied else 0.0
        if value < last - 1e-9 or value == 0:
            continue
        items = {key for link in links for key in link}
        t, match = min((t, v) for v, t in known.items() if v in items)
        for (source, service), d in links.items():
            if source == match:
                total[services.index(service)] += share * value * reference_decay(model, t, d)
    counts = np.array([sum(e.target == y for e in data.examples) for y in services]) + 1.0
    mu = model.config.mu
    p: Floats = (total + mu * counts / counts.sum()) / (total.sum() + mu)
    return p


def reference_decay(model: VSKNN | STAN, t: int, d: int) -> float:
    if isinstance(model, VSKNN):
        return float((t * d) ** -model.config.fade)
    return float(np.exp(-(d - 1) / (model.config.service_decay or np.inf)))


@pytest.mark.parametrize("neighbours", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("class_", "options"),
    [(VSKNN, {}), (VSKNN, {"fade": 0.5}), (STAN, {}), (STAN, {"size_power": 0.5, "mu": 0.3})],
    ids=str,
)
def test_scores_follow_formula(
    class_: type[VSKNN | STAN], options: dict[str, float], neighbours: int
) -> None:
    data = everything().data
    model = class_(class_.Config.model_validate({**options, "neighbours": neighbours})).fit(data)
    paths = [c.path for c in data.contexts.origins]
    paths += [("table_l", "unknown", "black_1", "table_l"), ("black_0", "clean", "hub"), ("plot",)]
    for path in paths:
        np.testing.assert_allclose(
            probabilities(model, data, path), reference(model, data, path), rtol=1e-4
        )


@pytest.mark.parametrize("class_", [VSKNN, STAN])
def test_node_without_followers_gives_prior(class_: type[VSKNN | STAN]) -> None:
    data = data_of([("a", "b"), ("ab", "c")], [("a", "c")])
    p = probabilities(class_().fit(data), data, ["c"])
    np.testing.assert_allclose(p, [2 / 5, 3 / 5], rtol=1e-6)
    assert data.vocabulary.services == ("b", "c")


@pytest.mark.parametrize("class_", [VSKNN, STAN])
def test_mu_interpolates_between_neighbours_and_prior(class_: type[VSKNN | STAN]) -> None:
    data = data_of([("a", "b")], [("x", "c")], [("x", "c")])
    low, high = (
        probabilities(class_(class_.Config.model_validate({"mu": mu})).fit(data), data, ["a"])
        for mu in (1e-6, 1e6)
    )
    np.testing.assert_allclose(low, [1, 0], atol=1e-5)
    np.testing.assert_allclose(high, [2 / 5, 3 / 5], rtol=1e-4)


@pytest.mark.parametrize("class_", [VSKNN, STAN])
def test_session_order_does_not_matter(class_: type[VSKNN | STAN]) -> None:
    """With three neighbours, sessions tie for the last place."""
    world = everything()
    config = class_.Config.model_validate({"neighbours": 3})
    forward, backward = (
        TrainingData.of(extract(compositions)[0])
        for compositions in (world.compositions, world.compositions[::-1])
    )
    a, b = (class_(config).fit(data).score(forward.contexts) for data in (forward, backward))
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_scores_do_not_depend_on_pass_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = everything().data
    model = VSKNN().fit(data)
    scores = model.score(data.contexts)
    pass_size = 3 * len(Sessions.of(data))
    monkeypatch.setattr("dagrec.models.counting.neighbours.SIMILARITIES_PER_PASS", pass_size)
    np.testing.assert_allclose(model.score(data.contexts), scores, rtol=1e-6)
