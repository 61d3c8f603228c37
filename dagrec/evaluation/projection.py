"""Vectors in two dimensions, by PCA and t-SNE, and how much they point the same way.

PCA and t-SNE are those of scikit-learn, which is imported when a picture is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dagrec.errors import missing_package
from dagrec.types import Floats

PERPLEXITY = 30.0
ITERATIONS = 750
INITIAL_STD = 1e-4
"""Standard deviation of the first coordinate before the first iteration of t-SNE."""
MIN_POINTS = 4
"""The fewest points that t-SNE lays out; fewer are laid out by PCA."""
PICTURE = "a picture of embeddings"


@dataclass(frozen=True)
class Points:
    """n nodes with their vectors [n, D], and what a picture shows of them.

    ``total`` is the number of all nodes, of which only the most frequent ones are shown.
    """

    vectors: Floats
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    counts: Floats
    total: int


@dataclass(frozen=True)
class PcaLayout:
    """points: [n, 2] coordinates; shares: [2] share of the variance that each one explains."""

    points: Floats
    shares: Floats


@dataclass(frozen=True)
class TsneLayout:
    """points: [n, 2] coordinates; kl: the remaining divergence in nats; perplexity: the one used."""

    points: Floats
    kl: float
    perplexity: float


def mean_cosine(vectors: Floats) -> float | None:
    """The mean cosine of two different rows; 1 where all point the same way, None without two rows.

    The cosines of a row of zeros count as 0.
    """
    n = len(vectors)
    if n < 2:
        return None
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    own = float((lengths > 0).sum())
    return float((np.square(units.sum(axis=0)).sum() - own) / (n * (n - 1)))


def pca(vectors: Floats) -> PcaLayout:
    """The projection on the two directions of the largest variance.

    The largest weight of each direction is positive. Where there are fewer than two directions (one
    point, or vectors of one number), the missing coordinates are 0.
    """
    try:
        from sklearn.decomposition import PCA
    except ModuleNotFoundError as error:
        raise missing_package(PICTURE, error, "viz") from None

    if not np.ptp(vectors, axis=0).any():  # equal points have no variance to explain
        return PcaLayout(np.zeros((len(vectors), 2)), np.zeros(2))
    model = PCA(min(2, *vectors.shape), svd_solver="full")
    points = model.fit_transform(vectors)
    missing = (0, 2 - points.shape[1])
    return PcaLayout(
        np.pad(points, ((0, 0), missing)), np.pad(model.explained_variance_ratio_, missing)
    )


def tsne(vectors: Floats, *, perplexity: float = PERPLEXITY, seed: int = 0) -> TsneLayout:
    """A layout in which neighbours stay neighbours, by exact t-SNE that starts from PCA.

    The perplexity is at most a third of the other points. Fewer than four points are laid out by PCA.
    """
    try:
        from sklearn.manifold import TSNE
    except ModuleNotFoundError as error:
        raise missing_package(PICTURE, error, "viz") from None

    first = pca(vectors).points
    if len(vectors) < MIN_POINTS:
        return TsneLayout(first, 0.0, 0.0)
    # A little noise, because t-SNE never leaves an axis on which all coordinates are equal.
    noise = np.random.default_rng(seed).normal(size=first.shape) * INITIAL_STD / 100
    model = TSNE(
        perplexity=min(perplexity, (len(vectors) - 1) / 3),
        max_iter=ITERATIONS,
        init=first / (first[:, 0].std() or 1.0) * INITIAL_STD + noise,
        random_state=seed,
        method="exact",
    )
    # The layout does not depend on the scale, but scikit-learn computes distances in single precision.
    points = model.fit_transform(vectors / (np.abs(vectors).max() or 1.0))
    return TsneLayout(points.astype(np.float64), float(model.kl_divergence_), model.perplexity)


__all__ = ["PcaLayout", "Points", "TsneLayout", "mean_cosine", "pca", "tsne"]
