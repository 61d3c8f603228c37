"""GMF: generalised matrix factorisation (He et al. 2017, Neural Collaborative Filtering).

    s(y) = h . (p_x o q_y) + < L_f, T_y > + b_y,   p_x = mean of P_v over the nodes v of the context
    L = 1/5 [softplus(-s(y)) + sum over 4 services j of softplus(s(j))]

o is the elementwise product. Contexts and services have separate tables: P for nodes in contexts, Q for
target services. The negatives j are drawn uniformly in each epoch. The loss is the mean of five terms;
in the paper it is their sum.

A context can have several targets, each with a count, and each is a possible negative of the others:
only the target of the pair itself is never drawn. With n negatives, the optimal score of a service that
follows with probability p is log(p / (n (1 - p) / (C - 1))), so services are ranked by frequency. In
the paper no known positive of the user is drawn. Then services that followed the same context are never
compared with each other, and nothing but vectors shared between contexts, ``l2`` and ``dropout``
separates frequent from rare ones. On geoportal that costs .01 to .02 of MRR.

The paper initialises h randomly. Here h is initially 1, so that GMF starts as the plain product; a sign
or scale of h can be absorbed by Q. For the same reason GMF is no more expressive than a matrix
factorisation with two tables; only the learning speed of each coordinate differs.

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
from dagrec.training.options import MAX_NEGATIVES, LossName


class GMFConfig(FactorOptions):
    """Hyperparameters of factorisation, with the loss and the negatives of the paper."""

    loss: LossName = Field("bce", description="loss; bce is that of the paper")
    negatives: int | None = Field(
        4,
        ge=0,
        le=MAX_NEGATIVES,
        description="number of services drawn per target, for losses other than ce; null: all others; "
        "0: only the other targets of the batch",
    )


class GMFNetwork(FactorNetwork):
    """A factorisation in which z_x is h times the mean of the vectors of the set."""

    def __init__(self, config: GMFConfig, nodes: int, services: int) -> None:
        super().__init__(config, nodes, services)
        self.items = nn.Parameter(torch.randn(services, config.width) * INITIAL_STD)
        self.weights = nn.Parameter(torch.ones(config.width))

    def service_vectors(self) -> Tensor:
        return self.items

    def factors(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        return self.context_vectors(inputs) * self.weights, self.items


class GMF(SetRecommender):
    """Weighted product of vectors, trained as binary classification of each service.

    Use it to compare with the neural collaborative filtering paper; BPR-MF is simpler.
    """

    name = "gmf"
    paper = "He et al. 2017, arXiv 1708.05031"
    Config = GMFConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: GMFConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> GMFNetwork:
        return GMFNetwork(self.config, len(vocabulary), len(vocabulary.services))
