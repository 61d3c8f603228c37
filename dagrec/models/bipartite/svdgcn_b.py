"""SVD-GCN-B: a learned projection of the features of SVD-GCN (Peng et al., CIKM 2022).

    z_x = p_x exp(beta s) W,   z_y = V_y exp(beta s) W,   s(y) = < z_x, z_y > + < L_f, T_y > + b_y

The features are those of SVD-GCN-S and are not trained; W [K, D], the same for both sides, is trained
with BPR. As in the paper, the L2 term is on the projected vectors z of a batch. The last-node term and
the bias are additions. With ``last``, the features also distinguish the last node.

``dagrec.models.bipartite.svdgcn_s`` and ``spectrum`` define the features.
In: sets of nodes and their last nodes. Out: scores [R, C].
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
    sum_per_set,
)
from dagrec.models.interactions import Interactions
from dagrec.training.data import TrainingData


class SVDGCNBConfig(SpectrumOptions, FactorOptions):
    """Hyperparameters of the spectrum, of factorisation and of training."""

    beta: float = Field(
        2.0, ge=0, le=40, description="features are weighted by exp(beta x singular value)"
    )


class SVDGCNBNetwork(FactorNetwork):
    """A projection of fixed features; nodes: [size, K]; features: [C, K]."""

    has_embedding: ClassVar[bool] = False
    nodes: Tensor
    features: Tensor

    def __init__(self, config: SVDGCNBConfig, features: Features, nodes: int) -> None:
        super().__init__(config, nodes, len(features.services))
        self.alpha = config.alpha
        self.mark_offset = nodes if config.last else None
        """Column nodes + i marks node i as the last."""
        self.register_buffer("nodes", torch.from_numpy(features.nodes.astype(np.float32)))
        self.register_buffer("features", torch.from_numpy(features.services.astype(np.float32)))
        self.weight = nn.Parameter(torch.empty(self.features.shape[1], config.width))
        nn.init.xavier_uniform_(self.weight)

    def context_vectors(self, inputs: SetInputs) -> Tensor:
        """Return z_x [R, D]."""
        sums = sum_per_set(self.nodes[inputs.nodes], inputs)
        sizes = inputs.sizes
        if self.mark_offset is not None:
            # The features of the mark of an unknown node are 0, and it is not counted.
            sums = sums + self.nodes[self.mark_offset + inputs.last]
            sizes = sizes + (inputs.last > UNKNOWN)
        context_features = sums / (sizes[:, None] + self.alpha).sqrt()
        return context_features @ self.weight

    def service_vectors(self) -> Tensor:
        """Return z_y [C, D]."""
        return self.features @ self.weight

    def factors(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        return self.context_vectors(inputs), self.service_vectors()


class SVDGCNB(SetRecommender):
    """A trained projection of the singular vectors of the interaction matrix.

    Use it if SVD-GCN-S is a good start; it has far fewer parameters than other graph networks.
    """

    name = "svdgcn_b"
    paper = "Peng et al. 2022, arXiv 2208.12689"
    Config = SVDGCNBConfig
    traits = Traits(order_aware=True, graph_aware=True, gradient_trained=True)
    config: SVDGCNBConfig

    _stored_features: Features | None = None

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> SVDGCNBNetwork:
        if data is None:
            features = self._fitted(self._stored_features)
        else:
            rows = Interactions.of_examples(data, self.config)
            features = Features.of(rows, self.config, len(vocabulary.services))
        return SVDGCNBNetwork(self.config, features, len(vocabulary))

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        features = Features(state["nodes"].astype(np.float64), state["features"].astype(np.float64))
        size = len(vocabulary) * (1 + self.config.last)
        if not features.has_shape(size, len(vocabulary.services)):
            raise ValueError("features that do not belong to the vocabulary")
        self._stored_features = features
        super()._restore(state, vocabulary, graph)
