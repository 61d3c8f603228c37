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
"""More than the number of singular values of any matrix here."""


def normalised_matrix(sets: tuple[tuple[int, ...], ...] = SETS, *, alpha: float) -> Floats:
    """Return R~ with one row per composition."""
    r = interactions(sets, merged=False).matrix().toarray()
    columns = np.maximum(r.sum(axis=0) + alpha, 1e-9)
    return np.asarray(r / np.sqrt((r.sum(axis=1) + alpha)[:, None] * columns))


def folded_in(spectrum: Spectrum, alpha: float) -> Floats:
    """Return the coordinates p of all compositions, folded in like new rows."""
    r = interactions(merged=False).matrix().toarray()
    return np.asarray(r @ spectrum.projection / np.sqrt(r.sum(axis=1, keepdims=True) + alpha))


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("merged", [True, False])
def test_spectrum_equals_svd_of_matrix_with_separate_rows(alpha: float, merged: bool) -> None:
    spectrum = Spectrum.of(interactions(merged=merged), rank=ALL, alpha=alpha)
    _, s, vt = np.linalg.svd(normalised_matrix(alpha=alpha))
    rank = len(spectrum.values)
    np.testing.assert_allclose(spectrum.values, s[:rank], atol=1e-7)
    np.testing.assert_allclose(s[rank:], 0, atol=1e-7)
    v = spectrum.vectors
    np.testing.assert_allclose(v @ v.T, vt[:rank].T @ vt[:rank], atol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_folded_in_composition_has_its_left_singular_vector(alpha: float) -> None:
    spectrum = Spectrum.of(interactions(), rank=3, alpha=alpha)
    u, s, vt = np.linalg.svd(normalised_matrix(alpha=alpha))
    signs = np.sign((spectrum.vectors * vt[:3].T).sum(axis=0))
    assert s[2] - s[3] > 0.01
    np.testing.assert_allclose(folded_in(spectrum, alpha) * signs, u[:, :3], atol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_full_spectrum_reconstructs_the_matrix(alpha: float) -> None:
    spectrum = Spectrum.of(interactions(), rank=ALL, alpha=alpha)
    reconstructed = folded_in(spectrum, alpha) * spectrum.values @ spectrum.vectors.T
    np.testing.assert_allclose(reconstructed, normalised_matrix(alpha=alpha), atol=1e-9)


def test_largest_singular_value_is_1_and_decreases_with_alpha() -> None:
    alphas = (0.0, 1e-3, 1.0, 5.0)
    largest = [Spectrum.of(interactions(), rank=1, alpha=alpha).values[0] for alpha in alphas]
    assert largest[0] == pytest.approx(1, abs=1e-12)
    assert (np.diff(largest) < 0).all()


def test_spectrum_excludes_zero_singular_values() -> None:
    """2 and 3 occur only together, so one of their two directions has singular value 0.

    The squared singular value of n rows with two nodes is 2 n / ((2 + 1) (n + 1)).
    """
    spectrum = Spectrum.of(interactions(((2, 3), (2, 3), (4, 5))), rank=ALL, alpha=1.0)
    np.testing.assert_allclose(spectrum.values**2, [2 * 2 / (3 * 3), 1 * 2 / (3 * 2)], atol=1e-12)


def test_rank_keeps_all_tied_singular_values() -> None:
    rows = interactions(((2, 3), (4, 5), (6, 7, 8)))
    assert Spectrum.of(rows, rank=1, alpha=0.0).values.tolist() == pytest.approx([1, 1, 1])
    assert Spectrum.of(rows, rank=1, alpha=1.0).values.tolist() == pytest.approx([np.sqrt(3 / 8)])


def test_projection_of_unused_columns_is_zero() -> None:
    spectrum = Spectrum.of(interactions(), rank=ALL, alpha=0.0)
    np.testing.assert_allclose(spectrum.projection[[0, 1, 7]], 0, atol=1e-12)


# Scores


def scores(options: SpectrumOptions, *, flipped: tuple[int, ...] = ()) -> Floats:
    """Return the scores of all compositions, with flipped signs of some singular vectors."""
    features = Features.of(interactions(), options, SERVICES)
    signs = np.ones(features.nodes.shape[1])
    signs[list(flipped)] = -1
    r = interactions(merged=False).matrix().toarray()
    x = r @ (features.nodes * signs) / np.sqrt(r.sum(axis=1, keepdims=True) + options.alpha)
    return np.asarray(x @ (features.services * signs).T)


def test_scores_with_beta_0_are_products_of_singular_vectors() -> None:
    u, _, vt = np.linalg.svd(normalised_matrix(alpha=1.5))
    expected = u[:, :3] @ vt[:3, FIRST_SERVICE : FIRST_SERVICE + SERVICES]
    actual = scores(SpectrumOptions(rank=3, alpha=1.5, beta=0))
    np.testing.assert_allclose(actual, expected, atol=1e-7)


def test_beta_weights_both_sides_by_singular_values() -> None:
    u, s, vt = np.linalg.svd(normalised_matrix(alpha=1.5))
    weighted = u[:, :3] * np.exp(2 * 1.3 * s[:3])
    expected = weighted @ vt[:3, FIRST_SERVICE : FIRST_SERVICE + SERVICES]
    actual = scores(SpectrumOptions(rank=3, alpha=1.5, beta=1.3))
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_scores_are_invariant_to_signs_of_singular_vectors() -> None:
    options = SpectrumOptions(rank=3, alpha=1.5, beta=1.3)
    np.testing.assert_allclose(scores(options, flipped=(0, 2)), scores(options), atol=1e-12)


@pytest.mark.parametrize("last", [True, False])
def test_model_scores_follow_formula(last: bool) -> None:
    options = SVDGCNSConfig(read="path", last=last, rank=7, alpha=2.0, beta=1.1)
    model = SVDGCNS(options).fit(WORLD.data)
    vocabulary = WORLD.data.vocabulary
    size, services = len(vocabulary), len(vocabulary.services)

    def row(path: tuple[str, ...], target: str | None) -> Floats:
        indicators = np.zeros(size * (1 + last))
        keys = path if target is None else (*path, target)
        indicators[[vocabulary.ids[key] for key in keys]] = 1
        if last:
            indicators[size + vocabulary.ids[path[-1]]] = 1
        return indicators

    training_rows = [row(e.context.path, e.target) for e in WORLD.examples]
    context_rows = [row(c.path, None) for c in WORLD.contexts]
    r = np.array([*training_rows, *context_rows])
    columns = np.array(training_rows).sum(axis=0)
    normalised = r / np.sqrt((r.sum(axis=1) + 2.0)[:, None] * (columns + 2.0))
    _, s, vt = np.linalg.svd(normalised[: len(training_rows)], full_matrices=False)
    selected = s >= s[6] - 1e-6
    p = normalised[len(training_rows) :] @ vt[selected].T / s[selected]
    weighted = p * np.exp(2 * 1.1 * s[selected])
    expected = weighted @ vt[selected][:, FIRST_SERVICE : FIRST_SERVICE + services]
    actual = model.score(vocabulary.encode(WORLD.contexts))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_equal_examples_are_counted_separately() -> None:
    """With alpha = 0, doubled rows scale the scores by sqrt(2)."""
    twice = TrainingData.of([*WORLD.examples, *WORLD.examples])
    options = SVDGCNSConfig(alpha=0)
    rows, doubled = (Interactions.of_examples(data, options) for data in (WORLD.data, twice))
    assert len(rows) == len(doubled)
    np.testing.assert_allclose(2 * rows.weights, doubled.weights)
    a, b = (SVDGCNS(options).fit(data) for data in (WORLD.data, twice))
    contexts = WORLD.data.vocabulary.encode(WORLD.contexts)
    np.testing.assert_allclose(a.score(contexts), np.sqrt(2) * b.score(contexts), rtol=1e-4, atol=1e-4)


def test_unknown_nodes_are_ignored() -> None:
    model = SVDGCNS().fit(WORLD.data)
    without, with_unknown = model.score(
        WORLD.data.vocabulary.encode(
            [Context(("table_a", "extract")), Context(("table_a", "unknown", "extract"))]
        )
    )
    np.testing.assert_array_equal(without, with_unknown)


def test_nodes_of_different_components_have_orthogonal_features() -> None:
    rows = interactions(((2, 3), (2, 3, 4), (5, 6), (5, 8)))
    features = Features.of(rows, SpectrumOptions(rank=ALL), SERVICES)
    products = features.nodes @ features.services.T
    assert products.shape == (NODES, SERVICES)
    np.testing.assert_allclose(products[[2, 3, 4], 3:], 0, atol=1e-9)
    assert (products[2, :3] > 0).any()
