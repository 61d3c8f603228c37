"""Layouts of embeddings in two dimensions, by PCA and t-SNE, and their mean cosine.

PCA and t-SNE are those of scikit-learn, which is imported on first use.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dagrec.errors import missing_package
from dagrec.types import Floats

PERPLEXITY = 30.0
ITERATIONS = 750
INITIAL_STD = 1e-4
"""The standard deviation of the first coordinate in the initial layout of t-SNE."""
MIN_POINTS = 4
"""The smallest number of points for t-SNE; fewer points are laid out by PCA."""
FEATURE = "a plot of embeddings"


@dataclass(frozen=True)
class Points:
    """n nodes to plot: their vectors [n, D], keys, kinds and counts.

    ``total`` is the number of all nodes, of which these are the most frequent ones.
    """

    vectors: Floats
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    counts: Floats
    total: int


@dataclass(frozen=True)
class PcaLayout:
    """points: [n, 2] coordinates; shares: [2] share of the variance that each coordinate explains."""

    points: Floats
    shares: Floats


@dataclass(frozen=True)
class TsneLayout:
    """points: [n, 2] coordinates; kl: final KL divergence in nats; perplexity: as used."""

    points: Floats
    kl: float
    perplexity: float


def mean_cosine(vectors: Floats) -> float | None:
    """Return the mean cosine of all pairs of different rows, or None if there are less than two rows.

    The cosine with a row of zeros is 0.
    """
    n = len(vectors)
    if n < 2:
        return None
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    num_units = float((lengths > 0).sum())
    return float((np.square(units.sum(axis=0)).sum() - num_units) / (n * (n - 1)))


def pca(vectors: Floats) -> PcaLayout:
    """Project vectors on the two directions with the largest variance.

    The largest weight of each direction is positive. If there are less than two directions (a single
    point, or vectors with a single element), the missing coordinates are 0.
    """
    try:
        from sklearn.decomposition import PCA
    except ModuleNotFoundError as error:
        raise missing_package(FEATURE, error, "viz") from None

    if not np.ptp(vectors, axis=0).any():  # equal points have no variance to explain
        return PcaLayout(np.zeros((len(vectors), 2)), np.zeros(2))
    model = PCA(min(2, *vectors.shape), svd_solver="full")
    points = model.fit_transform(vectors)
    missing = (0, 2 - points.shape[1])
    return PcaLayout(
        np.pad(points, ((0, 0), missing)), np.pad(model.explained_variance_ratio_, missing)
    )


def tsne(vectors: Floats, *, perplexity: float = PERPLEXITY, seed: int = 0) -> TsneLayout:
    """Compute a layout that preserves neighbourhoods, by exact t-SNE with PCA as the initial layout.

    The perplexity is at most a third of the number of other points. Less than four points are laid out
    by PCA.
    """
    try:
        from sklearn.manifold import TSNE
    except ModuleNotFoundError as error:
        raise missing_package(FEATURE, error, "viz") from None

    initial = pca(vectors).points
    if len(vectors) < MIN_POINTS:
        return TsneLayout(initial, 0.0, 0.0)
    # Noise is added, because t-SNE does not separate points with equal coordinates.
    noise = np.random.default_rng(seed).normal(size=initial.shape) * INITIAL_STD / 100
    model = TSNE(
        perplexity=min(perplexity, (len(vectors) - 1) / 3),
        max_iter=ITERATIONS,
        init=initial / (initial[:, 0].std() or 1.0) * INITIAL_STD + noise,
        random_state=seed,
        method="exact",
    )
    # The vectors are scaled, because scikit-learn computes distances in single precision.
    points = model.fit_transform(vectors / (np.abs(vectors).max() or 1.0))
    return TsneLayout(points.astype(np.float64), float(model.kl_divergence_), model.perplexity)


__all__ = ["PcaLayout", "Points", "TsneLayout", "mean_cosine", "pca", "tsne"]
