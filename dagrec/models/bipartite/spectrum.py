"""The spectrum of an interaction matrix, and how a new row finds its place in it. Without torch.

    R~ = (D_u + alpha)^-1/2 R (D_i + alpha)^-1/2 = U S V^T,   the largest singular values alone

D_u counts the columns of a row, D_i the rows of a column. alpha = 0 is the normalisation of LightGCN,
with a largest singular value of 1; alpha > 0 brings all below 1, and those of rare columns most.

n equal rows are one here, multiplied by sqrt(n): R~^T R~ is the same, and so are S and V. A new row r~,
normalised as a row of the matrix, has the place p = r~ V S^-1, which for a row of the matrix is its row
of U. So U is never computed: S and V are those of the eigenvalues of R~^T R~, whose size does not grow
with the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.interactions import Interactions, SetOptions
from dagrec.types import Floats

TIE = 1e-6
"""Singular values that are closer than this cannot be told apart."""


class SpectrumOptions(SetOptions):
    """How the matrix is normalised, and what its singular values weigh."""

    rank: int = Field(
        60,
        ge=1,
        description="largest singular values that are kept; fewer where there are fewer above 0, and "
        "more where others are equal to the last of them",
    )
    alpha: float = Field(
        3.0, ge=0, le=1e6, description="added to the degrees: the more, the less rare nodes count"
    )
    beta: float = Field(
        4.0, ge=0, le=40, description="features are weighted by exp(beta x singular value)"
    )


@dataclass(frozen=True)
class Spectrum:
    """vectors: [size, K], the columns of V; values: [K], descending, above 0; scales: [size],
    (D_i + alpha)^-1/2, and 0 for a column that no row has."""

    vectors: Floats
    values: Floats
    scales: Floats

    @classmethod
    def of(cls, rows: Interactions, *, rank: int, alpha: float) -> Spectrum:
        degrees = rows.totals()
        scales = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees + alpha, 1e-300)), 0)
        gram = replace(rows, weights=rows.weights / (rows.rows.lengths + alpha)).gram()
        squares, vectors = np.linalg.eigh(scales[:, None] * gram * scales)
        squares, vectors = squares[::-1], vectors[:, ::-1]
        above = squares > squares[0] * rows.size * np.finfo(np.float64).eps
        values = np.sqrt(squares[above])
        # A cut among equals would keep a basis of their space that no theory tells from others.
        kept = values >= values[min(rank, len(values)) - 1] - TIE
        return cls(np.ascontiguousarray(vectors[:, above][:, kept]), values[kept], scales)

    @property
    def parts(self) -> Floats:
        """[size, K]: what each column of a row adds to its place, but for the row's normalisation."""
        found: Floats = self.scales[:, None] * self.vectors / self.values
        return found


@dataclass(frozen=True)
class Features:
    """What SVD-GCN knows of contexts and services.

    nodes: [size, K], what a node adds to the features of a context, p exp(beta s), which are the sum of
    these over (|x| + alpha)^1/2; services: [C, K], their features V exp(beta s).
    """

    nodes: Floats
    services: Floats

    @classmethod
    def of(cls, rows: Interactions, options: SpectrumOptions, services: int) -> Features:
        found = Spectrum.of(rows, rank=options.rank, alpha=options.alpha)
        weights = np.exp(options.beta * found.values)
        return cls(
            found.parts * weights, found.vectors[FIRST_SERVICE : FIRST_SERVICE + services] * weights
        )

    def fits(self, size: int, services: int) -> bool:
        """Whether they are of ``size`` columns and so many services."""
        rank = self.nodes.shape[-1]
        return self.nodes.shape == (size, rank) and self.services.shape == (services, rank)
