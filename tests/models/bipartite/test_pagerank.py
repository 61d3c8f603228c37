from __future__ import annotations

import itertools

import numpy as np
import pytest

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.bipartite import pagerank
from dagrec.models.bipartite.pagerank import (
    BAND,
    Walker,
    exact,
    hard_band,
    nearest,
    pageranks,
    transitions,
)
from dagrec.models.interactions import Interactions
from dagrec.types import Floats, Ids, Ragged
from tests.worlds import everything

RESTART = 0.3


def graph(*rows: tuple[int, ...], weights: tuple[float, ...] = (), size: int) -> Interactions:
    """Compositions with these nodes, each for as many as its weight."""
    return Interactions(
        Ragged.of([len(row) for row in rows]),
        np.array([node for row in rows for node in row], dtype=np.int64),
        np.array(weights or (1.0,) * len(rows)),
        size,
    )


SIX = graph((0, 1), (0, 2, 3), (1, 3), (3, 4, 5), weights=(2, 1, 1, 3), size=7)
"""Six nodes, all of them connected, and node 6 without a composition."""


def ranks(of: Interactions = SIX, restart: float = RESTART) -> Floats:
    return exact(transitions(of), restart)


def test_steps_by_hand() -> None:
    """From 0: to {0, 1} in two of three cases and to {0, 2, 3} in one, and there to any."""
    steps = transitions(SIX)
    np.testing.assert_allclose(steps[0], [2 / 6 + 1 / 9, 2 / 6, 1 / 9, 1 / 9, 0, 0, 0])
    np.testing.assert_allclose(steps.sum(axis=1), 1)
    np.testing.assert_array_equal(steps[6], np.eye(7)[6])


def test_merged_compositions_are_the_same_as_equal_ones() -> None:
    apart = graph((0, 1), (0, 1), (0, 2, 3), (1, 3), *[(3, 4, 5)] * 3, size=7)
    np.testing.assert_allclose(transitions(apart), transitions(SIX), atol=1e-15)


@pytest.mark.parametrize("restart", [0.05, RESTART, 0.9])
def test_exact_ranks_are_the_sum_over_all_lengths_of_a_walk(restart: float) -> None:
    """p = a sum_k (1 - a)^k P^k e_v, and each is a distribution."""
    steps, power, total = transitions(SIX), np.eye(7), np.zeros((7, 7))
    for k in range(1500):
        total += restart * (1 - restart) ** k * power
        power = power @ steps
    found = ranks(restart=restart)
    np.testing.assert_allclose(found, total, atol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found, restart * np.eye(7) + (1 - restart) * found @ steps, atol=1e-12)


def test_weights_of_stay_and_way_are_in_balance() -> None:
    """The chain of a walk is reversible: w_i p_i(j) = w_j p_j(i)."""
    found, weights = ranks(), np.array([3, 3, 1, 5, 3, 3, 1.0])
    np.testing.assert_allclose(weights[:, None] * found, (weights[:, None] * found).T, atol=1e-12)


def test_a_node_without_compositions_is_alone() -> None:
    found = ranks()
    np.testing.assert_allclose(found[6], np.eye(7)[6])
    assert not found[:6, 6].any()


def errors(walks: int, seed: int) -> tuple[float, float]:
    """Of the last nodes of so many walks from 0, and of all that they visit."""
    starts, rng = np.zeros(walks, dtype=np.int64), np.random.default_rng(seed)
    ends, visits = starts.copy(), np.zeros(SIX.size)
    for alive, nodes in Walker.of(SIX).walk(starts, RESTART, rng):
        ends[alive] = nodes
        visits += np.bincount(nodes, minlength=SIX.size)
    shares = np.bincount(ends, minlength=SIX.size) / walks, visits / visits.sum()
    by_end, by_visit = (float(np.abs(share - ranks()[0]).max()) for share in shares)
    return by_end, by_visit


def test_walks_converge_at_the_root_of_their_number() -> None:
    """Ends and visits alike; a hundred times as many walks are about ten times as near."""
    few = np.mean([errors(100, seed) for seed in range(30)], axis=0)
    many = np.mean([errors(10_000, seed) for seed in range(30)], axis=0)
    assert (few < 0.06).all()
    assert (many < 0.006).all()
    assert ((few / many > 6) & (few / many < 16)).all()


def test_a_walk_visits_its_nodes_as_often_as_the_formula_says() -> None:
    """p_v / a visits, 1 / a steps in all."""
    starts = np.zeros(20_000, dtype=np.int64)
    visits = np.zeros(SIX.size)
    for _, nodes in Walker.of(SIX).walk(starts, RESTART, np.random.default_rng(0)):
        visits += np.bincount(nodes, minlength=SIX.size)
    np.testing.assert_allclose(visits / len(starts), ranks()[0] / RESTART, atol=0.03)


