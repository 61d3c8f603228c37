from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from dagrec.recommend.rerank import allowed_services, rank, restrict
from dagrec.types import Floats
from tests.worlds import everything

DATA = everything().data
GRAPH = DATA.graph
SERVICES = DATA.vocabulary.services
C = len(SERVICES)


def probabilities(seed: int = 0, gone: int = 0) -> Floats:
    """log p of all services; the last ``gone`` of them have probability 0."""
    raw = np.random.default_rng(seed).dirichlet(np.ones(C - gone))
    return np.concatenate([np.log(raw), np.full(gone, -np.inf)])


def test_neutral_is_the_order_of_the_probabilities() -> None:
    log_p = probabilities(gone=3)
    found = rank(log_p, C, GRAPH)
    assert len(found) == C - 3
    assert (np.diff(log_p[found]) <= 0).all()
    assert rank(log_p, 4, GRAPH).tolist() == found[:4].tolist()


def test_ties_keep_vocabulary_order() -> None:
    assert rank(np.zeros(C), 5, GRAPH).tolist() == [0, 1, 2, 3, 4]


def test_similarities_are_cosines_of_what_came_before() -> None:
    counts = np.stack([GRAPH.support(node) for node in range(len(DATA.vocabulary))])
    expected = cosine_similarity(counts.T)
    found = np.stack([GRAPH.similarities(column) for column in range(C)])
    np.testing.assert_allclose(found, expected, atol=1e-12)


def mmr(log_p: Floats, k: int, diversity: float) -> list[int]:
    """By the definition, one candidate at a time."""
    left = [int(c) for c in np.argsort(-log_p, kind="stable") if np.isfinite(log_p[c])]
    relevance = np.exp(log_p - log_p.max())
    taken: list[int] = []
    while left and len(taken) < k:

        def value(y: int) -> float:
            near = max((GRAPH.similarities(z)[y] for z in taken), default=0.0)
            return float((1 - diversity) * relevance[y] - diversity * near if taken else relevance[y])

        best = max(left, key=value)
        taken.append(best)
        left.remove(best)
    return taken


@pytest.mark.parametrize("diversity", [0.1, 0.5, 1.0])
def test_diversity_is_maximal_marginal_relevance(diversity: float) -> None:
    log_p = probabilities(1, gone=2)
    assert rank(log_p, 8, GRAPH, diversity=diversity).tolist() == mmr(log_p, 8, diversity)


@given(st.integers(0, 1000), st.floats(0, 1), st.integers(1, C))
def test_the_first_service_stays_and_none_comes_twice(seed: int, diversity: float, k: int) -> None:
    log_p = probabilities(seed)
    found = rank(log_p, k, GRAPH, diversity=diversity)
    assert found[0] == log_p.argmax()
    assert len(set(found.tolist())) == len(found) == k


def test_novelty_moves_rare_services_up() -> None:
    log_p = np.full(C, -np.log(C))
    found = rank(log_p, C, GRAPH, novelty=0.5)
    counts = GRAPH.popularity[found]
    assert (np.diff(counts) >= 0).all()
    assert counts[0] < counts[-1]


def test_novelty_weighs_nats_against_bits() -> None:
    """A service twice as frequent needs exp(g) times the probability to stand level."""
    n = GRAPH.popularity + 1
    a, b = 0, int(np.flatnonzero(n != n[0])[0])
    bits = np.log2(n[b] / n[a])
    log_p = np.full(C, -np.inf)
    for margin, first in ((0.01, b), (-0.01, a)):
        log_p[[a, b]] = 0.0, 0.3 * bits + margin
        assert rank(log_p, 1, GRAPH, novelty=0.3).tolist() == [first]


def test_filters() -> None:
    one, two, three = SERVICES[:3]

    def kept(**how: list[str]) -> list[str]:
        return [s for s, k in zip(SERVICES, allowed_services(DATA.vocabulary, **how), strict=True) if k]

    assert kept() == list(SERVICES)
    assert kept(allow=[two, "nobody"]) == [two]
    assert kept(allow=[]) == []
    assert kept(allow=[one, two, three], deny=[two, "nobody"], used=[three, "table_a"]) == [one]


def test_what_is_left_adds_up_to_1() -> None:
    log_p = probabilities()
    kept = np.arange(C) % 2 == 0
    found = restrict(log_p, kept)
    assert np.exp(found).sum() == pytest.approx(1)
    assert not np.exp(found[~kept]).any()
    gaps = found[kept] - log_p[kept]
    np.testing.assert_allclose(gaps, gaps[0])


def test_nothing_left_is_no_answer_and_no_error() -> None:
    assert not np.exp(restrict(probabilities(), np.zeros(C, dtype=np.bool_))).any()
    nowhere = restrict(probabilities(gone=3), np.arange(C) >= C - 3)
    assert rank(nowhere, 5, GRAPH, diversity=0.5, novelty=1.0).tolist() == []
