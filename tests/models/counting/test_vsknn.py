from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.examples import Context
from dagrec.models.counting.neighbours import Sessions
from dagrec.models.counting.vsknn import VSKNN, VSKNNConfig
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.models.counting.test_neighbours import data_of


def probabilities(data: TrainingData, path: str, **options: float) -> dict[str, float]:
    model = VSKNN(VSKNNConfig.model_validate(options)).fit(data)
    scores = model.score(data.vocabulary.encode([Context(tuple(path))]))[0].astype(np.float64)
    return dict(zip(data.vocabulary.services, np.exp(scores).tolist(), strict=True))


def similarities(data: TrainingData, weights: list[float], shared: list[list[float]]) -> Floats:
    w = np.array(weights)
    return VSKNN().similarities(
        np.array(shared), np.array([w.sum()]), np.array([(w**2).sum()]), Sessions.of(data)
    )


def test_weights_increase_linearly_to_1() -> None:
    weights = VSKNN().weights(np.array([4, 3, 2, 1, 1]), np.array([4, 4, 4, 4, 1]))
    assert weights.tolist() == [0.25, 0.5, 0.75, 1, 1]


def test_similarity_of_session_with_all_context_nodes_is_1() -> None:
    data = data_of([("ab", "c")], [("xb", "c")])
    result = similarities(data, [0.5, 1.0], [[1.5, 1.0]])
    np.testing.assert_allclose(result, [[1, 2 / 3]])


def test_scores_of_two_neighbours_equal_manual_calculation() -> None:
    """Context a, b: the first session has both nodes, the second only a, two steps from the end.

    S(c) = 1 at distance 1; S(d) = 1 / 2^2 after b + (1/3) / 2^2 after a.
    """
    data = data_of([("ab", "c"), ("abc", "d")], [("a", "d")])
    prior = {"c": 2 / 5, "d": 3 / 5}
    s = {"c": 1.0, "d": 1 / 4 + 1 / 3 / 4}
    p = probabilities(data, "ab", mu=0.5, fade=2.0)
    for service in "cd":
        expected = (s[service] + 0.5 * prior[service]) / (sum(s.values()) + 0.5)
        assert p[service] == pytest.approx(expected, rel=1e-5)


def test_sessions_that_share_last_node_weigh_most() -> None:
    data = data_of([("a", "x")], [("b", "y")])
    assert probabilities(data, "ab")["y"] > probabilities(data, "ab")["x"]
    assert probabilities(data, "ba")["x"] > probabilities(data, "ba")["y"]


def test_zero_fade_weighs_all_followers_equally() -> None:
    p = probabilities(data_of([("a", "b"), ("ab", "c"), ("abc", "d")]), "a", fade=0.0)
    np.testing.assert_allclose(list(p.values()), 1 / 3, rtol=1e-6)


def test_large_fade_recommends_only_next_services() -> None:
    data = data_of([("a", "b"), ("ab", "c"), ("abc", "d")])
    assert probabilities(data, "a", fade=40.0, mu=1e-6)["b"] == pytest.approx(1, abs=1e-5)


def test_services_before_the_match_are_not_recommended() -> None:
    """b and c are in the session as well, but before d."""
    data = data_of([("a", "b"), ("ab", "c"), ("abc", "d"), ("abcd", "e")])
    assert probabilities(data, "d", mu=1e-6)["e"] == pytest.approx(1, abs=1e-5)
