"""SVD-GCN-B: one learned matrix behind the features of SVD-GCN (Peng et al., CIKM 2022).

    z_x = p_x exp(beta s) W,   z_y = V_y exp(beta s) W,   s(y) = < z_x, z_y > + < L_f, T_y > + b_y

The features are those of SVD-GCN-S and stay as they are; W [K, D], the same on both sides, is trained
with BPR. The L2 term is on the projected vectors z of a batch, as in the paper. The terms of the last
node and the bias are not of the paper. With ``last``, the features tell the last node apart, too.

In: sets of nodes and their last. Out: scores [R, C]. The features, and how a context gets them:
``dagrec.models.bipartite.svdgcn_s`` and ``spectrum``.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import UNKNOWN, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import State, Traits
from dagrec.models.bipartite.spectrum import Features, SpectrumOptions
from dagrec.models.factorisation.base import (
    FactorNetwork,
    FactorOptions,
    SetInputs,
    SetRecommender,
    set_sums,
)
from dagrec.models.interactions import Interactions
from dagrec.training.data import TrainingData


class SVDGCNBConfig(SpectrumOptions, FactorOptions):
    """The spectrum, and the optimisation of W."""

    beta: float = Field(
        2.0, ge=0, le=40, description="features are weighted by exp(beta x singular value)"
    )


class SVDGCNBNetwork(FactorNetwork):
    """Fixed features, projected. nodes: [size, K]; features: [C, K]."""

    embeds: ClassVar[bool] = False
    nodes: Tensor
    features: Tensor

    def __init__(self, config: SVDGCNBConfig, features: Features, nodes: int) -> None:
        super().__init__(config, nodes, len(features.services))
        self.alpha = config.alpha
        # Where a node's column stands that says it is the last; none without `last`.
        self.marks = nodes if config.last else None
        self.register_buffer("nodes", torch.from_numpy(features.nodes.astype(np.float32)))
        self.register_buffer("features", torch.from_numpy(features.services.astype(np.float32)))
        self.weight = nn.Parameter(torch.empty(self.features.shape[1], config.width))
        nn.init.xavier_uniform_(self.weight)

    def own(self, inputs: SetInputs) -> Tensor:
        """[R, D], z of the contexts."""
        sums = set_sums(self.nodes[inputs.nodes], inputs)
        sizes = inputs.sizes
        if self.marks is not None:
            # No row has the mark of an unknown node, whose column is 0.
            sums = sums + self.nodes[self.marks + inputs.last]
            sizes = sizes + (inputs.last > UNKNOWN)
        places = sums / (sizes[:, None] + self.alpha).sqrt()
        return places @ self.weight

    def own_services(self) -> Tensor:
        """[C, D], z of the services."""
        return self.features @ self.weight

    def match(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        return self.own(inputs), self.own_services()


class SVDGCNB(SetRecommender):
    """Singular vectors, seen through a matrix that is learned."""

    name = "svdgcn_b"
    paper = "Peng et al. 2022, arXiv 2208.12689"
    Config = SVDGCNBConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: SVDGCNBConfig

    _stored: Features | None = None

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> SVDGCNBNetwork:
        if data is None:
            features = self._fitted(self._stored)
        else:
            rows = Interactions.of_examples(data, self.config)
            features = Features.of(rows, self.config, len(vocabulary.services))
        return SVDGCNBNetwork(self.config, features, len(vocabulary))

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        found = Features(state["nodes"].astype(np.float64), state["features"].astype(np.float64))
        if not found.fits(len(vocabulary) * (1 + self.config.last), len(vocabulary.services)):
            raise ValueError("features that do not belong to the vocabulary")
        self._stored = found
        super()._restore(state, vocabulary, graph)
