"""NeuMF: GMF and MLP beside each other, with one output (He et al., Neural Collaborative Filtering).

    s(y) = h . [p o q ; a_n(p', l', q')] + < L_f, T_y > + b_y  =  s_GMF(y) + s_MLP(y)

One linear output over two vectors is the sum of an output over each: h of ``gmf`` and h of ``mlp``, and
a bias of each. The two share no table, so that each can have the vectors it needs.

With ``pretrain`` GMF and MLP are trained first, by the same trainer and with the same options, and the
outputs of both are halved: the first s(y) is the mean of s_GMF(y) and s_MLP(y). The paper then goes on
with plain gradient descent, for want of the moments of Adam; here Adam goes on with new ones.

In: sets of nodes and their last. Out: scores [R, C].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from dagrec.data.vocabulary import Vocabulary
from dagrec.models.base import PRIOR, Traits
from dagrec.models.factorisation.base import SetInputs, SetRecommender
from dagrec.models.factorisation.gmf import GMF, GMFConfig, GMFNetwork
from dagrec.models.factorisation.mlp import MLP, MLPConfig, MLPNetwork
from dagrec.models.network import NetworkRecommender
from dagrec.training.data import TrainingData
from dagrec.training.network import Network

Weights = Mapping[str, Tensor]


class NeuMFConfig(MLPConfig):
    """Hyperparameters of both branches, and how they start."""

    pretrain: bool = Field(
        False, description="train GMF and MLP first, and start from the mean of both"
    )


class NeuMFNetwork(Network):
    """A state is that of GMF and that of MLP, side by side."""

    def __init__(self, config: NeuMFConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.gmf = GMFNetwork(config, nodes, services)
        self.mlp = MLPNetwork(config, nodes, services)

    def embeddings(self) -> dict[str, Tensor]:
        """Those of both branches, side by side."""
        gmf, mlp = self.gmf.embeddings(), self.mlp.embeddings()
        return {name: torch.cat([gmf[name], mlp[name]], dim=1) for name in gmf}

    def states(self, inputs: SetInputs) -> Tensor:
        return torch.cat([self.gmf.states(inputs), self.mlp.states(inputs)], dim=1)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        own = states.shape[1] - self.mlp.first.out_features
        return self.gmf.scores(states[:, :own], columns) + self.mlp.scores(states[:, own:], columns)

    def penalty(
        self, inputs: SetInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        gmf = self.gmf.penalty(inputs, states, rows, columns)
        mlp = self.mlp.penalty(inputs, states, rows, columns)
        return None if gmf is None or mlp is None else gmf + mlp

    def start_from(self, gmf: Weights, mlp: Weights) -> None:
        """Take over the weights of both, each for one half of the output."""
        self.gmf.load_state_dict(gmf)
        self.mlp.load_state_dict(mlp)
        outputs = [self.gmf.weights, self.gmf.last.bias, self.mlp.out.weight, self.mlp.last.bias]
        if self.gmf.last.embed is not None:
            outputs.append(self.gmf.last.weight)
        with torch.no_grad():
            for output in outputs:
                output /= 2


class NeuMF(SetRecommender):
    """A product and a tower, added."""

    name = "neumf"
    paper = "He et al. 2017, arXiv 1708.05031"
    Config = NeuMFConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: NeuMFConfig

    _start: tuple[Weights, Weights] | None = None
    """Weights of GMF and of MLP, while a training that starts from them runs."""

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> NeuMFNetwork:
        network = NeuMFNetwork(self.config, len(vocabulary), len(vocabulary.services))
        if self._start is not None and data is not None:
            network.start_from(*self._start)
        return network

    def parts(self) -> tuple[GMF, MLP]:
        """The recommenders that ``pretrain`` trains, with the options that they have in common."""
        given = self.config.model_dump()
        gmf = GMFConfig.model_validate({name: given[name] for name in GMFConfig.model_fields})
        mlp = MLPConfig.model_validate({name: given[name] for name in MLPConfig.model_fields})
        return GMF(gmf, seed=self.seed), MLP(mlp, seed=self.seed)

    def _fit(self, data: TrainingData) -> None:
        try:
            if self.config.pretrain:
                gmf, mlp = self.parts()
                self._start = _weights(gmf.fit(data)), _weights(mlp.fit(data))
            super()._fit(data)
        finally:
            self._start = None


def _weights(part: NetworkRecommender) -> Weights:
    """The parameters of a trained part."""
    state = part.state()
    return {name: torch.from_numpy(array) for name, array in state.items() if name != PRIOR}
