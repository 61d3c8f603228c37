"""What PinSage knows before it is trained: features and neighbourhoods."""

from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.bipartite.pagerank import exact, transitions
from dagrec.models.bipartite.tables import BESIDE
from dagrec.models.interactions import Interactions
from dagrec.models.text import text_features
from tests.models.bipartite.pinsages import (
    COLUMNS,
    DATA,
    IDS,
    WORLD,
    tables,
)


@pytest.mark.parametrize("features", ["text", "one-hot"])
def test_features_are_centred_and_those_of_no_node_are_zero(features: str) -> None:
    found = tables(features=features).features
    assert not found[:FIRST_SERVICE].any()
    np.testing.assert_allclose(found[FIRST_SERVICE:].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.square(found[FIRST_SERVICE:, -2:]).mean(axis=0), BESIDE**2)


def test_features_are_text_degree_and_kind() -> None:
    found = tables().features
    texts = {node.key: node.text or "" for c in WORLD.compositions for node in c.nodes}
    own = text_features(DATA.vocabulary, texts, 128)[FIRST_SERVICE:]
    np.testing.assert_allclose(found[FIRST_SERVICE:, :-2], own - own.mean(axis=0), atol=1e-12)
    held = {key: sum(key in {n.key for n in c.nodes} for c in WORLD.compositions) for key in IDS}
    beside = np.array([[np.log1p(held[key]), key in COLUMNS] for key in IDS], dtype=np.float64)
    beside -= beside.mean(axis=0)
    np.testing.assert_allclose(
        found[FIRST_SERVICE:, -2:], BESIDE * beside / beside.std(axis=0), atol=1e-12
    )


def test_weights_of_a_neighbourhood_are_shares_of_the_pagerank() -> None:
    found = tables()
    ranks = exact(transitions(Interactions.of_compositions(DATA)), 0.5)
    v = IDS["split"]
    own = ranks[v, found.neighbours[v]]
    assert found.weights[v].sum() == pytest.approx(1)
    np.testing.assert_allclose(found.weights[v], own / own.sum())
    assert v not in found.neighbours[v]


def test_mean_pooling_weighs_the_same_neighbours_alike() -> None:
    by_rank, alike = tables(), tables(pooling="mean")
    np.testing.assert_array_equal(by_rank.neighbours, alike.neighbours)
    for own, same in zip(by_rank.weights, alike.weights, strict=True):
        np.testing.assert_allclose(same[own > 0], 1 / max((own > 0).sum(), 1))
        assert not same[own == 0].any()


def test_beyond_some_nodes_walks_take_the_place_of_the_formula() -> None:
    by_formula, by_walks = tables(neighbours=2), tables(neighbours=2, exact_up_to=0, walks=20_000)
    v = IDS["hub_source"]
    assert by_formula.neighbours[v].tolist() == by_walks.neighbours[v].tolist()
    assert 0 < np.abs(by_formula.weights - by_walks.weights)[v].max() < 0.02
    again = tables(neighbours=2, exact_up_to=0, walks=20_000)
    np.testing.assert_array_equal(by_walks.weights, again.weights)
