"""BPR-MF: matrix factorisation that learns an order of the services (Rendle et al., UAI 2009).

    s(y) = < u_x, E_y > + < L_f, T_y > + b_y,   u_x = mean of E_v over the nodes v of the context
    L = -log sigmoid(s(y) - s(j)) + l2 (|u_x|^2 + |E_y|^2 + |E_j|^2),   j a service drawn uniformly

In the paper u is a free vector of each user; a context at serving time is nobody's, so the user is the
mean of what is in it (FISM), in training and in serving alike. One table E holds what a node says as
part of a context and as a service to come: the product is symmetric, and knows what goes together. With
``tied = false`` services to come have a table of their own, and the product knows a direction.

In: sets of nodes and their last. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import Vocabulary
from dagrec.models.base import Traits
from dagrec.models.factorisation.base import (
    INIT,
    FactorNetwork,
    FactorOptions,
    SetInputs,
    SetRecommender,
)
from dagrec.training.data import TrainingData


class BPRMFConfig(FactorOptions):
    """Hyperparameters of the tables; those of the optimisation come with them."""

    tied: bool = Field(
        True, description="one table for nodes in a context and services to come; false: two"
    )


class BPRMFNetwork(FactorNetwork):
    """z_x is the mean of the set's vectors."""

    def __init__(self, config: BPRMFConfig, nodes: int, services: int) -> None:
        super().__init__(config, nodes, services)
        self.items = None
        if not config.tied:
            self.items = nn.Parameter(torch.randn(services, config.width) * INIT)

    def own_services(self) -> Tensor:
        return super().own_services() if self.items is None else self.items

    def match(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        return self.own(inputs), self.own_services()


class BPRMF(SetRecommender):
    """Products of vectors: what goes with the set, and what follows its last node."""

    name = "bprmf"
    paper = "Rendle et al. 2009, arXiv 1205.2618"
    Config = BPRMFConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: BPRMFConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> BPRMFNetwork:
        return BPRMFNetwork(self.config, len(vocabulary), len(vocabulary.services))
