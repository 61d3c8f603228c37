from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics.pairwise import cosine_similarity

from dagrec.evaluation.plots import embedding, short
from dagrec.evaluation.projection import (
    EXAGGERATION,
    PERPLEXITY,
    Points,
    affinities,
    conditionals,
    descend,
    divergence,
    gradient,
    mean_cosine,
    pca,
    squared_distances,
    tsne,
)
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


def test_pca_is_that_of_scikit_learn() -> None:
    vectors = clusters()
    theirs = PCA(2, svd_solver="full").fit(vectors)
    found = pca(vectors)
    assert found.shares == pytest.approx(theirs.explained_variance_ratio_)
    expected = theirs.transform(vectors)
    signs = np.sign((found.points * expected).sum(axis=0))
    np.testing.assert_allclose(found.points, expected * signs, atol=1e-9)


def test_the_signs_of_pca_are_settled() -> None:
    """X and -X have the same axes, and so mirrored coordinates."""
    vectors = clusters()
    np.testing.assert_allclose(pca(vectors).points, -pca(-vectors).points, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 3), (2, 3), (5, 1), (3, 2)])
def test_pca_always_has_two_coordinates(shape: tuple[int, int]) -> None:
    vectors = np.random.default_rng(0).normal(size=shape)
    found = pca(vectors)
    assert found.points.shape == (shape[0], 2)
    assert found.shares.shape == (2,)
    assert found.shares.sum() == pytest.approx(0 if shape[0] == 1 else 1)


# t-SNE


@pytest.mark.parametrize("perplexity", [2.0, 5.0, 19.0])
def test_the_perplexity_of_every_row_is_the_one_asked_for(perplexity: float) -> None:
    found = conditionals(clusters(), perplexity)
    logs = np.log2(np.where(found > 0, found, 1))
    entropies = -(found * logs).sum(axis=1)
    assert 2**entropies == pytest.approx(np.full(60, perplexity), rel=1e-6)
    assert found.sum(axis=1) == pytest.approx(np.ones(60))
    assert not found.diagonal().any()


def test_a_row_of_affinities_falls_with_the_distance_as_a_gaussian() -> None:
    vectors = clusters()
    found, distances = conditionals(vectors, 10.0), squared_distances(vectors)
    for i in range(3):
        others = np.delete(np.arange(60), i)
        near = others[found[i, others] > 1e-9]
        slope = np.polyfit(distances[i, near], np.log(found[i, near]), 1)[0]
        line = slope * (distances[i, near] - distances[i, near[0]])
        assert slope < 0
        assert np.log(found[i, near] / found[i, near[0]]) == pytest.approx(line, abs=1e-6)


def test_affinities_are_symmetric_and_add_up_to_one() -> None:
    p = affinities(clusters(), 10.0)
    assert p.sum() == pytest.approx(1)
    assert np.array_equal(p, p.T)
    assert (p.sum(axis=1) >= 1 / 120).all(), "a point without weight has no place"


def test_affinities_do_not_know_the_scale() -> None:
    np.testing.assert_allclose(affinities(clusters() * 1e-3, 10.0), affinities(clusters(), 10.0))


def test_the_gradient_is_that_of_finite_differences() -> None:
    rng = np.random.default_rng(3)
    p, y = affinities(clusters(), 10.0), rng.normal(size=(60, 2))
    found = gradient(p, y)
    step = 1e-5
    for i, axis in [(0, 0), (7, 1), (31, 0), (59, 1)]:
        moved = np.zeros_like(y)
        moved[i, axis] = step
        slope = (divergence(p, y + moved) - divergence(p, y - moved)) / (2 * step)
        assert found[i, axis] == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_the_divergence_is_zero_where_p_is_q_and_falls_on_the_way() -> None:
    y = np.random.default_rng(4).normal(size=(12, 2))
    near = 1 / (1 + squared_distances(y))
    np.fill_diagonal(near, 0)
    assert divergence(near / near.sum(), y) == pytest.approx(0, abs=1e-12)
    p = affinities(clusters(), 10.0)
    start = np.random.default_rng(5).normal(size=(60, 2)) * 1e-4
    values = [divergence(p, descend(p, start, steps, 50.0, 0.8)) for steps in (0, 20, 60, 400)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < values[0] / 2


def test_the_divergence_that_is_left_is_about_that_of_scikit_learn() -> None:
    vectors = clusters()
    found = tsne(vectors, perplexity=10)
    theirs = TSNE(
        method="exact", init="pca", perplexity=10, max_iter=750, early_exaggeration=EXAGGERATION
    ).fit(vectors)
    assert found.kl == pytest.approx(theirs.kl_divergence_, rel=0.1)
    # Both count in the same way.
    own = divergence(affinities(vectors, 10.0), theirs.embedding_.astype(np.float64))
    assert own == pytest.approx(theirs.kl_divergence_, rel=1e-3)


def test_clusters_stay_apart() -> None:
    distances = np.sqrt(squared_distances(tsne(clusters(apart=4.0), perplexity=10).points))
    same = CLUSTERS[:, None] == CLUSTERS
    assert distances[same].max() < distances[~same].min()


def test_equal_seeds_give_equal_layouts() -> None:
    one, same, other = (tsne(clusters(), seed=seed).points for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


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
