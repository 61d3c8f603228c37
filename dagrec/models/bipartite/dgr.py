"""DGR: graph convolutions with less over-smoothing (Ding et al. 2024).

    e^(k) = (1 + a_k) A e^(k-1) - a_k Pi A e^(k-1),   z = 1 / (K + 1) sum_{k=0..K} e^(k)
    L = L_BPR + l1 sum_{j in N(y)} w_yj -log sigmoid(< z_x, z_j >)
              - l2 sum_{j in M(y)} w_yj -log sigmoid(< z_x, z_j >)

Global: Pi = d d^T / |d|^2, where d are the square roots of the rows' degrees, projects on the limit of
A^n e, in which all rows have the same vector except for their degrees. This component is unchanged, and
all others grow by 1 + a_k. Pi is not computed explicitly: d^T e is one vector for the whole graph, and
each row subtracts its own d times this vector. The same holds for a context, although its degree is not
in the sum. The authors' program sums the degrees and multiplies by two, which subtracts half of Pi;
here it is the exact projector. (A bipartite graph has a second direction that does not decay, with
eigenvalue -1; DGR does not change it.)

Local: N(y) are the services that co-occur most with y, and M(y) those that co-occur least with it, but
at least once.
    w_ij = G_ij / sqrt((g_i + 1)(g_j + 1)),   G = R^T R,   g_i = sum_j G_ij
Only services are neighbours, because only services are scored, but g counts all nodes. y is not its own
neighbour, because BPR already raises its score. M(y) is empty if fewer than three times as many
services co-occur with y, as in the authors' program, so N(y) and M(y) are disjoint. The sums are those
of one pair and are added to the BPR loss of the pair. In the authors' program BPR is a mean over the
batch and these are sums, so l1 = 0.01 there corresponds to 0.01 times the batch size here.

``dagrec.models.bipartite.graph`` defines the graph, A, and how a new context is folded in.
In: sets of nodes and their last nodes. Out: scores [R, C].
"""

from __future__ import annotations

from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from dagrec.data.vocabulary import FIRST_SERVICE
from dagrec.models.base import Traits
from dagrec.models.bipartite.graph import (
    BipartiteNetwork,
    BipartiteOptions,
    BipartiteRecommender,
    LayerInputs,
)
from dagrec.models.factorisation.base import SetInputs
from dagrec.models.interactions import Interactions
from dagrec.types import Floats, Ids

Alpha = Annotated[float, Field(ge=0, le=10)]
MIN_COOCCURRING = 3
"""M(y) is empty if fewer than this many times ``neighbours`` services co-occur with y."""


class DGRConfig(BipartiteOptions):
    """Hyperparameters of both corrections, of propagation, of factorisation and of training."""

    layers: int = Field(3, ge=0, le=16, description="number of propagation layers")
    alphas: Alpha | tuple[Alpha, ...] = Field(
        (0.1, 1.1, 0.0),
        description="amplification of all but the smoothest direction in each layer: one number per "
        "layer, or one for all",
    )
    neighbours: int = Field(
        10, ge=1, description="number of services in each local correction, at most"
    )
    neighbour_weight: float = Field(
        1e-2,
        ge=0,
        description="l1: weight of the loss that attracts a context to the neighbours of its target",
    )
    marginal_weight: float = Field(
        5e-6, ge=0, description="l2: weight of the loss that repels it from marginal neighbours"
    )

    @model_validator(mode="after")
    def _one_alpha_per_layer(self) -> Self:
        if isinstance(self.alphas, tuple) and len(self.alphas) != self.layers:
            raise ValueError(
                f"alphas must be one number, or one for each of {self.layers} layers, "
                f"found {len(self.alphas)}"
            )
        return self


