"""The singular value decomposition of a normalised interaction matrix, and fold-in of new rows.

    R~ = (D_u + alpha)^-1/2 R (D_i + alpha)^-1/2 = U S V^T,   truncated to the largest singular values

D_u are the numbers of columns of the rows, D_i the numbers of rows of the columns. alpha = 0 is the
normalisation of LightGCN, with largest singular value 1. alpha > 0 makes all singular values smaller
than 1, and reduces the influence of rare columns most.

n equal rows are merged into one, multiplied by sqrt(n), which leaves R~^T R~ and so S and V unchanged.
A new row r~, normalised like a row of the matrix, has the coordinates p = r~ V S^-1; for a row of the
matrix this is its row of U. So U is not computed: S and V follow from the eigenvalues of R~^T R~, whose
size does not depend on the number of rows. No torch is needed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.interactions import Interactions, SetOptions
from dagrec.types import Floats

TIE_TOLERANCE = 1e-6
"""Singular values that differ by less than this are treated as equal."""


class SpectrumOptions(SetOptions):
    """Hyperparameters of the normalisation and of the weights of singular values."""

    rank: int = Field(
        60,
        ge=1,
        description="number of the largest singular values that are used; fewer if fewer are positive, "
        "and more if others are equal to the last of them",
    )
    alpha: float = Field(
        3.0, ge=0, le=1e6, description="added to the degrees; higher: rare nodes weigh less"
    )
    beta: float = Field(
        4.0, ge=0, le=40, description="features are weighted by exp(beta x singular value)"
    )


@dataclass(frozen=True)
class Spectrum:
    """The K largest singular values and the right singular vectors of R~.

    vectors: [size, K] V; values: [K] diagonal of S, descending and positive; scales: [size]
    (D_i + alpha)^-1/2, and 0 for a column that does not occur.
    """

    vectors: Floats
    values: Floats
    scales: Floats

    @classmethod
    def of(cls, rows: Interactions, *, rank: int, alpha: float) -> Spectrum:
        """Return the spectrum of the interaction matrix."""
        degrees = rows.totals()
        scales = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees + alpha, 1e-300)), 0)
        gram = replace(rows, weights=rows.weights / (rows.rows.lengths + alpha)).gram()
        squares, vectors = np.linalg.eigh(scales[:, None] * gram * scales)
        squares, vectors = squares[::-1], vectors[:, ::-1]
        positive = squares > squares[0] * rows.size * np.finfo(np.float64).eps
        values = np.sqrt(squares[positive])
        # Equal singular values are kept or dropped together, because the basis of their space is
        # arbitrary.
        selected = values >= values[min(rank, len(values)) - 1] - TIE_TOLERANCE
        vectors = np.ascontiguousarray(vectors[:, positive][:, selected])
        return cls(vectors, values[selected], scales)

    @property
    def projection(self) -> Floats:
        """(D_i + alpha)^-1/2 V S^-1 [size, K]: maps a row to p, except for the row's normalisation."""
        projection: Floats = self.scales[:, None] * self.vectors / self.values
        return projection


@dataclass(frozen=True)
class Features:
    """The features of SVD-GCN.

    nodes: [size, K] the contribution of each column to the features p exp(beta s) of a context, which
    are the sum of the contributions divided by (|x| + alpha)^1/2; services: [C, K] the features
    V exp(beta s) of the services.
    """

    nodes: Floats
    services: Floats

    @classmethod
    def of(cls, rows: Interactions, options: SpectrumOptions, services: int) -> Features:
        """Return the features from the interaction matrix."""
        spectrum = Spectrum.of(rows, rank=options.rank, alpha=options.alpha)
        weights = np.exp(options.beta * spectrum.values)
        service_vectors = spectrum.vectors[FIRST_SERVICE : FIRST_SERVICE + services]
        return cls(spectrum.projection * weights, service_vectors * weights)

    def has_shape(self, size: int, services: int) -> bool:
        """Return whether the features are of this number of columns and of services."""
        rank = self.nodes.shape[-1]
        return self.nodes.shape == (size, rank) and self.services.shape == (services, rank)
