from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.examples import Context
from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.bipartite.spectrum import Features, Spectrum, SpectrumOptions
from dagrec.models.bipartite.svdgcn_s import SVDGCNS, SVDGCNSConfig
from dagrec.models.interactions import Interactions
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.models.bipartite.dense import NODES, SERVICES, SETS, interactions
from tests.worlds import everything

WORLD = everything()
ALL = 1000
"""More singular values than any matrix here has."""


def dense(sets: tuple[tuple[int, ...], ...] = SETS, *, alpha: float) -> Floats:
    """R~ of a row a composition."""
    r = interactions(sets, merged=False).matrix().toarray()
    columns = np.maximum(r.sum(axis=0) + alpha, 1e-9)
    return np.asarray(r / np.sqrt((r.sum(axis=1) + alpha)[:, None] * columns))


def places(found: Spectrum, alpha: float) -> Floats:
    """The compositions, each folded in as if it were new."""
    r = interactions(merged=False).matrix().toarray()
    return np.asarray(r @ found.parts / np.sqrt(r.sum(axis=1, keepdims=True) + alpha))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("merged", [True, False])
def test_it_is_the_spectrum_of_the_matrix_with_a_row_a_composition(alpha: float, merged: bool) -> None:
    found = Spectrum.of(interactions(merged=merged), rank=ALL, alpha=alpha)
    _, s, vt = np.linalg.svd(dense(alpha=alpha))
    rank = len(found.values)
    np.testing.assert_allclose(found.values, s[:rank], atol=1e-7)
    np.testing.assert_allclose(s[rank:], 0, atol=1e-7)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, vt[:rank].T @ vt[:rank], atol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_a_composition_that_is_folded_in_has_its_row_of_u(alpha: float) -> None:
    found = Spectrum.of(interactions(), rank=3, alpha=alpha)
    u, s, vt = np.linalg.svd(dense(alpha=alpha))
    signs = np.sign((found.vectors * vt[:3].T).sum(axis=0))
    assert s[2] - s[3] > 0.01
    np.testing.assert_allclose(places(found, alpha) * signs, u[:, :3], atol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_with_all_singular_values_it_is_the_matrix(alpha: float) -> None:
    found = Spectrum.of(interactions(), rank=ALL, alpha=alpha)
    back = places(found, alpha) * found.values @ found.vectors.T
    np.testing.assert_allclose(back, dense(alpha=alpha), atol=1e-9)


def test_the_largest_singular_value_is_1_without_alpha_alone() -> None:
    largest = [Spectrum.of(interactions(), rank=1, alpha=a).values[0] for a in (0.0, 1e-3, 1.0, 5.0)]
    assert largest[0] == pytest.approx(1, abs=1e-12)
    assert (np.diff(largest) < 0).all()


def test_singular_values_of_0_are_left_out() -> None:
    """2 and 3 occur only together: of their two directions one is never seen, nor are nodes in no row.

    The square of n rows of two nodes is 2 n / ((2 + 1) (n + 1)).
    """
    found = Spectrum.of(interactions(((2, 3), (2, 3), (4, 5))), rank=ALL, alpha=1.0)
    np.testing.assert_allclose(found.values**2, [2 * 2 / (3 * 3), 1 * 2 / (3 * 2)], atol=1e-12)


def test_no_cut_is_made_among_equals() -> None:
    rows = interactions(((2, 3), (4, 5), (6, 7, 8)))
    assert Spectrum.of(rows, rank=1, alpha=0.0).values.tolist() == pytest.approx([1, 1, 1])
    assert Spectrum.of(rows, rank=1, alpha=1.0).values.tolist() == pytest.approx([np.sqrt(3 / 8)])


def test_columns_that_no_row_has_say_nothing() -> None:
    found = Spectrum.of(interactions(), rank=ALL, alpha=0.0)
    np.testing.assert_allclose(found.parts[[0, 1, 7]], 0, atol=1e-12)


# Scores


def scores(options: SpectrumOptions, *, flip: tuple[int, ...] = ()) -> Floats:
    """Of all compositions for all services, with some pairs of singular vectors turned round."""
    found = Features.of(interactions(), options, SERVICES)
    signs = np.ones(found.nodes.shape[1])
    signs[list(flip)] = -1
    r = interactions(merged=False).matrix().toarray()
    x = r @ (found.nodes * signs) / np.sqrt(r.sum(axis=1, keepdims=True) + options.alpha)
    return np.asarray(x @ (found.services * signs).T)


def test_with_beta_0_scores_are_those_of_singular_vectors() -> None:
    u, _, vt = np.linalg.svd(dense(alpha=1.5))
    expected = u[:, :3] @ vt[:3, FIRST_SERVICE : FIRST_SERVICE + SERVICES]
    found = scores(SpectrumOptions(rank=3, alpha=1.5, beta=0))
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_beta_weighs_both_sides_by_the_singular_values() -> None:
    u, s, vt = np.linalg.svd(dense(alpha=1.5))
    expected = u[:, :3] * np.exp(2 * 1.3 * s[:3]) @ vt[:3, FIRST_SERVICE : FIRST_SERVICE + SERVICES]
    found = scores(SpectrumOptions(rank=3, alpha=1.5, beta=1.3))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_signs_of_singular_vectors_do_not_matter() -> None:
    options = SpectrumOptions(rank=3, alpha=1.5, beta=1.3)
    np.testing.assert_allclose(scores(options, flip=(0, 2)), scores(options), atol=1e-12)


@pytest.mark.parametrize("last", [True, False])
def test_examples_are_rows_with_a_mark_at_the_last_node(last: bool) -> None:
    options = SVDGCNSConfig(read="path", last=last, rank=7, alpha=2.0, beta=1.1)
    model = SVDGCNS(options).fit(WORLD.data)
    vocabulary = WORLD.data.vocabulary
    size, services = len(vocabulary), len(vocabulary.services)

    def row(path: tuple[str, ...], target: str | None) -> Floats:
        found = np.zeros(size * (1 + last))
        keys = path if target is None else (*path, target)
        found[[vocabulary.ids[key] for key in keys]] = 1
        if last:
            found[size + vocabulary.ids[path[-1]]] = 1
        return found

    rows = [row(e.context.path, e.target) for e in WORLD.examples]
    asked = [row(c.path, None) for c in WORLD.contexts]
    r = np.array([*rows, *asked])
    columns = np.array(rows).sum(axis=0)
    normal = r / np.sqrt((r.sum(axis=1) + 2.0)[:, None] * (columns + 2.0))
    _, s, vt = np.linalg.svd(normal[: len(rows)], full_matrices=False)
    kept = s >= s[6] - 1e-6
    x = normal[len(rows) :] @ vt[kept].T / s[kept] * np.exp(2 * 1.1 * s[kept])
    expected = x @ vt[kept][:, FIRST_SERVICE : FIRST_SERVICE + services]
    found = model.score(vocabulary.encode(WORLD.contexts))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_equal_examples_count_as_often_as_they_occur() -> None:
    """Twice the rows are sqrt(2) times the singular values, with alpha = 0 for columns, too."""
    twice = TrainingData.of([*WORLD.examples, *WORLD.examples])
    options = SVDGCNSConfig(alpha=0)
    one, other = (Interactions.of_examples(data, options) for data in (WORLD.data, twice))
    assert len(one) == len(other)
    np.testing.assert_allclose(2 * one.weights, other.weights)
    a, b = (SVDGCNS(options).fit(data) for data in (WORLD.data, twice))
    contexts = WORLD.data.vocabulary.encode(WORLD.contexts)
    np.testing.assert_allclose(a.score(contexts), np.sqrt(2) * b.score(contexts), rtol=1e-4, atol=1e-4)


def test_an_unknown_node_is_not_there() -> None:
    model = SVDGCNS().fit(WORLD.data)
    known, with_unknown = model.score(
        WORLD.data.vocabulary.encode(
            [Context(("table_a", "extract")), Context(("table_a", "nobody", "extract"))]
        )
    )
    np.testing.assert_array_equal(known, with_unknown)


def test_a_node_counts_by_what_it_is_in() -> None:
    """Two worlds that share no node share no direction either."""
    rows = interactions(((2, 3), (2, 3, 4), (5, 6), (5, 8)))
    found = Features.of(rows, SpectrumOptions(rank=ALL), SERVICES)
    together = found.nodes @ found.services.T
    assert together.shape == (NODES, SERVICES)
    np.testing.assert_allclose(together[[2, 3, 4], 3:], 0, atol=1e-9)
    assert (together[2, :3] > 0).any()
