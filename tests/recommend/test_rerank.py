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


def random_log_p(seed: int = 0, num_zeros: int = 0) -> Floats:
    """[C] random log-probabilities; the last ``num_zeros`` services have probability 0."""
    raw = np.random.default_rng(seed).dirichlet(np.ones(C - num_zeros))
    return np.concatenate([np.log(raw), np.full(num_zeros, -np.inf)])


def test_default_order_is_by_probability() -> None:
    log_p = random_log_p(num_zeros=3)
    order = rank(log_p, C, GRAPH)
    assert len(order) == C - 3
    assert (np.diff(log_p[order]) <= 0).all()
    assert rank(log_p, 4, GRAPH).tolist() == order[:4].tolist()


def test_ties_keep_vocabulary_order() -> None:
    assert rank(np.zeros(C), 5, GRAPH).tolist() == [0, 1, 2, 3, 4]


def test_similarity_is_cosine_of_preceding_nodes() -> None:
    counts = np.stack([GRAPH.support(node) for node in range(len(DATA.vocabulary))])
    expected = cosine_similarity(counts.T)
    actual = np.stack([GRAPH.similarities(column) for column in range(C)])
    np.testing.assert_allclose(actual, expected, atol=1e-12)


def mmr(log_p: Floats, k: int, diversity: float) -> list[int]:
    """Maximal marginal relevance by its definition, one candidate at a time."""
    remaining = [int(c) for c in np.argsort(-log_p, kind="stable") if np.isfinite(log_p[c])]
    relevance = np.exp(log_p - log_p.max())
    selected: list[int] = []
    while remaining and len(selected) < k:

        def value(y: int) -> float:
            near = max((GRAPH.similarities(z)[y] for z in selected), default=0.0)
            return float(
                (1 - diversity) * relevance[y] - diversity * near if selected else relevance[y]
            )

        best = max(remaining, key=value)
        selected.append(best)
        remaining.remove(best)
    return selected


@pytest.mark.parametrize("diversity", [0.1, 0.5, 1.0])
def test_diversity_is_maximal_marginal_relevance(diversity: float) -> None:
    log_p = random_log_p(1, num_zeros=2)
    assert rank(log_p, 8, GRAPH, diversity=diversity).tolist() == mmr(log_p, 8, diversity)


@given(st.integers(0, 1000), st.floats(0, 1), st.integers(1, C))
def test_diversity_keeps_first_service_and_has_no_duplicates(
    seed: int, diversity: float, k: int
) -> None:
    log_p = random_log_p(seed)
    order = rank(log_p, k, GRAPH, diversity=diversity)
    assert order[0] == log_p.argmax()
    assert len(set(order.tolist())) == len(order) == k


def test_novelty_ranks_rare_services_higher() -> None:
    log_p = np.full(C, -np.log(C))
    order = rank(log_p, C, GRAPH, novelty=0.5)
    counts = GRAPH.popularity[order]
    assert (np.diff(counts) >= 0).all()
    assert counts[0] < counts[-1]


def test_novelty_is_nats_per_bit() -> None:
    # A service that is twice as frequent ties with exp(g) times the probability.
    n = GRAPH.popularity + 1
    a, b = 0, int(np.flatnonzero(n != n[0])[0])
    bits = np.log2(n[b] / n[a])
    log_p = np.full(C, -np.inf)
    for margin, first in ((0.01, b), (-0.01, a)):
        log_p[[a, b]] = 0.0, 0.3 * bits + margin
        assert rank(log_p, 1, GRAPH, novelty=0.3).tolist() == [first]


def test_allowed_services() -> None:
    one, two, three = SERVICES[:3]

    def allowed(**filters: list[str]) -> list[str]:
        mask = allowed_services(DATA.vocabulary, **filters)
        return [service for service, is_allowed in zip(SERVICES, mask, strict=True) if is_allowed]

    assert allowed() == list(SERVICES)
    assert allowed(allow=[two, "unknown"]) == [two]
    assert allowed(allow=[]) == []
    assert allowed(allow=[one, two, three], deny=[two, "unknown"], used=[three, "table_a"]) == [one]


def test_restrict_normalises_allowed_services() -> None:
    log_p = random_log_p()
    allowed = np.arange(C) % 2 == 0
    restricted = restrict(log_p, allowed)
    assert np.exp(restricted).sum() == pytest.approx(1)
    assert not np.exp(restricted[~allowed]).any()
    offsets = restricted[allowed] - log_p[allowed]
    np.testing.assert_allclose(offsets, offsets[0])


def test_no_allowed_service_gives_empty_ranking() -> None:
    assert not np.exp(restrict(random_log_p(), np.zeros(C, dtype=np.bool_))).any()
    log_p = restrict(random_log_p(num_zeros=3), np.arange(C) >= C - 3)
    assert rank(log_p, 5, GRAPH, diversity=0.5, novelty=1.0).tolist() == []
