"""BPR-MF: matrix factorisation with Bayesian personalised ranking (Rendle et al., UAI 2009).

    s(y) = < u_x, E_y > + < L_f, T_y > + b_y,   u_x = mean of E_v over the nodes v of the context
    L = -log sigmoid(s(y) - s(j)) + l2 (|u_x|^2 + |E_y|^2 + |E_j|^2),   j a service drawn uniformly

In the paper u is a free vector per user. A context at serving time does not occur in training, so u is
the mean of its nodes' vectors (FISM), in training and at serving alike. One table E holds the vectors
of nodes in contexts and of services as targets; the product is then symmetric and models co-occurrence.
With ``tied = false`` targets have a separate table, and the product also models direction.

In: sets of nodes and their last nodes. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import Vocabulary
from dagrec.models.base import Traits
from dagrec.models.factorisation.base import (
    INITIAL_STD,
    FactorNetwork,
    FactorOptions,
    SetInputs,
    SetRecommender,
)
from dagrec.training.data import TrainingData


class BPRMFConfig(FactorOptions):
    """Hyperparameters of the factorisation and of training."""

    tied: bool = Field(
        True, description="use one table for nodes in contexts and for target services; false: two"
    )


class BPRMFNetwork(FactorNetwork):
    """A factorisation in which z_x is the mean of the vectors of the set."""

    def __init__(self, config: BPRMFConfig, nodes: int, services: int) -> None:
        super().__init__(config, nodes, services)
        self.items = None
        if not config.tied:
            self.items = nn.Parameter(torch.randn(services, config.width) * INITIAL_STD)

    def service_vectors(self) -> Tensor:
        return super().service_vectors() if self.items is None else self.items

    def factors(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        return self.context_vectors(inputs), self.service_vectors()


class BPRMF(SetRecommender):
    """Matrix factorisation of contexts and services, with a term for the last node.

    Use it as the baseline for networks over sets: the graph recommenders extend it.
    """

    name = "bprmf"
    paper = "Rendle et al. 2009, arXiv 1205.2618"
    Config = BPRMFConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: BPRMFConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> BPRMFNetwork:
        return BPRMFNetwork(self.config, len(vocabulary), len(vocabulary.services))
