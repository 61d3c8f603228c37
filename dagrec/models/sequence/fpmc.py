"""FPMC: a factorised Markov chain plus matrix factorisation (Rendle et al., WWW 2010).

    s(y) = < u_x, I_y > + < L_last, J_y > + b_y,   u_x = mean of P_v over the nodes v of the path

There are four embedding tables: P and I factorise which services occur together with the nodes of a
path, in any order; L and J factorise which service follows the last node. In the paper u is a learned
vector per user. A path at serving time belongs to no known user, so u is the mean of the vectors of the
path's nodes, both in training and in serving.

The default loss is the paper's, BPR against uniformly drawn services, with more draws per pair. Its
scores are a ranking and not log-probabilities; with ``loss = "ce"`` they are log-probabilities. Each
service has a bias; without one, the tables would spend a dimension on the frequency of the services.

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
    """Hyperparameters of the network and of training."""

    width: int = Field(64, ge=1, description="width of all four embedding tables")
    dropout: float = Field(
        0.4, ge=0, lt=1, description="dropout of the vectors of the path and of its last node"
    )

    epochs: int = Field(150, ge=1, description="maximum number of epochs")


class FPMCNetwork(Network):
    """Padded paths -> scores [R, C]; a state concatenates the vectors of the user and the last node."""

    def __init__(self, config: FPMCConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.user = NodeEmbedding(nodes, config.width)
        self.last = NodeEmbedding(nodes, config.width)
        self.drop = nn.Dropout(config.dropout)
        # Row y of the weight concatenates I_y and J_y.
        self.head = Head(2 * config.width, services)

    def states(self, inputs: RowInputs) -> Tensor:
        # The cumulative sum covers all prefixes of a row at once.
        sums = self.user(inputs.nodes).cumsum(dim=1)[inputs.rows, inputs.positions]
        user = sums / (inputs.positions + 1)[:, None]
        last = self.last(inputs.nodes[inputs.rows, inputs.positions])
        states: Tensor = self.drop(torch.cat([user, last], dim=1))
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class FPMC(SequenceRecommender):
    """Factorised transitions from the last node plus factorised co-occurrence with the whole path.

    Use it as a small, fast baseline between a Markov chain and a recurrent network.
    """

    name = "fpmc"
    paper = "Rendle et al. 2010, Factorizing personalized Markov chains for next-basket recommendation"
    Config = FPMCConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: FPMCConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> FPMCNetwork:
        return FPMCNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)
