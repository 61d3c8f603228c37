from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.bipartite.pagerank import exact_pagerank, transitions
from dagrec.models.bipartite.tables import SCALAR_FEATURES_RMS
from dagrec.models.interactions import Interactions
from dagrec.models.text import text_features
from tests.models.bipartite.pinsage_models import (
    COLUMNS,
    DATA,
    IDS,
    WORLD,
    make_tables,
)


@pytest.mark.parametrize("features", ["text", "one-hot"])
def test_features_are_centred(features: str) -> None:
    rows = make_tables(features=features).features
    assert not rows[:FIRST_SERVICE].any()
    np.testing.assert_allclose(rows[FIRST_SERVICE:].mean(axis=0), 0, atol=1e-12)
    mean_squares = np.square(rows[FIRST_SERVICE:, -2:]).mean(axis=0)
    np.testing.assert_allclose(mean_squares, SCALAR_FEATURES_RMS**2)


def test_features_are_text_degree_and_kind() -> None:
    rows = make_tables().features[FIRST_SERVICE:]
    texts = {node.key: node.text or "" for c in WORLD.compositions for node in c.nodes}
    vectors = text_features(DATA.vocabulary, texts, 128)[FIRST_SERVICE:]
    np.testing.assert_allclose(rows[:, :-2], vectors - vectors.mean(axis=0), atol=1e-12)
    counts = {key: sum(key in {n.key for n in c.nodes} for c in WORLD.compositions) for key in IDS}
    scalars = np.array([[np.log1p(counts[key]), key in COLUMNS] for key in IDS], dtype=np.float64)
    scalars -= scalars.mean(axis=0)
    expected = SCALAR_FEATURES_RMS * scalars / scalars.std(axis=0)
    np.testing.assert_allclose(rows[:, -2:], expected, atol=1e-12)


def test_neighbour_weights_are_normalised_pagerank() -> None:
    tables = make_tables()
    ranks = exact_pagerank(transitions(Interactions.of_compositions(DATA)), 0.5)
    v = IDS["split"]
    expected = ranks[v, tables.neighbours[v]]
    assert tables.weights[v].sum() == pytest.approx(1)
    np.testing.assert_allclose(tables.weights[v], expected / expected.sum())
    assert v not in tables.neighbours[v]


def test_mean_pooling_gives_equal_weights_to_the_same_neighbours() -> None:
    importance, mean = make_tables(), make_tables(pooling="mean")
    np.testing.assert_array_equal(importance.neighbours, mean.neighbours)
    for weights, equal in zip(importance.weights, mean.weights, strict=True):
        np.testing.assert_allclose(equal[weights > 0], 1 / max((weights > 0).sum(), 1))
        assert not equal[weights == 0].any()


def test_pagerank_is_estimated_above_max_exact_nodes() -> None:
    exact = make_tables(neighbours=2)
    estimated = make_tables(neighbours=2, max_exact_nodes=0, walks=20_000)
    v = IDS["hub_source"]
    assert exact.neighbours[v].tolist() == estimated.neighbours[v].tolist()
    assert 0 < np.abs(exact.weights - estimated.weights)[v].max() < 0.02
    again = make_tables(neighbours=2, max_exact_nodes=0, walks=20_000)
    np.testing.assert_array_equal(estimated.weights, again.weights)
