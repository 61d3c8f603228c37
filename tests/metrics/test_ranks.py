from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.metrics.ranks import Ranks
from dagrec.types import Floats

GAINS: dict[str, Callable[[int], Floats]] = {
    "hits@1": lambda n: (np.arange(n) < 1).astype(float),
    "hits@3": lambda n: (np.arange(n) < 3).astype(float),
    "reciprocal": lambda n: 1 / np.arange(1, n + 1),
    "ndcg": lambda n: 1 / np.log2(np.arange(2, n + 2)),
    "rank": lambda n: np.arange(1.0, n + 1),
}


def ranks_of(scores: list[float], target: int) -> Ranks:
    return Ranks.of(np.array([scores], dtype=np.float64), np.array([target]))


def test_four_tied_services_by_hand() -> None:
    """a = 2, m = 4: the ranks 3, 4, 5 and 6 are equally likely; k = 4."""
    ranks = ranks_of([9, 8, 5, 5, 5, 5, 1], target=3)
    assert (ranks.better[0], ranks.tied[0]) == (2, 4)
    assert ranks.middle()[0] == 4.5
    hits = np.array([1, 1, 1, 1, 0, 0, 0])
    assert ranks.expect(hits)[0] == 0.5
    position = np.arange(1, 8)
    assert ranks.expect(1 / position)[0] == pytest.approx((1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 4)
    assert ranks.expect(1 / position)[0] == pytest.approx(0.2375)
    assert ranks.expect(hits / np.log2(1 + position))[0] == pytest.approx(0.2327, abs=5e-5)


def test_expected_reciprocal_rank_differs_from_reciprocal_of_expected_rank() -> None:
    ranks = ranks_of([5, 5, 5, 5], target=0)
    assert ranks.expect(1 / np.arange(1, 5))[0] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert 1 / ranks.middle()[0] == pytest.approx(1 / 2.5)


@pytest.mark.parametrize(("target", "rank"), [(0, 3), (1, 1), (2, 4), (3, 2)])
def test_rank_without_ties_is_position(target: int, rank: int) -> None:
    ranks = ranks_of([2.0, 9.0, -1.0, 2.5], target)
    assert ranks.middle()[0] == rank
    for gain in GAINS.values():
        assert ranks.expect(gain(4))[0] == pytest.approx(gain(4)[rank - 1])


@pytest.mark.parametrize("gain", GAINS.values(), ids=GAINS)
@given(scores=st.lists(st.integers(0, 3), min_size=1, max_size=5), data=st.data())
def test_expectation_is_mean_over_all_tie_breaks(
    scores: list[int], data: st.DataObject, gain: Callable[[int], Floats]
) -> None:
    target = data.draw(st.integers(0, len(scores) - 1))
    orders = [sorted(order, key=lambda i: -scores[i]) for order in permutations(range(len(scores)))]
    positions = [order.index(target) for order in orders]
    ranks = ranks_of([float(s) for s in scores], target)
    assert ranks.expect(gain(len(scores)))[0] == pytest.approx(gain(len(scores))[positions].mean())
    assert ranks.middle()[0] == pytest.approx(np.mean(positions) + 1)


@pytest.mark.parametrize("target", [-1, 2, 3])
def test_unknown_and_masked_targets_are_misses(target: int) -> None:
    """Even for k = C."""
    ranks = ranks_of([1.0, 0.0, -np.inf, -np.inf], target)
    assert not ranks.reachable[0]
    assert ranks.expect(np.ones(4))[0] == 0


def test_rows_are_independent() -> None:
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, 1.0], [0.0, 5.0, -np.inf]])
    targets = np.array([0, 1, 2])
    ranks = Ranks.of(scores, targets)
    assert ranks.better.tolist() == [0, 0, 2]
    assert ranks.tied.tolist() == [1, 3, 1]
    assert ranks.reachable.tolist() == [True, True, False]
    assert ranks.middle()[:2].tolist() == [1, 2]
