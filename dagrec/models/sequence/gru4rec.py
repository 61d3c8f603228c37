"""GRU4Rec: a gated recurrent network over the path (Hidasi et al., ICLR 2016, arXiv 1511.06939).

    x_t = drop_e(E[v_t]),  h_t = GRU(x_t, h_{t-1}),  s(y) = w_y . drop_h(h_L) + b_y

In place of the paper's session-parallel mini-batches, contexts are right-padded and the state is read
at the last real position L, which padding behind it cannot reach. Training uses full softmax
cross-entropy: with catalogues of this size sampling negatives saves nothing. ``tied`` shares the
embedding with the output weights (the paper's constrained embedding). Dropout of embeddings and of
hidden states is set separately (2018 paper, arXiv 1706.03847).

In: nodes [B, L], lengths [B]. Out: scores [B, C].
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.vocabulary import FIRST, PADDING, UNKNOWN, Contexts, Vocabulary
from dagrec.errors import ConfigError
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Optimisation, Recommender, State, Trainer, Traits
from dagrec.models.training_data import TrainingData
from dagrec.types import Scores


class GRU4RecConfig(Optimisation):
    """Hyperparameters of the network; those of the optimisation come with them."""

    embedding: int = Field(64, ge=1, description="width of a node's embedding")
    hidden: int = Field(128, ge=1, description="width of a hidden state")
    layers: int = Field(2, ge=1, description="GRU layers")
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="on embeddings")
    hidden_dropout: float = Field(
        0.4, ge=0, lt=1, description="on the states between layers and before the head"
    )
    tied: bool = Field(False, description="use the services' embeddings as output weights")


class Network(nn.Module):
    """nodes [B, L], lengths [B] -> scores [B, C]."""

    def __init__(self, config: GRU4RecConfig, nodes: int, services: int) -> None:
        super().__init__()
        self.services = services
        self.embed = nn.Embedding(nodes, config.embedding, padding_idx=PADDING)
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        # nn.GRU drops between layers only, so the last layer's states are dropped below.
        between = config.hidden_dropout if config.layers > 1 else 0.0
        self.gru = nn.GRU(
            config.embedding, config.hidden, config.layers, batch_first=True, dropout=between
        )
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.tied = config.tied
        if config.tied:
            # A linear map brings the state to the embedding's width where the two differ.
            same = config.hidden == config.embedding
            self.project = nn.Identity() if same else nn.Linear(config.hidden, config.embedding)
            self.bias = nn.Parameter(torch.zeros(services))
        else:
            self.head = nn.Linear(config.hidden, services)

    def forward(self, nodes: Tensor, lengths: Tensor) -> Tensor:
        states, _ = self.gru(self.drop_embedding(self.embed(nodes)))  # [B, L, H]
        rows = torch.arange(len(nodes), device=nodes.device)
        last = self.drop_hidden(states[rows, lengths - 1])  # [B, H]
        if self.tied:
            weights = self.embed.weight[FIRST : FIRST + self.services]  # [C, D]
            return nn.functional.linear(self.project(last), weights, self.bias)
        scores: Tensor = self.head(last)
        return scores


class GRU4Rec(Recommender):
    """A recurrent state of the path, and a linear score for each service."""

    name = "gru4rec"
    paper = "Hidasi et al. 2016, arXiv 1511.06939"
    Config = GRU4RecConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: GRU4RecConfig

    _network: nn.Module | None = None

    def _fit(self, data: TrainingData, trainer: Trainer | None) -> None:
        if trainer is None:
            raise ConfigError(
                f"{self.name}: training needs a trainer; call fit(data, NetworkTrainer())"
            )
        nodes, services = len(data.vocabulary), len(data.vocabulary.services)
        self._network, self.history = trainer.train(
            lambda: Network(self.config, nodes, services),
            data,
            self.config,
            name=self.name,
            seed=self.seed,
        )
        # No training context holds an unknown node; the centre of all others stands for it.
        weights = self._network.get_parameter("embed.weight")
        with torch.no_grad():
            weights[UNKNOWN] = weights[FIRST:].mean(dim=0)

    def _score(self, contexts: Contexts) -> Scores:
        network = self._fitted(self._network)
        with torch.inference_mode():
            scores = network(torch.from_numpy(contexts.nodes), torch.from_numpy(contexts.lengths))
        result: Scores = scores.numpy()
        return result

    def _state(self) -> State:
        network = self._fitted(self._network)
        return {name: tensor.numpy() for name, tensor in network.state_dict().items()}

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        network = Network(self.config, len(vocabulary), len(vocabulary.services))
        network.load_state_dict({name: torch.from_numpy(np.array(a)) for name, a in state.items()})
        self._network = network.eval()
