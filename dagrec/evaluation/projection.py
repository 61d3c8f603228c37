"""Vectors in two dimensions, and how much they point the same way.

PCA: rows X [n, D], centred, X = U S W^T; the coordinates are X W of the two largest singular values.

t-SNE (van der Maaten and Hinton 2008), exact, n^2 in time and memory. Affinities of n points

    p(j | i) ~ exp(-b_i |x_i - x_j|^2),   b_i such that 2^(entropy of p(. | i)) is the perplexity
    P = (p(j | i) + p(i | j)) / 2n        adds up to 1
    Q ~ 1 / (1 + |y_i - y_j|^2)           adds up to 1

and Y [n, 2] that minimise KL(P, Q), by gradient descent with momentum and a gain for each coordinate.
Chosen where the paper leaves room, as is usual today: P is exaggerated twelvefold at first (the paper:
fourfold), a step is n / 48 and 50 at least (Belkina et al. 2019), and Y starts as a tiny PCA, so that
the global layout is not drawn by lot (Kobak and Berens 2019). Distances are divided by their mean,
which changes no p.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dagrec.types import Floats

PERPLEXITY = 30.0
STEPS = 750
EXAGGERATED_STEPS = 250
EXAGGERATION = 12.0
FIRST_SPREAD = 1e-4
SEARCHES = 60
"""Halvings of the interval in which log b_i is looked for."""
TINY = 1e-12
MIN_POINTS = 4
"""Points that t-SNE can lay out: with fewer, neighbours are all there is."""


@dataclass(frozen=True)
class Points:
    """n nodes with their vectors [n, D], and what is told of them in a picture.

    ``total``: how many there are, where only the most frequent ones are shown.
    """

    vectors: Floats
    keys: tuple[str, ...]
    kinds: tuple[str, ...]
    counts: Floats
    total: int


@dataclass(frozen=True)
class Principal:
    """points: [n, 2] coordinates; shares: [2] of the variance that each explains."""

    points: Floats
    shares: Floats


@dataclass(frozen=True)
class Neighbourly:
    """points: [n, 2] coordinates; kl: the divergence that is left, in nats; perplexity: as used."""

    points: Floats
    kl: float
    perplexity: float


def mean_cosine(vectors: Floats) -> float | None:
    """The mean cosine of two different rows; 1 where all point the same way, None without two rows.

    A row of zeros points nowhere: its cosines are 0.
    """
    n = len(vectors)
    if n < 2:
        return None
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    own = float((lengths > 0).sum())
    return float((np.square(units.sum(axis=0)).sum() - own) / (n * (n - 1)))


def pca(vectors: Floats) -> Principal:
    """The two directions of the largest variance. Of each, the largest weight is positive."""
    centred = vectors - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    axes, sizes = axes[:2], np.square(sizes)
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.where(axes[np.arange(len(axes)), largest] < 0, -1.0, 1.0)[:, None]
    missing = 2 - len(axes)  # where vectors have one number, or there is one of them
    points = np.pad(centred @ axes.T, ((0, 0), (0, missing)))
    total = sizes.sum()
    shares = sizes[:2] / total if total > 0 else np.zeros(len(axes))
    return Principal(points, np.pad(shares, (0, missing)))


def tsne(vectors: Floats, *, perplexity: float = PERPLEXITY, seed: int = 0) -> Neighbourly:
    """Rows laid out such that neighbours stay neighbours.

    A perplexity of more than a third of the points is reduced to that. Fewer than four points are laid
    out by PCA.
    """
    n = len(vectors)
    first = pca(vectors).points
    if n < MIN_POINTS:
        return Neighbourly(first, 0.0, 0.0)
    perplexity = min(perplexity, (n - 1) / 3)
    p = affinities(vectors, perplexity)
    # Noise, since nothing else ever leaves an axis on which all points are 0.
    noise = np.random.default_rng(seed).normal(size=first.shape) * FIRST_SPREAD / 100
    y = first / max(float(first[:, 0].std()), TINY) * FIRST_SPREAD + noise
    rate = max(n / EXAGGERATION / 4, 50.0)
    y = descend(p * EXAGGERATION, y, EXAGGERATED_STEPS, rate, momentum=0.5)
    y = descend(p, y, STEPS - EXAGGERATED_STEPS, rate, momentum=0.8)
    return Neighbourly(y - y.mean(axis=0), divergence(p, y), perplexity)


def descend(p: Floats, y: Floats, steps: int, rate: float, momentum: float) -> Floats:
    """Y after so many steps from standing still."""
    speed, gains = np.zeros_like(y), np.ones_like(y)
    for _ in range(steps):
        slope = gradient(p, y)
        # Longer steps where a coordinate moves on downhill, shorter ones where it went too far.
        gains = np.where(slope * speed < 0, gains + 0.2, gains * 0.8).clip(min=0.01)
        speed = momentum * speed - rate * gains * slope
        y = y + speed
    return y


def squared_distances(rows: Floats) -> Floats:
    """[n, n]"""
    squares = np.square(rows).sum(axis=1)
    found: Floats = (-2 * rows) @ rows.T
    found += squares[:, None]
    found += squares
    np.maximum(found, 0, out=found)
    np.fill_diagonal(found, 0)
    return found


def conditionals(vectors: Floats, perplexity: float) -> Floats:
    """p(j | i) in row i: [n, n]."""
    distances = squared_distances(vectors)
    distances /= max(float(distances.mean()), TINY)
    np.fill_diagonal(distances, np.inf)
    # The nearest neighbour's becomes 0: the same p, and no row that vanishes.
    distances -= distances.min(axis=1, keepdims=True)
    n = len(distances)
    found = np.empty_like(distances)
    low, high = np.full((n, 1), -20.0), np.full((n, 1), 20.0)  # of log b
    for _ in range(SEARCHES):
        middle = (low + high) / 2
        found = np.exp(-np.exp(middle) * distances)
        found /= found.sum(axis=1, keepdims=True)
        entropies = -(found * np.log(np.maximum(found, TINY))).sum(axis=1, keepdims=True)
        wide = entropies > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return found


def affinities(vectors: Floats, perplexity: float) -> Floats:
    """P: [n, n], symmetric, of sum 1, and 0 on the diagonal."""
    found = conditionals(vectors, perplexity)
    joint: Floats = (found + found.T) / (2 * len(found))
    return joint


def _nearness(y: Floats) -> Floats:
    """1 / (1 + |y_i - y_j|^2), and 0 on the diagonal: Q but for its sum."""
    found = squared_distances(y)
    found += 1
    np.reciprocal(found, out=found)
    np.fill_diagonal(found, 0)
    return found


def gradient(p: Floats, y: Floats) -> Floats:
    """[n, 2] of KL(P, Q) by Y: 4 sum_j (p_ij - q_ij) (y_i - y_j) / (1 + |y_i - y_j|^2)."""
    near = _nearness(y)
    forces = near * (-1 / near.sum())
    forces += p
    forces *= near
    found: Floats = 4 * (forces.sum(axis=1, keepdims=True) * y - forces @ y)
    return found


def divergence(p: Floats, y: Floats) -> float:
    """KL(P, Q) in nats."""
    near = _nearness(y)
    q = near / near.sum()
    some = p > 0
    return float((p[some] * np.log(p[some] / np.maximum(q[some], TINY))).sum())


__all__ = ["Neighbourly", "Points", "Principal", "mean_cosine", "pca", "tsne"]
