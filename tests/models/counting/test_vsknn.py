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


def test_weights_rise_linearly_to_1() -> None:
    found = VSKNN().weights(np.array([4, 3, 2, 1, 1]), np.array([4, 4, 4, 4, 1]))
    assert found.tolist() == [0.25, 0.5, 0.75, 1, 1]


def test_a_session_with_all_nodes_of_the_context_has_similarity_1() -> None:
    data = data_of([("ab", "c")], [("xb", "c")])
    found = similarities(data, [0.5, 1.0], [[1.5, 1.0]])
    np.testing.assert_allclose(found, [[1, 2 / 3]])


def test_two_neighbours_by_hand() -> None:
    """Context a, b: the first session has both, the second a alone, two steps from the end.

    S(c) = 1 at distance 1; S(d) = 1 / 2^2 behind b + (1/3) / 2^2 behind a.
    """
    data = data_of([("ab", "c"), ("abc", "d")], [("a", "d")])
    prior = {"c": 2 / 5, "d": 3 / 5}
    s = {"c": 1.0, "d": 1 / 4 + 1 / 3 / 4}
    found = probabilities(data, "ab", mu=0.5, fade=2.0)
    for service in "cd":
        expected = (s[service] + 0.5 * prior[service]) / (sum(s.values()) + 0.5)
        assert found[service] == pytest.approx(expected, rel=1e-5)


def test_what_the_last_node_meets_counts_most() -> None:
    data = data_of([("a", "x")], [("b", "y")])
    assert probabilities(data, "ab")["y"] > probabilities(data, "ab")["x"]
    assert probabilities(data, "ba")["x"] > probabilities(data, "ba")["y"]


def test_without_fading_all_that_follows_counts_the_same() -> None:
    found = probabilities(data_of([("a", "b"), ("ab", "c"), ("abc", "d")]), "a", fade=0.0)
    np.testing.assert_allclose(list(found.values()), 1 / 3, rtol=1e-6)


def test_strong_fading_leaves_the_next_services() -> None:
    data = data_of([("a", "b"), ("ab", "c"), ("abc", "d")])
    assert probabilities(data, "a", fade=40.0, mu=1e-6)["b"] == pytest.approx(1, abs=1e-5)


def test_only_what_follows_is_recommended() -> None:
    """b and c are in the session too, but before d."""
    data = data_of([("a", "b"), ("ab", "c"), ("abc", "d"), ("abcd", "e")])
    assert probabilities(data, "d", mu=1e-6)["e"] == pytest.approx(1, abs=1e-5)
