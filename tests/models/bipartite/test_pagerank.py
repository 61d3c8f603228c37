from __future__ import annotations

import itertools

import numpy as np
import pytest

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.bipartite import pagerank
from dagrec.models.bipartite.pagerank import (
    HARD_BAND,
    Walker,
    exact_pagerank,
    hard_band,
    neighbourhoods,
    pageranks,
    transitions,
)
from dagrec.models.interactions import Interactions
from dagrec.types import Floats, Ids, Ragged
from tests.worlds import everything

RESTART = 0.3


def graph(*rows: tuple[int, ...], weights: tuple[float, ...] = (), size: int) -> Interactions:
    """Return compositions with these nodes and weights (default: 1)."""
    return Interactions(
        Ragged.of([len(row) for row in rows]),
        np.array([node for row in rows for node in row], dtype=np.int64),
        np.array(weights or (1.0,) * len(rows)),
        size,
    )


GRAPH = graph((0, 1), (0, 2, 3), (1, 3), (3, 4, 5), weights=(2, 1, 1, 3), size=7)
"""Six connected nodes, and node 6 without a composition."""


def exact(interactions: Interactions = GRAPH, restart: float = RESTART) -> Floats:
    return exact_pagerank(transitions(interactions), restart)


def test_transitions_equal_manual_calculation() -> None:
    """From 0, two of three compositions are {0, 1} and one is {0, 2, 3}."""
    p = transitions(GRAPH)
    np.testing.assert_allclose(p[0], [2 / 6 + 1 / 9, 2 / 6, 1 / 9, 1 / 9, 0, 0, 0])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(p[6], np.eye(7)[6])


def test_transitions_of_merged_and_separate_compositions_are_equal() -> None:
    separate = graph((0, 1), (0, 1), (0, 2, 3), (1, 3), *[(3, 4, 5)] * 3, size=7)
    np.testing.assert_allclose(transitions(separate), transitions(GRAPH), atol=1e-15)


@pytest.mark.parametrize("restart", [0.05, RESTART, 0.9])
def test_exact_pagerank_is_sum_over_all_walk_lengths(restart: float) -> None:
    """p = a sum_k (1 - a)^k P^k e_v, which sums to 1."""
    p, power, total = transitions(GRAPH), np.eye(7), np.zeros((7, 7))
    for k in range(1500):
        total += restart * (1 - restart) ** k * power
        power = power @ p
    ranks = exact(restart=restart)
    np.testing.assert_allclose(ranks, total, atol=1e-9)
    np.testing.assert_allclose(ranks.sum(axis=1), 1)
    np.testing.assert_allclose(ranks, restart * np.eye(7) + (1 - restart) * ranks @ p, atol=1e-12)


def test_exact_pagerank_is_reversible() -> None:
    """w_i p_i(j) = w_j p_j(i)."""
    ranks, weights = exact(), np.array([3, 3, 1, 5, 3, 3, 1.0])
    np.testing.assert_allclose(weights[:, None] * ranks, (weights[:, None] * ranks).T, atol=1e-12)


def test_pagerank_of_isolated_node_is_itself() -> None:
    ranks = exact()
    np.testing.assert_allclose(ranks[6], np.eye(7)[6])
    assert not ranks[:6, 6].any()


def estimation_errors(walks: int, seed: int) -> tuple[float, float]:
    """Return the largest errors of estimates from the ends and from the visits of walks from node 0."""
    starts, rng = np.zeros(walks, dtype=np.int64), np.random.default_rng(seed)
    ends, visits = starts.copy(), np.zeros(GRAPH.size)
    for active, nodes in Walker.of(GRAPH).walk(starts, RESTART, rng):
        ends[active] = nodes
        visits += np.bincount(nodes, minlength=GRAPH.size)
    estimates = np.bincount(ends, minlength=GRAPH.size) / walks, visits / visits.sum()
    by_end, by_visit = (float(np.abs(estimate - exact()[0]).max()) for estimate in estimates)
    return by_end, by_visit


def test_estimation_error_decreases_with_square_root_of_walks() -> None:
    few = np.mean([estimation_errors(100, seed) for seed in range(30)], axis=0)
    many = np.mean([estimation_errors(10_000, seed) for seed in range(30)], axis=0)
    assert (few < 0.06).all()
    assert (many < 0.006).all()
    assert ((few / many > 6) & (few / many < 16)).all()


def test_number_of_visits_follows_formula() -> None:
    """p_v / a visits per walk."""
    starts = np.zeros(20_000, dtype=np.int64)
    visits = np.zeros(GRAPH.size)
    for _, nodes in Walker.of(GRAPH).walk(starts, RESTART, np.random.default_rng(0)):
        visits += np.bincount(nodes, minlength=GRAPH.size)
    np.testing.assert_allclose(visits / len(starts), exact()[0] / RESTART, atol=0.03)


