"""NeuMF: the sum of GMF and MLP (He et al. 2017, Neural Collaborative Filtering).

    s(y) = h . [p o q ; a_n(p', l', q')] + < L_f, T_y > + b_y  =  s_GMF(y) + s_MLP(y)

A linear output over two concatenated vectors is the sum of two outputs: h of ``gmf`` and h of ``mlp``,
each with its own bias. The branches share no tables, so each can learn the vectors it needs.

With ``pretrain``, GMF and MLP are trained first, with the same options, and the outputs of both are
halved: the initial s(y) is the mean of s_GMF(y) and s_MLP(y). The paper then continues with plain
gradient descent, because the moments of Adam are not available; here Adam continues with new moments.

In: sets of nodes and their last nodes. Out: scores [R, C].
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
    """Hyperparameters of both branches and of their initialisation."""

    pretrain: bool = Field(
        False, description="train GMF and MLP first, and initialise with the mean of both"
    )


class NeuMFNetwork(Network):
    """Both branches; a state is [state of GMF ; state of MLP]."""

    def __init__(self, config: NeuMFConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.gmf = GMFNetwork(config, nodes, services)
        self.mlp = MLPNetwork(config, nodes, services)

    def embeddings(self) -> dict[str, Tensor]:
        """Return the concatenated vectors of both branches."""
        gmf, mlp = self.gmf.embeddings(), self.mlp.embeddings()
        return {name: torch.cat([gmf[name], mlp[name]], dim=1) for name in gmf}

    def states(self, inputs: SetInputs) -> Tensor:
        return torch.cat([self.gmf.states(inputs), self.mlp.states(inputs)], dim=1)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        width = states.shape[1] - self.mlp.first.out_features
        gmf = self.gmf.scores(states[:, :width], columns)
        return gmf + self.mlp.scores(states[:, width:], columns)

    def penalty(
        self, inputs: SetInputs, states: Tensor, rows: Tensor, columns: Tensor
    ) -> Tensor | None:
        gmf = self.gmf.penalty(inputs, states, rows, columns)
        mlp = self.mlp.penalty(inputs, states, rows, columns)
        return None if gmf is None or mlp is None else gmf + mlp

    def load_pretrained(self, gmf: Weights, mlp: Weights) -> None:
        """Load the weights of both branches and halve their outputs."""
        self.gmf.load_state_dict(gmf)
        self.mlp.load_state_dict(mlp)
        outputs = [self.gmf.weights, self.gmf.last.bias, self.mlp.out.weight, self.mlp.last.bias]
        if self.gmf.last.embed is not None:
            outputs.append(self.gmf.last.weight)
        with torch.no_grad():
            for output in outputs:
                output /= 2


class NeuMF(SetRecommender):
    """The sum of GMF and MLP, trained together.

    Use it to compare with the neural collaborative filtering paper; it is the largest of its models.
    """

    name = "neumf"
    paper = "He et al. 2017, arXiv 1708.05031"
    Config = NeuMFConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: NeuMFConfig

    _pretrained: tuple[Weights, Weights] | None = None
    """Weights of GMF and of MLP, during a fit with ``pretrain``."""

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> NeuMFNetwork:
        network = NeuMFNetwork(self.config, len(vocabulary), len(vocabulary.services))
        if self._pretrained is not None and data is not None:
            network.load_pretrained(*self._pretrained)
        return network

    def branches(self) -> tuple[GMF, MLP]:
        """Return unfitted recommenders of both branches, with the options that they share."""
        options = self.config.model_dump()
        gmf = GMFConfig.model_validate({name: options[name] for name in GMFConfig.model_fields})
        mlp = MLPConfig.model_validate({name: options[name] for name in MLPConfig.model_fields})
        return GMF(gmf, seed=self.seed), MLP(mlp, seed=self.seed)

    def _fit(self, data: TrainingData) -> None:
        try:
            if self.config.pretrain:
                gmf, mlp = self.branches()
                self._pretrained = _weights(gmf.fit(data)), _weights(mlp.fit(data))
            super()._fit(data)
        finally:
            self._pretrained = None


def _weights(recommender: NetworkRecommender) -> Weights:
    """Return the parameters of a trained network."""
    state = recommender.state()
    return {name: torch.from_numpy(array) for name, array in state.items() if name != PRIOR}
