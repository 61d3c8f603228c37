from __future__ import annotations

import io
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.spatial.distance import cdist
from sklearn.metrics.pairwise import cosine_similarity

from dagrec.errors import MissingPackageError
from dagrec.evaluation.plots import embedding, short_name
from dagrec.evaluation.projection import PERPLEXITY, Points, mean_cosine, pca, tsne
from dagrec.types import Floats

CLUSTERS = np.repeat(np.arange(3), 20)


def clusters(spread: float = 2.0, width: int = 8) -> Floats:
    """Three clusters of twenty points; ``spread`` is the standard deviation of their centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, width)) * spread
    vectors: Floats = centres[CLUSTERS] + rng.normal(size=(len(CLUSTERS), width))
    return vectors


# Mean cosine


def test_mean_cosine_matches_scikit_learn() -> None:
    vectors = np.random.default_rng(1).normal(size=(7, 4)) + 0.5
    pairs = cosine_similarity(vectors)[np.triu_indices(7, 1)]
    assert mean_cosine(vectors) == pytest.approx(pairs.mean())


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([[1, 2], [2, 4], [0.5, 1]], 1),
        ([[1, 0], [0, 1]], 0),
        ([[1, 0], [-3, 0]], -1),
        ([[1, 0], [1, 0], [0, 0]], 1 / 3),
        ([[0, 0], [0, 0]], 0),
    ],
    ids=["collapsed", "orthogonal", "opposite", "one of zeros", "all of zeros"],
)
def test_mean_cosine_of_known_vectors(vectors: list[list[float]], expected: float) -> None:
    assert mean_cosine(np.array(vectors, dtype=np.float64)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 1])
def test_mean_cosine_of_less_than_two_vectors_is_none(n: int) -> None:
    assert mean_cosine(np.ones((n, 3))) is None


# PCA


def test_pca_by_hand() -> None:
    """The corners of a 6 by 2 rectangle, rotated by 45 degrees: variances 9 and 1 along its sides."""
    corners = np.array([[3.0, 1], [3, -1], [-3, 1], [-3, -1]])
    rotated = corners @ np.array([[1, 1, 0], [-1, 1, 0]]) / np.sqrt(2) + [5, 7, 9]
    layout = pca(rotated)
    assert layout.shares == pytest.approx([0.9, 0.1])
    np.testing.assert_allclose(np.abs(layout.points), [[3, 1]] * 4)
    np.testing.assert_allclose(layout.points[:, 0], corners[:, 0])


def test_pca_has_deterministic_signs() -> None:
    """X and -X have the same axes and opposite coordinates."""
    vectors = clusters()
    np.testing.assert_allclose(pca(vectors).points, -pca(-vectors).points, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (5, 1), (3, 2), (1, 1)])
def test_pca_always_has_two_coordinates(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(0).normal(size=shape)
    layout = pca(vectors)
    assert layout.points.shape == (shape[0], 2)
    assert layout.shares.shape == (2,)
    assert layout.shares.sum() == pytest.approx(0 if shape[0] == 1 else 1)


def test_pca_of_equal_vectors_is_zero() -> None:
    layout = pca(np.full((6, 3), 0.1))
    assert not layout.points.any()
    assert not layout.shares.any()


def test_pca_of_vectors_with_single_element() -> None:
    layout = pca(np.array([[1.0], [2], [6]]))
    np.testing.assert_allclose(layout.points, [[-2, 0], [-1, 0], [3, 0]])
    assert layout.shares.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("draw", "module"), [(pca, "sklearn.decomposition"), (tsne, "sklearn.manifold")]
)
def test_missing_scikit_learn_error_names_extra(
    monkeypatch: pytest.MonkeyPatch, draw: Callable[[Floats], object], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=r"a plot of embeddings needs .*dagrec\[viz\]"):
        draw(clusters())
    assert mean_cosine(clusters()) is not None


# t-SNE


def test_tsne_separates_clusters() -> None:
    points = tsne(clusters(spread=4.0), perplexity=10).points
    distances = cdist(points, points)
    same = CLUSTERS[:, None] == CLUSTERS
    assert distances[same].max() < distances[~same].min()


def test_tsne_depends_on_seed() -> None:
    one, same, other = (tsne(clusters(), seed=seed).points for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_tsne_is_invariant_to_scale() -> None:
    """In single precision, distances of 1e-30 would be 0."""
    vectors = clusters(spread=4.0)
    expected = tsne(vectors, perplexity=10)
    layout = tsne(vectors * 2.0**-100, perplexity=10)
    np.testing.assert_allclose(layout.points, expected.points, rtol=1e-3, atol=1e-3)
    assert layout.kl == pytest.approx(expected.kl)
    assert 0 < layout.kl < 1


def test_perplexity_is_at_most_third_of_points() -> None:
    assert tsne(clusters()[:31]).perplexity == pytest.approx(10)
    assert tsne(np.random.default_rng(0).normal(size=(100, 3))).perplexity == PERPLEXITY


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((1, 4)),
        np.eye(3),
        np.zeros((12, 4)),
        np.repeat(np.eye(4), 9, axis=0),
        np.arange(20.0)[:, None],
        np.eye(10) * 1e150,
        np.array([[0.0], [1e-9], [2e-9], [1e9], [1e9 + 1]]),
    ],
    ids=["one", "three", "equal", "twins", "a line", "huge", "scales"],
)
def test_tsne_of_degenerate_vectors_is_finite(vectors: Floats) -> None:
    layout = tsne(vectors)
    assert layout.points.shape == (len(vectors), 2)
    assert np.isfinite(layout.points).all()
    assert np.isfinite(layout.kl)


# Plots


def points(n: int = 60) -> Points:
    kinds = tuple("service" if i % 3 else "other" for i in range(n))
    counts = np.arange(n, dtype=np.float64)
    return Points(clusters()[:n], tuple(f"node_{i}" for i in range(n)), kinds, counts, n)


def test_embedding_plot_is_deterministic() -> None:
    by_kind = embedding(points(), "model", "kind")
    assert by_kind == embedding(points(), "model", "kind")
    assert by_kind != embedding(points(), "model", "popularity")
    image = imread(io.BytesIO(by_kind), format="png")
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 20


def test_embedding_plot_of_two_nodes() -> None:
    assert embedding(points(2), "model", "popularity").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("service_308", "service_308"),
        ("n8n-nodes-base.httpRequest", "httpRequest"),
        ("@n8n/n8n-nodes-langchain.agent", "agent"),
        ("toolshed.g2.bx.psu.edu/repos/devteam/fastqc/fastqc/0.72+galaxy1", "fastqc"),
        ("__input__", "__input__"),
        ("0.5/1.0", "0"),
        ("ends.", "ends."),
        ("a" * 30, "a" * 25 + "…"),
        ("[/b]", "b]"),
    ],
)
def test_short_name(key: str, expected: str) -> None:
    assert short_name(key) == expected


@settings(max_examples=30)
@given(st.text(max_size=60))
def test_short_name_is_bounded_and_not_empty(key: str) -> None:
    assert len(short_name(key)) <= 26
    assert bool(short_name(key)) == bool(key)
