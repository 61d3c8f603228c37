"""GRU4Rec: a gated recurrent network over the path (Hidasi et al., ICLR 2016, arXiv 1511.06939).

    x_t = drop_e(E[v_t]),  h_t = GRU(x_t, h_{t-1}),  s(y) = w_y . drop_h(h_L) + b_y

    r = sigmoid(W_r x + U_r h + b_r),  z = sigmoid(W_z x + U_z h + b_z)
    n = tanh(W_n x + b_n + r * (U_n h + b_u)),  GRU(x, h) = (1 - z) * n + z * h

The paper trains on session-parallel mini-batches, which carry the state from step to step without
gradient. Here one pass over a path trains all its positions with the full gradient, and a common prefix
of several paths is computed once, because h_t depends only on the nodes up to t. The default loss is
the full softmax; the losses of the 2016 and 2018 papers (BPR, TOP1, BPR-max, TOP1-max, in-batch and
sampled negatives) are training options. ``tied`` shares the embedding with the output weights (the
constrained embedding of the 2018 paper). The dropout of embeddings and of hidden states are separate
options; dropout is applied between layers and before the head, not to the recurrent state, as in the
paper's code.

In: a forest of paths. Out: scores [R, C].
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import State, Traits
from dagrec.models.sequence.base import SequenceOptions, SequenceRecommender
from dagrec.models.sequence.paths import ForestInputs, PathForest
from dagrec.models.sequence.recurrent import Layer, NumpyGRU
from dagrec.training.data import TrainingData
from dagrec.training.network import Head, Network, NodeEmbedding
from dagrec.types import Scores


class GRU4RecConfig(SequenceOptions):
    """Hyperparameters of the network and of training."""

    embedding: int = Field(64, ge=1, description="width of node embeddings")
    hidden: int = Field(128, ge=1, description="width of hidden states")
    layers: int = Field(2, ge=1, description="number of GRU layers")
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="dropout of embeddings")
    hidden_dropout: float = Field(
        0.4, ge=0, lt=1, description="dropout of the states between layers and before the head"
    )
    tied: bool = Field(False, description="use the embeddings of the services as output weights")


class GRUNetwork(Network):
    """A forest of paths -> scores [R, C]."""

    def __init__(self, config: GRU4RecConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.embed = NodeEmbedding(nodes, config.embedding)
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        # nn.GRU holds the weights of all layers; the forest is processed level by level in _layer.
        self.gru = nn.GRU(config.embedding, config.hidden, config.layers)
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.project: nn.Module = nn.Identity()
        width = config.hidden
        if config.tied and config.hidden != config.embedding:
            # A linear map projects the state to the width of the embedding.
            self.project = nn.Linear(config.hidden, config.embedding)
            width = config.embedding
        self.head = Head(width, services, self.embed if config.tied else None)

    def states(self, inputs: ForestInputs) -> Tensor:
        x = self.drop_embedding(self.embed(inputs.nodes))  # [N, D]
        for layer in range(self.gru.num_layers):
            x = self.drop_hidden(self._layer(layer, x, inputs))  # [N, H]
        states: Tensor = self.project(x[inputs.ends])
        return states

    def _layer(self, layer: int, x: Tensor, inputs: ForestInputs) -> Tensor:
        """Return the states [N, H] of one layer for inputs x [N, D] or [N, H]."""
        weight, bias = (getattr(self.gru, f"{name}_hh_l{layer}") for name in ("weight", "bias"))
        gates = nn.functional.linear(
            x,
            getattr(self.gru, f"weight_ih_l{layer}"),
            getattr(self.gru, f"bias_ih_l{layer}"),
        )  # [N, 3H]
        h = gates.new_zeros(1, self.gru.hidden_size)
        level_states = []
        for x_gates, parents in zip(
            gates.split(inputs.levels), inputs.parents.split(inputs.levels), strict=True
        ):
            previous = h[parents]
            h_gates = nn.functional.linear(previous, weight, bias)
            x_r, x_z, x_n = x_gates.chunk(3, dim=1)
            h_r, h_z, h_n = h_gates.chunk(3, dim=1)
            r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
            n = torch.tanh(x_n + r * h_n)
            h = n + z * (previous - n)
            level_states.append(h)
        return torch.cat(level_states)

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores

    def to_numpy(self) -> NumpyGRU:
        """Return a copy of the network for scoring in numpy."""
        with torch.no_grad():
            # The projection and the output weights are combined into one product.
            output_weights: Tensor = self.head.weights()
            bias: Tensor = self.head.bias
            if isinstance(self.project, nn.Linear):
                bias = output_weights @ self.project.bias + bias
                output_weights = output_weights @ self.project.weight
            layers = tuple(
                Layer.of(*(weight.numpy() for weight in weights)) for weights in self.gru.all_weights
            )
            return NumpyGRU.of(
                self.embed.weight.numpy(),
                layers,
                np.ascontiguousarray(output_weights.numpy().T),
                bias.numpy(),
            )


class GRU4Rec(SequenceRecommender):
    """A recurrent network over the path.

    Use it as the first sequence recommender to try: it is fast to train, and fitted models
    score quickly in numpy.
    """

    name = "gru4rec"
    paper = "Hidasi et al. 2016, arXiv 1511.06939"
    Config = GRU4RecConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: GRU4RecConfig

    _numpy_gru: NumpyGRU | None = None
    """Created at the end of training rather than on first use, so that scoring has no side effects."""

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> GRUNetwork:
        return GRUNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def units(self, contexts: Contexts, *, training: bool) -> PathForest:
        return PathForest.of(contexts, shared=training)

    def _fit(self, data: TrainingData) -> None:
        try:
            super()._fit(data)
        finally:
            self._update_numpy_gru()

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        super()._restore(state, vocabulary, graph)
        self._update_numpy_gru()

    def _update_numpy_gru(self) -> None:
        """Copy the current network for scoring."""
        network = self._network
        self._numpy_gru = network.to_numpy() if isinstance(network, GRUNetwork) else None

    def _score(self, contexts: Contexts) -> Scores:
        contexts = self.read(contexts, self.graph.vocabulary)
        return self._fitted(self._numpy_gru).scores(contexts.nodes, contexts.lengths)
