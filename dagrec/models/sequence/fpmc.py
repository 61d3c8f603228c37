"""FPMC: a factorised Markov chain beside matrix factorisation (Rendle et al., WWW 2010).

    s(y) = < u_x, I_y > + < L_last, J_y > + b_y,   u_x = mean of P_v over the nodes v of the path

Four tables: P and I factorise which services go with the nodes of a path, in whatever order; L and J
factorise which service follows its last node. In the paper u is a vector of the user. A path at serving
time is nobody's, so the user is defined as the mean of its nodes' vectors, in training and in serving
alike: fold-in, without a difference between the two.

The paper's loss is BPR against a service drawn uniformly; it is the default, with more draws a pair.
Its scores rank and are no log-probabilities; with ``loss = "ce"`` they are. A bias for each service is
added: without one, its frequency takes up a direction of every table.

In: padded paths. Out: scores [R, C].
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.sequence.base import SequenceOptions, SequenceRecommender
from dagrec.models.sequence.paths import PathRows, RowInputs
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, Network, NodeEmbedding
from dagrec.training.options import PairwiseOptions


class FPMCConfig(PairwiseOptions, SequenceOptions):
    """Hyperparameters of the tables; those of the optimisation come with them."""

    width: int = Field(64, ge=1, description="width of the vectors of all four tables")
    dropout: float = Field(0.4, ge=0, lt=1, description="on the vectors of the path and its last node")

    epochs: int = Field(150, ge=1, description="passes over the training units, at most")


class FPMCNetwork(Network):
    """Padded paths -> scores [R, C]; a state is the user's vector and the last node's, side by side."""

    def __init__(self, config: FPMCConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.user = NodeEmbedding(nodes, config.width)
        self.last = NodeEmbedding(nodes, config.width)
        self.drop = nn.Dropout(config.dropout)
        # Row y of its weight is I_y and J_y, side by side.
        self.head = Head(2 * config.width, services)

    def states(self, inputs: RowInputs) -> Tensor:
        # The sums over all beginnings of a row at once; padding adds nothing, and stands behind.
        sums = self.user(inputs.nodes).cumsum(dim=1)[inputs.rows, inputs.places]
        user = sums / (inputs.places + 1)[:, None]
        last = self.last(inputs.nodes[inputs.rows, inputs.places])
        states: Tensor = self.drop(torch.cat([user, last], dim=1))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class FPMC(SequenceRecommender):
    """What goes with the nodes of the path, and what follows its last."""

    name = "fpmc"
    paper = "Rendle et al. 2010, Factorizing personalized Markov chains for next-basket recommendation"
    Config = FPMCConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: FPMCConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> FPMCNetwork:
        return FPMCNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)
