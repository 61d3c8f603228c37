from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dagrec.data.examples import Context, Example
from dagrec.models.counting.popularity import Popularity
from dagrec.training.data import TrainingData
from tests.worlds import branching, everything


def test_scores_equal_manual_calculation() -> None:
    """Three ``often`` and one ``rarely``: (3 + 1) / (4 + 2) and (1 + 1) / (4 + 2)."""
    data = branching().data
    assert data.vocabulary.services == ("often", "rarely")
    scores = Popularity().fit(data).score(data.contexts)
    np.testing.assert_allclose(scores, np.log([[4 / 6, 2 / 6]]), rtol=1e-6)


def test_scores_follow_formula_on_all_examples(examples: tuple[Example, ...]) -> None:
    data = TrainingData.of(examples)
    counts = Counter(example.target for example in examples)
    services = data.vocabulary.services
    expected = [np.log((counts[y] + 1) / (len(examples) + len(services))) for y in services]
    scores = Popularity().fit(data).score(data.contexts.take(np.array([0])))
    np.testing.assert_allclose(scores[0], expected, rtol=1e-6)


def test_scores_are_equal_for_all_contexts() -> None:
    data = everything().data
    scores = Popularity().fit(data).score(data.contexts)
    assert (scores == scores[0]).all()


def test_service_without_examples_has_lowest_score() -> None:
    data = everything().data
    scores = Popularity().fit(data).score(data.vocabulary.encode([Context(("table_a",))]))[0]
    column = data.vocabulary.columns["hub_source"]
    assert data.graph.popularity[column] == 0
    assert scores[column] == scores.min()
    assert np.exp(scores.astype(np.float64)).sum() == pytest.approx(1, abs=1e-6)
