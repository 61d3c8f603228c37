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


def make_stan(**options: float | None) -> STAN:
    return STAN(STANConfig.model_validate(options))


def probabilities(data: TrainingData, path: str, **options: float | None) -> dict[str, float]:
    model = make_stan(**options).fit(data)
    scores = model.score(data.vocabulary.encode([Context(tuple(path))]))[0].astype(np.float64)
    return dict(zip(data.vocabulary.services, np.exp(scores).tolist(), strict=True))


def similarities(data: TrainingData, path: str, **options: float | None) -> list[float]:
    """Return the similarities of all sessions to a context of distinct nodes, by set operations."""
    stan, sessions = make_stan(**options), Sessions.of(data)
    keys = [*data.vocabulary.services, *data.vocabulary.others]
    parts = np.split(sessions.items - 2, np.cumsum(sessions.sizes)[:-1])
    items = [{keys[i] for i in part} for part in parts]
    steps = np.arange(len(path), 0, -1)
    w = stan.weights(steps, np.full(len(path), len(path)))
    shared = [sum(w[i] for i, v in enumerate(path) if v in session) for session in items]
    sums, squares = np.array([w.sum()]), np.array([(w**2).sum()])
    result: list[float] = stan.similarities(np.array([shared]), sums, squares, sessions)[0].tolist()
    return result


def test_similarity_without_decay_is_cosine() -> None:
    """|{b}| / sqrt(2 * 3), |{a, b}| / sqrt(2 * 3), none."""
    data = data_of([("xb", "c")], [("ab", "c")], [("y", "c")])
    cosine = similarities(data, "ab", **COSINE)
    np.testing.assert_allclose(cosine, [1 / math.sqrt(6), 2 / math.sqrt(6), 0])
    slow_decay = similarities(data, "ab", size_power=0.5, node_decay=1e9, service_decay=1e9)
    np.testing.assert_allclose(slow_decay, cosine)


def test_cosine_of_session_with_equal_nodes_is_1() -> None:
    (cosine,) = similarities(data_of([("ab", "c")]), "abc", **COSINE)
    assert cosine == pytest.approx(1)


def test_node_weights_decay_from_the_last_node() -> None:
    weights = make_stan(node_decay=2.0).weights(np.array([3, 2, 1]), np.array([3, 3, 3]))
    np.testing.assert_allclose(weights, [math.exp(-1), math.exp(-0.5), 1])


def test_service_weights_decay_with_distance() -> None:
    """S(b) : S(c) : S(d) = 1 : e^-1 : e^-2 with l3 = 1."""
    p = probabilities(data_of([("a", "b"), ("ab", "c"), ("abc", "d")]), "a", mu=1e-9)
    assert p["c"] / p["b"] == pytest.approx(math.exp(-1), rel=1e-5)
    assert p["d"] / p["b"] == pytest.approx(math.exp(-2), rel=1e-5)


def test_scores_of_two_neighbours_equal_manual_calculation() -> None:
    """Context a, b with l1 = 2 and the cosine: w = e^-0.5, 1; the sessions have 4 and 2 nodes."""
    data = data_of([("ab", "c"), ("abc", "d")], [("a", "d")])
    w = math.exp(-0.5)
    norm = math.sqrt(1 + w**2)
    first, second = (1 + w) / norm / 2, w / norm / math.sqrt(2)
    s = {"c": first, "d": first * math.exp(-1) + second}
    prior = {"c": 2 / 5, "d": 3 / 5}
    p = probabilities(data, "ab", size_power=0.5, mu=0.5)
    for service in "cd":
        expected = (s[service] + 0.5 * prior[service]) / (sum(s.values()) + 0.5)
        assert p[service] == pytest.approx(expected, rel=1e-5)


# Time


def test_session_weights_decay_with_age() -> None:
    data = data_of([("a", "b")], [("a", "c")], times=[0.0, 7 * DAY])
    p = probabilities(data, "a", mu=1e-9)
    assert p["b"] == pytest.approx(p["c"])
    p = probabilities(data, "a", mu=1e-9, session_decay=7.0)
    assert p["b"] / p["c"] == pytest.approx(math.exp(-1), rel=1e-5)


def test_age_is_relative_to_newest_session_that_shares_a_node() -> None:
    """Otherwise the weights of all old sessions would vanish and only the prior would be left."""
    data = data_of([("a", "b")], [("x", "c")], times=[0.0, 10_000 * DAY])
    p = probabilities(data, "a", mu=1e-6, session_decay=1.0)
    assert p["b"] == pytest.approx(1, abs=1e-5)


def test_session_without_time_does_not_decay() -> None:
    data = data_of([("a", "b")], [("a", "c")], [("a", "d")], times=[None, 0.0, 7 * DAY])
    p = probabilities(data, "a", mu=1e-9, session_decay=7.0)
    assert p["b"] == pytest.approx(p["d"], rel=1e-5)
    assert p["c"] / p["d"] == pytest.approx(math.exp(-1), rel=1e-5)


def test_session_decay_has_no_effect_without_times() -> None:
    data = data_of([("a", "b")], [("a", "c")])
    with_decay, without = (probabilities(data, "a", session_decay=decay) for decay in (1.0, None))
    assert with_decay == without
