"""GMF: the product of two vectors, its coordinates weighed (He et al., Neural Collaborative Filtering).

    s(y) = h . (p_x o q_y) + < L_f, T_y > + b_y,   p_x = mean of P_v over the nodes v of the context
    L = 1/5 [softplus(-s(y)) + sum over 4 services j of softplus(s(j))]

Users and items have tables of their own: P is of nodes in a context, Q of services to come. The j are
drawn uniformly, anew in each epoch. Five terms make a mean here and a sum in the paper.

Here a context has several targets, each with a count, and each is a negative of the others
(``exclude = "target"``): with n negatives, the best score of a service that follows with probability p
is log(p / (n (1 - p) / (C - 1))), an order by frequency. In the paper no j is a known positive of the
user (``exclude = "successors"``); then services that followed one context are never set against each
other, nothing but what contexts share, ``l2`` and ``dropout`` tells the frequent from the rare, and
nothing bounds their best scores. On geoportal that costs .01 to .02 of MRR.

The paper starts h at random. Here it starts at 1, where GMF is the plain product: a sign or a scale in
h can be had in Q as well. By the same argument GMF can say no more than a matrix factorisation with two
tables; what differs is how fast each coordinate moves.

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
from dagrec.training.options import MAX_NEGATIVES, LossName


class GMFConfig(FactorOptions):
    """The options of factorisation, with the loss and the negatives of the paper."""

    loss: LossName = Field("bce", description="what is minimised; bce is that of the paper")
    negatives: int | None = Field(
        4,
        ge=0,
        le=MAX_NEGATIVES,
        description="services drawn against each target, for losses other than ce; null: all others; "
        "0: those of the batch alone",
    )


class GMFNetwork(FactorNetwork):
    """z_x is the mean of the set's vectors, each coordinate times its weight in h."""

    def __init__(self, config: GMFConfig, nodes: int, services: int) -> None:
        super().__init__(config, nodes, services)
        self.items = nn.Parameter(torch.randn(services, config.width) * INIT)
        self.weights = nn.Parameter(torch.ones(config.width))

    def own_services(self) -> Tensor:
        return self.items

    def match(self, inputs: SetInputs) -> tuple[Tensor, Tensor]:
        return self.own(inputs) * self.weights, self.items


class GMF(SetRecommender):
    """A weighed product of vectors, learned as yes or no for each service."""

    name = "gmf"
    paper = "He et al. 2017, arXiv 1708.05031"
    Config = GMFConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: GMFConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> GMFNetwork:
        return GMFNetwork(self.config, len(vocabulary), len(vocabulary.services))
