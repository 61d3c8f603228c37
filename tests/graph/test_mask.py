from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from dagrec.data.vocabulary import FIRST_SERVICE, PADDING, UNKNOWN, Vocabulary
from dagrec.errors import ConfigError
from dagrec.graph.mask import Masked, MaskPolicy, apply_mask, successor_mask
from dagrec.graph.service_graph import ServiceGraph, Successors
from dagrec.types import Ids, Scores
from tests.checks import says
from tests.worlds import branching, chain, everything

HARD = (MaskPolicy.OBSERVED, MaskPolicy.CATALOGUE)


@dataclass(frozen=True)
class Case:
    """A graph, frontiers of any kind, and scores for them."""

    graph: ServiceGraph
    last: Ids
    scores: Scores

    def allowed(self, row: int, policy: MaskPolicy) -> list[int]:
        """Columns of the successors of the frontier of a row, without the mask's code."""
        links = self.graph.declared if policy is MaskPolicy.CATALOGUE else self.graph.observed
        assert links is not None
        return sorted(links.row(int(self.last[row]))[0].tolist())

    def masked(self, policy: MaskPolicy) -> Masked:
        with np.errstate(over="raise", invalid="raise"):
            return apply_mask(self.scores, self.last, self.graph, policy)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    services = draw(st.integers(1, 6))
    others = draw(st.integers(0, 3))
    vocabulary = Vocabulary(
        tuple(f"s{i}" for i in range(services)), tuple(f"t{i}" for i in range(others))
    )
    nodes = len(vocabulary)
    links = st.dictionaries(
        st.tuples(st.integers(FIRST_SERVICE, nodes - 1), st.integers(0, services - 1)),
        st.integers(1, 4),
    )
    graph = ServiceGraph(
        vocabulary, Successors.of(nodes, draw(links)), Successors.of(nodes, draw(links))
    )
    last = draw(st.lists(st.integers(0, nodes - 1), min_size=1, max_size=5))
    # Multiples of 1/8 below 2 ** 14 are exact, so that adding a constant is exact too.
    score = st.sampled_from([-1e4, 1e4]) | st.integers(-80_000, 80_000).map(lambda x: x / 8)
    row = st.lists(score, min_size=services, max_size=services)
    scores = draw(st.lists(row, min_size=len(last), max_size=len(last)))
    return Case(graph, np.array(last), np.array(scores, dtype=np.float32))


each_policy = pytest.mark.parametrize("policy", MaskPolicy)
each_hard_policy = pytest.mark.parametrize("policy", HARD)


@each_policy
@given(case=cases())
def test_probabilities_sum_to_one_over_allowed_services(case: Case, policy: MaskPolicy) -> None:
    masked = case.masked(policy)
    p = np.exp(masked.log_probabilities)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(np.where(masked.allowed, p, 0).sum(axis=1), 1, rtol=1e-9)


@each_policy
@given(case=cases())
def test_rows_are_not_empty_and_not_nan(case: Case, policy: MaskPolicy) -> None:
    masked = case.masked(policy)
    assert masked.allowed.any(axis=1).all()
    assert np.isfinite(masked.log_probabilities[masked.allowed]).all()
    assert (masked.log_probabilities[~masked.allowed] == -np.inf).all()


@each_hard_policy
@given(case=cases())
def test_hard_mask_is_softmax_over_allowed_services(case: Case, policy: MaskPolicy) -> None:
    masked = case.masked(policy)
    for row, scores in enumerate(case.scores):
        allowed = case.allowed(row, policy) or list(range(len(scores)))
        expected = np.full(len(scores), -np.inf)
        expected[allowed] = log_softmax(scores[allowed].astype(np.float64))
        np.testing.assert_allclose(masked.log_probabilities[row], expected, rtol=1e-9, atol=1e-9)
        assert np.flatnonzero(masked.allowed[row]).tolist() == allowed


@given(case=cases())
def test_no_mask_is_softmax_over_all_services(case: Case) -> None:
    masked = case.masked(MaskPolicy.NONE)
    assert masked.allowed.all()
    np.testing.assert_allclose(
        masked.log_probabilities,
        log_softmax(case.scores.astype(np.float64), axis=1),
        rtol=1e-9,
        atol=1e-9,
    )


@each_policy
@given(case=cases(), constant=st.integers(-1000, 1000))
def test_probabilities_are_invariant_to_constant_added_to_scores(
    case: Case, constant: int, policy: MaskPolicy
) -> None:
    moved = Case(case.graph, case.last, case.scores + np.float32(constant))
    np.testing.assert_allclose(
        moved.masked(policy).log_probabilities, case.masked(policy).log_probabilities, rtol=1e-12
    )


@each_hard_policy
@given(case=cases())
def test_hard_mask_ignores_scores_of_masked_services(case: Case, policy: MaskPolicy) -> None:
    masked = case.masked(policy)
    other = Case(case.graph, case.last, np.where(masked.allowed, case.scores, np.float32(1e4)))
    np.testing.assert_array_equal(other.masked(policy).log_probabilities, masked.log_probabilities)