def test_walks_never_leave_their_part_of_the_graph() -> None:
    """Nor does a node without compositions lead anywhere."""
    apart = graph((0, 1), (3, 4), size=6)
    shares = Walker.of(apart).visits(np.arange(6), 500, 0.2, np.random.default_rng(0))
    reached = [set(np.flatnonzero(row).tolist()) for row in shares]
    assert reached == [{0, 1}, {0, 1}, {2}, {3, 4}, {3, 4}, {5}]
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_blocks_of_walks_are_all_nodes_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagerank, "ENTRIES_AT_ONCE", 2 * 3000)
    parts = list(pageranks(SIX, RESTART, 3000, np.random.default_rng(1)))
    assert [nodes.tolist() for nodes, _ in parts] == [[0, 1], [2, 3], [4, 5], [6]]
    walked = np.concatenate([rows for _, rows in parts])
    np.testing.assert_allclose(walked, ranks(), atol=0.03)


def test_exact_ranks_are_one_block_and_need_no_chance() -> None:
    ((nodes, rows),) = pageranks(SIX, RESTART, None, np.random.default_rng(1))
    assert nodes.tolist() == list(range(7))
    np.testing.assert_array_equal(rows, ranks())


def test_nodes_of_real_compositions_are_near_by_what_they_share() -> None:
    data = everything().data
    found = ranks(Interactions.of_compositions(data))
    ids = data.vocabulary.ids
    board, chain = found[ids["black_0"]], found[ids["extract"]]
    assert board[ids["table_black"]] > board[ids["black_2"]] > 0
    assert not board[ids["white_0"]]
    assert chain[ids["plot"]] == pytest.approx(chain[ids["join"]])
    np.testing.assert_allclose(found[:FIRST_SERVICE], np.eye(len(found))[:FIRST_SERVICE])


# Neighbourhoods


def test_a_neighbourhood_is_of_the_nearest_and_sums_to_one() -> None:
    rows = ranks()
    nodes, weights = nearest(np.arange(7), rows, 3)
    assert nodes.shape == weights.shape == (7, 3)
    np.testing.assert_allclose(weights[:6].sum(axis=1), 1)
    for v in range(6):
        others = sorted((u for u in range(6) if u != v), key=lambda u: -rows[v, u])[:3]
        assert set(nodes[v]) == set(others)
        np.testing.assert_allclose(weights[v], rows[v, nodes[v]] / rows[v, others].sum())
        assert (np.diff(weights[v]) <= 0).all()


def test_what_is_missing_in_a_neighbourhood_has_no_weight() -> None:
    nodes, weights = nearest(np.array([6, 0]), ranks()[[6, 0]], 9)
    assert not weights[0].any()
    assert (weights[1] > 0).tolist() == [True] * 5 + [False] * 4
    assert not nodes[weights == 0].any()


def test_among_equals_the_lower_id_is_nearer() -> None:
    nodes, weights = nearest(np.array([0]), np.array([[0.4, 0.2, 0.0, 0.2, 0.2]]), 2)
    assert nodes.tolist() == [[1, 3]]
    assert weights.tolist() == [[0.5, 0.5]]


# The band of hard negatives


def band(rows: Floats, excluded: tuple[int, ...] = ()) -> Ids:
    allowed = np.ones(len(rows), dtype=np.bool_)
    allowed[list(excluded)] = False
    return hard_band(rows, allowed)


def test_the_band_is_from_a_fifth_to_a_half_of_the_ranking() -> None:
    assert BAND == (0.2, 0.5)
    rows = np.random.default_rng(0).permutation(40) + 1.0
    place = np.argsort(np.argsort(-rows))
    assert place[band(rows)].tolist() == list(range(8, 20))


def test_what_may_not_be_a_negative_has_no_rank() -> None:
    rows = np.arange(20, 0, -1.0)
    assert band(rows).tolist() == [4, 5, 6, 7, 8, 9]
    assert band(rows, excluded=(0, 5, 6, 8, 19)).tolist() == [4, 7, 9, 10, 11]
    rows[10:] = 0
    assert band(rows).tolist() == [2, 3, 4]


def test_a_band_may_be_empty() -> None:
    assert not len(band(np.zeros(5)))
    assert not len(band(np.ones(3), excluded=(0, 1, 2)))


def test_a_long_band_is_thinned_evenly() -> None:
    found = band(np.arange(10_000, 0, -1.0))
    assert len(found) == pagerank.MAX_HARD_NEGATIVES
    assert (found[0], found[-1]) == (2000, 4999)
    steps = {b - a for a, b in itertools.pairwise(found.tolist())}
    assert max(steps) - min(steps) <= 1