def test_walks_stay_in_their_component() -> None:
    interactions = graph((0, 1), (3, 4), size=6)
    shares = Walker.of(interactions).visits(np.arange(6), 500, 0.2, np.random.default_rng(0))
    visited = [set(np.flatnonzero(row).tolist()) for row in shares]
    assert visited == [{0, 1}, {0, 1}, {2}, {3, 4}, {3, 4}, {5}]
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_estimated_pageranks_are_yielded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagerank, "ENTRIES_PER_PASS", 2 * 3000)
    blocks = list(pageranks(GRAPH, RESTART, 3000, np.random.default_rng(1)))
    assert [nodes.tolist() for nodes, _ in blocks] == [[0, 1], [2, 3], [4, 5], [6]]
    estimated = np.concatenate([rows for _, rows in blocks])
    np.testing.assert_allclose(estimated, exact(), atol=0.03)


def test_exact_pageranks_are_one_block() -> None:
    ((nodes, rows),) = pageranks(GRAPH, RESTART, None, np.random.default_rng(1))
    assert nodes.tolist() == list(range(7))
    np.testing.assert_array_equal(rows, exact())


def test_pagerank_of_world_ranks_nodes_by_shared_compositions() -> None:
    data = everything().data
    ranks = exact(Interactions.of_compositions(data))
    ids = data.vocabulary.ids
    board, chain = ranks[ids["black_0"]], ranks[ids["extract"]]
    assert board[ids["table_black"]] > board[ids["black_2"]] > 0
    assert not board[ids["white_0"]]
    assert chain[ids["plot"]] == pytest.approx(chain[ids["join"]])
    np.testing.assert_allclose(ranks[:FIRST_SERVICE], np.eye(len(ranks))[:FIRST_SERVICE])


# Neighbourhoods


def test_neighbourhoods_contain_nearest_nodes_with_normalised_weights() -> None:
    ranks = exact()
    nodes, weights = neighbourhoods(np.arange(7), ranks, 3)
    assert nodes.shape == weights.shape == (7, 3)
    np.testing.assert_allclose(weights[:6].sum(axis=1), 1)
    for v in range(6):
        expected = sorted((u for u in range(6) if u != v), key=lambda u: -ranks[v, u])[:3]
        assert set(nodes[v]) == set(expected)
        np.testing.assert_allclose(weights[v], ranks[v, nodes[v]] / ranks[v, expected].sum())
        assert (np.diff(weights[v]) <= 0).all()


def test_missing_neighbours_have_weight_0() -> None:
    nodes, weights = neighbourhoods(np.array([6, 0]), exact()[[6, 0]], 9)
    assert not weights[0].any()
    assert (weights[1] > 0).tolist() == [True] * 5 + [False] * 4
    assert not nodes[weights == 0].any()


def test_tied_neighbours_are_sorted_by_id() -> None:
    ranks = np.array([[0.4, 0.2, 0.0, 0.2, 0.2]])
    nodes, weights = neighbourhoods(np.array([0]), ranks, 2)
    assert nodes.tolist() == [[1, 3]]
    assert weights.tolist() == [[0.5, 0.5]]


# Hard negatives


def band(ranks: Floats, excluded: tuple[int, ...] = ()) -> Ids:
    allowed = np.ones(len(ranks), dtype=np.bool_)
    allowed[list(excluded)] = False
    return hard_band(ranks, allowed)


def test_hard_band_is_from_a_fifth_to_a_half_of_the_ranking() -> None:
    assert HARD_BAND == (0.2, 0.5)
    ranks = np.random.default_rng(0).permutation(40) + 1.0
    position = np.argsort(np.argsort(-ranks))
    assert position[band(ranks)].tolist() == list(range(8, 20))


def test_hard_band_does_not_rank_excluded_and_unreachable_services() -> None:
    ranks = np.arange(20, 0, -1.0)
    assert band(ranks).tolist() == [4, 5, 6, 7, 8, 9]
    assert band(ranks, excluded=(0, 5, 6, 8, 19)).tolist() == [4, 7, 9, 10, 11]
    ranks[10:] = 0
    assert band(ranks).tolist() == [2, 3, 4]


def test_hard_band_can_be_empty() -> None:
    assert not len(band(np.zeros(5)))
    assert not len(band(np.ones(3), excluded=(0, 1, 2)))


def test_long_hard_band_is_thinned_evenly() -> None:
    columns = band(np.arange(10_000, 0, -1.0))
    assert len(columns) == pagerank.MAX_HARD_NEGATIVES
    assert (columns[0], columns[-1]) == (2000, 4999)
    gaps = {b - a for a, b in itertools.pairwise(columns.tolist())}
    assert max(gaps) - min(gaps) <= 1