@each_policy
@given(case=cases())
def test_rows_without_successors_fall_back_to_all_services(case: Case, policy: MaskPolicy) -> None:
    """An unknown node is not in training; a terminal one is, but no service follows it."""
    masked = case.masked(policy)
    for row, node in enumerate(case.last):
        empty = not case.allowed(row, policy)
        assert masked.unknown[row] == (node in (PADDING, UNKNOWN))
        assert masked.terminal[row] == (empty and node >= FIRST_SERVICE)
        if empty:
            assert masked.allowed[row].all()
            expected = log_softmax(case.scores[row].astype(np.float64))
            np.testing.assert_allclose(masked.log_probabilities[row], expected, rtol=1e-9, atol=1e-9)


@given(case=cases())
def test_soft_mask_gives_unseen_mass_to_unseen_services(case: Case) -> None:
    masked = case.masked(MaskPolicy.SOFT)
    services = case.scores.shape[1]
    for row, node in enumerate(case.last):
        seen = case.allowed(row, MaskPolicy.SOFT)
        unseen = [column for column in range(services) if column not in seen]
        if not seen or not unseen:
            continue
        mass = case.graph.unseen_mass[node]
        assert 0 < mass < 1
        for group, share in ((seen, 1 - mass), (unseen, mass)):
            expected = np.log(share) + log_softmax(case.scores[row, group].astype(np.float64))
            result = masked.log_probabilities[row, group]
            np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9)
            assert np.exp(result).sum() == pytest.approx(share)


@given(case=cases())
def test_soft_mask_allows_all_services(case: Case) -> None:
    masked = case.masked(MaskPolicy.SOFT)
    assert masked.allowed.all()
    assert np.isfinite(masked.log_probabilities).all()


@given(case=cases())
def test_soft_mask_equals_no_mask_with_single_group(case: Case) -> None:
    soft, unmasked = case.masked(MaskPolicy.SOFT), case.masked(MaskPolicy.NONE)
    services = case.scores.shape[1]
    rows = [
        row for row in range(len(case.last)) if len(case.allowed(row, MaskPolicy.SOFT)) in (0, services)
    ]
    np.testing.assert_allclose(
        soft.log_probabilities[rows], unmasked.log_probabilities[rows], rtol=1e-9, atol=1e-12
    )


@each_policy
@given(case=cases())
def test_apply_mask_does_not_modify_scores(case: Case, policy: MaskPolicy) -> None:
    before = case.scores.copy()
    case.masked(policy)
    assert np.array_equal(case.scores, before)


@each_policy
def test_empty_batch_gives_empty_result(policy: MaskPolicy) -> None:
    data = branching().data
    graph = ServiceGraph.of(data.examples, data.vocabulary, [])
    masked = apply_mask(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), graph, policy)
    assert masked.log_probabilities.shape == masked.allowed.shape == (0, 2)
    assert masked.unknown.shape == masked.terminal.shape == (0,)


def test_single_successor_has_probability_one() -> None:
    data = chain().data
    scores = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    masked = apply_mask(scores, data.contexts.last, data.graph, MaskPolicy.OBSERVED)
    assert masked.allowed.sum(axis=1).tolist() == [1, 1, 1, 1]
    assert (masked.log_probabilities[masked.allowed] == 0).all()


def test_fallback_unknown_and_terminal_flags() -> None:
    data = everything().data
    last = np.array([data.vocabulary.ids[key] for key in ("table_b", "plot")] + [UNKNOWN, PADDING])
    allowed, fallback = successor_mask(last, data.graph, MaskPolicy.OBSERVED)
    assert [data.vocabulary.services[c] for c in np.flatnonzero(allowed[0])] == ["often", "rarely"]
    assert fallback.tolist() == [False, True, True, True]
    assert allowed[1:].all()
    masked = apply_mask(np.zeros(allowed.shape, np.float32), last, data.graph, MaskPolicy.OBSERVED)
    assert masked.terminal.tolist() == [False, True, False, False]
    assert masked.unknown.tolist() == [False, False, True, True]


def test_catalogue_policy_uses_only_declared_links() -> None:
    data = branching().data
    graph = ServiceGraph.of(data.examples, data.vocabulary, [("table_b", "rarely")])
    last = np.array([data.vocabulary.ids["table_b"]])
    allowed = {
        policy: successor_mask(last, graph, policy)[0][0].tolist()
        for policy in (MaskPolicy.OBSERVED, MaskPolicy.CATALOGUE)
    }
    assert data.vocabulary.services == ("often", "rarely")
    assert allowed == {MaskPolicy.OBSERVED: [True, True], MaskPolicy.CATALOGUE: [False, True]}


def test_catalogue_policy_requires_catalogue() -> None:
    data = chain().data
    with pytest.raises(ConfigError) as error:
        successor_mask(data.contexts.last, data.graph, MaskPolicy.CATALOGUE)
    assert says(error, "'catalogue'", "found none", "--catalogue FILE")
