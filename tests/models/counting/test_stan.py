from __future__ import annotations

import math

import numpy as np
import pytest

from dagrec.data.examples import Context
from dagrec.models.counting.neighbours import Sessions
from dagrec.models.counting.stan import DAY, STAN, STANConfig
from dagrec.training.data import TrainingData
from tests.models.counting.test_neighbours import data_of

COSINE = {"size_power": 0.5, "node_decay": None, "service_decay": None}


def probabilities(data: TrainingData, path: str, **options: float | None) -> dict[str, float]:
    model = STAN(STANConfig.model_validate(options)).fit(data)
    scores = model.score(data.vocabulary.encode([Context(tuple(path))]))[0].astype(np.float64)
    return dict(zip(data.vocabulary.services, np.exp(scores).tolist(), strict=True))


def model(**options: float | None) -> STAN:
    return STAN(STANConfig.model_validate(options))


def similarities(data: TrainingData, path: str, **options: float | None) -> list[float]:
    """Of the sessions to a context of different nodes, from sets of letters."""
    stan, sessions = model(**options), Sessions.of(data)
    keys = [*data.vocabulary.services, *data.vocabulary.others]
    parts = np.split(sessions.items - 2, np.cumsum(sessions.sizes)[:-1])
    items = [{keys[i] for i in part} for part in parts]
    steps = np.arange(len(path), 0, -1)
    w = stan.weights(steps, np.full(len(path), len(path)))
    shared = [sum(w[i] for i, v in enumerate(path) if v in own) for own in items]
    sums, squares = np.array([w.sum()]), np.array([(w**2).sum()])
    found: list[float] = stan.similarities(np.array([shared]), sums, squares, sessions)[0].tolist()
    return found


def test_without_bounds_it_is_the_cosine_of_session_knn() -> None:
    """|{b}| / sqrt(2 * 3), |{a, b}| / sqrt(2 * 3), none."""
    data = data_of([("xb", "c")], [("ab", "c")], [("y", "c")])
    found = similarities(data, "ab", **COSINE)
    np.testing.assert_allclose(found, [1 / math.sqrt(6), 2 / math.sqrt(6), 0])
    wide = similarities(data, "ab", size_power=0.5, node_decay=1e9, service_decay=1e9)
    np.testing.assert_allclose(wide, found)


def test_a_session_of_the_same_nodes_has_cosine_1() -> None:
    (found,) = similarities(data_of([("ab", "c")]), "abc", **COSINE)
    assert found == pytest.approx(1)


def test_nodes_fade_from_the_last_backwards() -> None:
    found = model(node_decay=2.0).weights(np.array([3, 2, 1]), np.array([3, 3, 3]))
    np.testing.assert_allclose(found, [math.exp(-1), math.exp(-0.5), 1])


def test_services_fade_from_the_next_onwards() -> None:
    """S(b) : S(c) : S(d) = 1 : e^-1 : e^-2 with l3 = 1."""
    found = probabilities(data_of([("a", "b"), ("ab", "c"), ("abc", "d")]), "a", mu=1e-9)
    assert found["c"] / found["b"] == pytest.approx(math.exp(-1), rel=1e-5)
    assert found["d"] / found["b"] == pytest.approx(math.exp(-2), rel=1e-5)


def test_two_neighbours_by_hand() -> None:
    """Context a, b with l1 = 2 and the cosine: w = e^-0.5, 1; the sessions have 4 and 2 nodes."""
    data = data_of([("ab", "c"), ("abc", "d")], [("a", "d")])
    w = math.exp(-0.5)
    norm = math.sqrt(1 + w**2)
    first, second = (1 + w) / norm / 2, w / norm / math.sqrt(2)
    s = {"c": first, "d": first * math.exp(-1) + second}
    prior = {"c": 2 / 5, "d": 3 / 5}
    found = probabilities(data, "ab", size_power=0.5, mu=0.5)
    for service in "cd":
        expected = (s[service] + 0.5 * prior[service]) / (sum(s.values()) + 0.5)
        assert found[service] == pytest.approx(expected, rel=1e-5)


# Time


def test_old_sessions_fade() -> None:
    data = data_of([("a", "b")], [("a", "c")], times=[0.0, 7 * DAY])
    even = probabilities(data, "a", mu=1e-9)
    assert even["b"] == pytest.approx(even["c"])
    found = probabilities(data, "a", mu=1e-9, session_decay=7.0)
    assert found["b"] / found["c"] == pytest.approx(math.exp(-1), rel=1e-5)


def test_age_is_counted_from_the_newest_session_that_shares_a_node() -> None:
    """Otherwise sessions of long ago would all fade to nothing, and leave the frequencies alone."""
    data = data_of([("a", "b")], [("x", "c")], times=[0.0, 10_000 * DAY])
    found = probabilities(data, "a", mu=1e-6, session_decay=1.0)
    assert found["b"] == pytest.approx(1, abs=1e-5)


def test_a_session_without_a_time_does_not_fade() -> None:
    data = data_of([("a", "b")], [("a", "c")], [("a", "d")], times=[None, 0.0, 7 * DAY])
    found = probabilities(data, "a", mu=1e-9, session_decay=7.0)
    assert found["b"] == pytest.approx(found["d"], rel=1e-5)
    assert found["c"] / found["d"] == pytest.approx(math.exp(-1), rel=1e-5)


def test_without_any_time_nothing_fades() -> None:
    data = data_of([("a", "b")], [("a", "c")])
    with_, without = (probabilities(data, "a", session_decay=decay) for decay in (1.0, None))
    assert with_ == without