class DGRNetwork(BipartiteNetwork):
    """Propagation that amplifies all but the smoothest component; z is the mean of all layers.

    strongest, marginal: [C, k] columns of the neighbours; strongest_weights, marginal_weights: [C, k]
    their weights, 0 if there are fewer.
    """

    strongest: Tensor
    strongest_weights: Tensor
    marginal: Tensor
    marginal_weights: Tensor

    def __init__(self, config: DGRConfig, interactions: Interactions, services: int) -> None:
        super().__init__(config, interactions, services)
        alphas = config.alphas
        self.alphas = alphas if isinstance(alphas, tuple) else (alphas,) * config.layers
        self.neighbour_weight = config.neighbour_weight
        self.marginal_weight = config.marginal_weight
        similarity = similarities(interactions, services)
        # The buffers are not stored, because they are computed from the graph, which is.
        for name, (columns, weights) in {
            "strongest": strongest(similarity, config.neighbours),
            "marginal": marginal(similarity, config.neighbours),
        }.items():
            self.register_buffer(name, torch.from_numpy(columns), persistent=False)
            weights32 = torch.from_numpy(weights.astype(np.float32))
            self.register_buffer(f"{name}_weights", weights32, persistent=False)

    def summary(self, aggregated: Tensor, sqrt_degrees: Tensor) -> Tensor:
        """Return d^T e / |d|^2: [1, D]."""
        return sqrt_degrees.T @ aggregated / sqrt_degrees.square().sum()

    def layer(self, number: int, rows: LayerInputs, summary: Tensor | None) -> Tensor:
        assert summary is not None
        alpha = self.alphas[number]
        return (1 + alpha) * rows.aggregated - alpha * rows.sqrt_degrees * summary

    def penalty(
        self, inputs: SetInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        l2_penalty = super().penalty(inputs, states, rows, columns)
        if not self.neighbour_weight and not self.marginal_weight:
            return l2_penalty
        (z_y,) = self._service_factors
        # Full precision, even if the rest has lower precision.
        z_x, z_y = states.to(self.strongest_weights), z_y.to(self.strongest_weights)
        losses = -functional.logsigmoid(z_x[:, : z_y.shape[1]] @ z_y.T)

        def total(neighbours: Tensor, weights: Tensor) -> Tensor:
            return (losses[rows[:, None], neighbours[columns]] * weights[columns]).sum(dim=1)

        attraction = self.neighbour_weight * total(self.strongest, self.strongest_weights)
        repulsion = self.marginal_weight * total(self.marginal, self.marginal_weights)
        if l2_penalty is None:
            return attraction - repulsion
        return l2_penalty + attraction - repulsion


class DGR(BipartiteRecommender):
    """LightGCN with a correction of over-smoothing in each layer and in the loss.

    Use it instead of LightGCN if more layers reduce the accuracy of LightGCN (over-smoothing).
    """

    name = "dgr"
    paper = "Ding et al. 2024, arXiv 2403.04287"
    Config = DGRConfig
    network = DGRNetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DGRConfig


def similarities(interactions: Interactions, services: int) -> Floats:
    """Return w of each pair of services [C, C]; 0 if they do not co-occur, and on the diagonal."""
    gram = interactions.gram()
    roots = np.sqrt(gram.sum(axis=1) + 1)
    of_services = slice(FIRST_SERVICE, FIRST_SERVICE + services)
    w: Floats = (gram / (roots[:, None] * roots))[of_services, of_services]
    np.fill_diagonal(w, 0)
    return w


def strongest(similarity: Floats, k: int) -> tuple[Ids, Floats]:
    """Return the columns and values [C, k] of the largest entries of each row.

    The values are 0 if there are fewer.
    """
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


def marginal(similarity: Floats, k: int) -> tuple[Ids, Floats]:
    """Return the columns and values [C, k] of the smallest positive entries of each row.

    The values are 0 if the row has fewer than ``MIN_COOCCURRING`` times k positive entries.
    """
    positive = similarity > 0
    order = np.argsort(np.where(positive, similarity, np.inf), axis=1, kind="stable")[:, :k]
    values = np.take_along_axis(similarity, order, axis=1)
    return order, np.where(positive.sum(axis=1, keepdims=True) >= MIN_COOCCURRING * k, values, 0)
