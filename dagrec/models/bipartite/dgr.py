"""DGR: graph convolutions kept from smoothing all vectors into one (Ding et al. 2024).

    e^(k) = (1 + a_k) A e^(k-1) - a_k Pi A e^(k-1),   z = 1 / (K + 1) sum_{k=0..K} e^(k)
    L = L_BPR + l1 sum_{j in N(y)} w_yj -log sigmoid(< z_x, z_j >)
              - l2 sum_{j in M(y)} w_yj -log sigmoid(< z_x, z_j >)

From afar: Pi = d d^T / |d|^2, where d are the square roots of the rows' degrees, is where A^n e tends
to, the same vector for all rows but for their degrees. This part is kept as it is, and all else grows
by 1 + a_k. Pi is never built: d^T e is one vector of the whole graph, and each row subtracts its own d
times it. So does a context, though its degree is in no sum. The authors' program sums the degrees and
takes twice that, which subtracts half of Pi; here it is the projector itself. (A bipartite graph has a
second direction that does not fade, with eigenvalue -1. DGR leaves it.)

Nearby: N(y) are the services that occur most with y, M(y) the least of those that occur with it at all.
    w_ij = G_ij / sqrt((g_i + 1)(g_j + 1)),   G = R^T R,   g_i = sum_j G_ij
As only services are scored, only they are neighbours, but g counts all nodes. y itself is none: its own
score is what BPR raises. M(y) is empty where less than three times as many services occur with y, as in
the authors' program, so that no service is in both. The sums are those of a pair, and added to BPR's
loss of the pair; in the authors' program BPR is a mean over the batch and these are sums, so l1 = 0.01
there is 0.01 times the size of the batch here.

The graph, A, and how a context that is no user of it is folded in: ``dagrec.models.bipartite.graph``.
In: sets of nodes and their last. Out: scores [R, C].
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
    Rows,
)
from dagrec.models.factorisation.base import SetInputs
from dagrec.models.interactions import Interactions
from dagrec.types import Floats, Ids

Alpha = Annotated[float, Field(ge=0, le=10)]
MARGIN = 3
"""Marginal neighbours are told where so many times their number occur with a service."""


class DGRConfig(BipartiteOptions):
    """Both corrections, beside the options of all bipartite networks."""

    layers: int = Field(3, ge=0, le=16, description="times that vectors are propagated")
    alphas: Alpha | tuple[Alpha, ...] = Field(
        (0.1, 1.1, 0.0),
        description="by how much each layer raises all but the smoothest direction: one number for "
        "each, or one for all",
    )
    neighbours: int = Field(10, ge=1, description="services of a correction nearby, at most")
    neighbour_weight: float = Field(
        1e-2, ge=0, description="l1: how much a context is drawn to the neighbours of its target"
    )
    marginal_weight: float = Field(
        5e-6, ge=0, description="l2: how much it is drawn away from marginal neighbours"
    )

    @model_validator(mode="after")
    def _one_alpha_a_layer(self) -> Self:
        if isinstance(self.alphas, tuple) and len(self.alphas) != self.layers:
            raise ValueError(
                f"alphas must be one number, or one for each of {self.layers} layers, "
                f"found {len(self.alphas)}"
            )
        return self


class DGRNetwork(BipartiteNetwork):
    """What is heard, with its smoothest part held back, and the mean of all layers.

    strongest, marginal: [C, k] columns of neighbours, with their weights; 0 where there are fewer.
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
        own = similarities(interactions, services)
        # They follow from the graph, which is stored.
        for name, found in (
            ("strongest", strongest(own, config.neighbours)),
            ("marginal", marginal(own, config.neighbours)),
        ):
            columns, weights = found
            self.register_buffer(name, torch.from_numpy(columns), persistent=False)
            weights32 = torch.from_numpy(weights.astype(np.float32))
            self.register_buffer(f"{name}_weights", weights32, persistent=False)

    def summary(self, heard: Tensor, roots: Tensor) -> Tensor:
        """[1, D], d^T e / |d|^2."""
        return roots.T @ heard / roots.square().sum()

    def layer(self, number: int, rows: Rows, summary: Tensor | None) -> Tensor:
        assert summary is not None
        alpha = self.alphas[number]
        return (1 + alpha) * rows.heard - alpha * rows.roots * summary

    def penalty(
        self, inputs: SetInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        found = super().penalty(inputs, states, rows, columns)
        if not self.neighbour_weight and not self.marginal_weight:
            return found
        (items,) = self._items
        # In full precision where the rest is not.
        contexts, items = states.to(self.strongest_weights), items.to(self.strongest_weights)
        losses = -functional.logsigmoid(contexts[:, : items.shape[1]] @ items.T)

        def total(neighbours: Tensor, weights: Tensor) -> Tensor:
            return (losses[rows[:, None], neighbours[columns]] * weights[columns]).sum(dim=1)

        near = self.neighbour_weight * total(self.strongest, self.strongest_weights)
        far = self.marginal_weight * total(self.marginal, self.marginal_weights)
        return near - far if found is None else found + near - far


class DGR(BipartiteRecommender):
    """Propagation that does not smooth everything away."""

    name = "dgr"
    paper = "Ding et al. 2024, arXiv 2403.04287"
    Config = DGRConfig
    network = DGRNetwork
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: DGRConfig


def similarities(interactions: Interactions, services: int) -> Floats:
    """[C, C], w of each two services; 0 where they never occur together, and for a service itself."""
    together = interactions.gram()
    roots = np.sqrt(together.sum(axis=1) + 1)
    own = slice(FIRST_SERVICE, FIRST_SERVICE + services)
    found: Floats = (together / (roots[:, None] * roots))[own, own]
    np.fill_diagonal(found, 0)
    return found


def strongest(similarity: Floats, k: int) -> tuple[Ids, Floats]:
    """[C, k] columns of the largest weights of each row, and these; with weight 0 where there are
    fewer."""
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(similarity, order, axis=1)


def marginal(similarity: Floats, k: int) -> tuple[Ids, Floats]:
    """[C, k] columns of the least weights above 0 of each row, and these; with weight 0 where there are
    not three times as many."""
    above = similarity > 0
    order = np.argsort(np.where(above, similarity, np.inf), axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(similarity, order, axis=1)
    return order, np.where(above.sum(axis=1, keepdims=True) >= MARGIN * k, found, 0)
