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
from dagrec.evaluation.plots import embedding, short
from dagrec.evaluation.projection import PERPLEXITY, Points, mean_cosine, pca, tsne
from dagrec.types import Floats

CLUSTERS = np.repeat(np.arange(3), 20)


def clusters(apart: float = 2.0, width: int = 8) -> Floats:
    """Three clouds of twenty points, whose centres lie ``apart`` standard deviations apart or so."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, width)) * apart
    found: Floats = centres[CLUSTERS] + rng.normal(size=(len(CLUSTERS), width))
    return found


# Mean cosine


def test_the_mean_cosine_is_that_of_all_pairs() -> None:
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
def test_the_mean_cosine_of_known_vectors(vectors: list[list[float]], expected: float) -> None:
    assert mean_cosine(np.array(vectors, dtype=np.float64)) == pytest.approx(expected)


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_vectors_have_no_mean_cosine(n: int) -> None:
    assert mean_cosine(np.ones((n, 3))) is None


# PCA


def test_pca_by_hand() -> None:
    """Corners of a rectangle of 6 by 2, turned by 45 degrees: variances 9 and 1 along its sides."""
    corners = np.array([[3.0, 1], [3, -1], [-3, 1], [-3, -1]])
    turned = corners @ np.array([[1, 1, 0], [-1, 1, 0]]) / np.sqrt(2) + [5, 7, 9]
    found = pca(turned)
    assert found.shares == pytest.approx([0.9, 0.1])
    np.testing.assert_allclose(np.abs(found.points), [[3, 1]] * 4)
    np.testing.assert_allclose(found.points[:, 0], corners[:, 0])


def test_the_signs_of_pca_are_settled() -> None:
    """X and -X have the same axes, and so mirrored coordinates."""
    vectors = clusters()
    np.testing.assert_allclose(pca(vectors).points, -pca(-vectors).points, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (5, 1), (3, 2), (1, 1)])
def test_pca_always_has_two_coordinates(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(0).normal(size=shape)
    found = pca(vectors)
    assert found.points.shape == (shape[0], 2)
    assert found.shares.shape == (2,)
    assert found.shares.sum() == pytest.approx(0 if shape[0] == 1 else 1)


def test_equal_vectors_have_no_variance_to_share() -> None:
    found = pca(np.full((6, 3), 0.1))
    assert not found.points.any()
    assert not found.shares.any()


def test_the_one_coordinate_of_vectors_of_one_number_is_theirs() -> None:
    found = pca(np.array([[1.0], [2], [6]]))
    np.testing.assert_allclose(found.points, [[-2, 0], [-1, 0], [3, 0]])
    assert found.shares.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("draw", "module"), [(pca, "sklearn.decomposition"), (tsne, "sklearn.manifold")]
)
def test_without_scikit_learn_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, draw: Callable[[Floats], object], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=r"a picture of embeddings needs .*dagrec\[viz\]"):
        draw(clusters())
    assert mean_cosine(clusters()) is not None


# t-SNE


def test_clusters_stay_apart() -> None:
    points = tsne(clusters(apart=4.0), perplexity=10).points
    distances = cdist(points, points)
    same = CLUSTERS[:, None] == CLUSTERS
    assert distances[same].max() < distances[~same].min()


def test_equal_seeds_give_equal_layouts() -> None:
    one, same, other = (tsne(clusters(), seed=seed).points for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_layout_does_not_know_the_scale() -> None:
    """Single precision alone would make distances of 1e-30 zero."""
    vectors = clusters(apart=4.0)
    expected = tsne(vectors, perplexity=10)
    found = tsne(vectors * 2.0**-100, perplexity=10)
    np.testing.assert_allclose(found.points, expected.points, rtol=1e-3, atol=1e-3)
    assert found.kl == pytest.approx(expected.kl)
    assert 0 < found.kl < 1


def test_the_perplexity_is_at_most_a_third_of_the_points() -> None:
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
def test_odd_vectors_have_a_layout(vectors: Floats) -> None:
    found = tsne(vectors)
    assert found.points.shape == (len(vectors), 2)
    assert np.isfinite(found.points).all()
    assert np.isfinite(found.kl)


# The picture


def points(n: int = 60) -> Points:
    kinds = tuple("service" if i % 3 else "other" for i in range(n))
    counts = np.arange(n, dtype=np.float64)
    return Points(clusters()[:n], tuple(f"node_{i}" for i in range(n)), kinds, counts, n)


def test_a_picture_is_drawn_and_drawn_again() -> None:
    by_kind = embedding(points(), "model", "kind")
    assert by_kind == embedding(points(), "model", "kind")
    assert by_kind != embedding(points(), "model", "popularity")
    image = imread(io.BytesIO(by_kind), format="png")
    assert len(np.unique(image.reshape(-1, image.shape[2]), axis=0)) > 20


def test_two_nodes_have_a_picture() -> None:
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
def test_a_long_key_is_shown_by_its_telling_part(key: str, expected: str) -> None:
    assert short(key) == expected


@settings(max_examples=30)
@given(st.text(max_size=60))
def test_every_key_has_a_short_form(key: str) -> None:
    assert len(short(key)) <= 26
    assert bool(short(key)) == bool(key)
