"""NextItNet: dilated causal convolutions over the path (Yuan et al., WSDM 2019, arXiv 1808.05163).

    x_t = drop(E[v_t])
    block r = 0, 1, ...:  x <- x + drop(layer_{2 d}(layer_d(x))),  d = 4^r
    layer_d(x)_t = relu(LN(b + sum_{i < k} W_i x_{t - i d}))
    s(y) = w_y . drop(x_L) + b_y

This is the paper's second kind of residual block: two convolutions of kernel k in each, whose dilation
doubles from layer to layer (1, 2, 4, 8, ...), with layer normalisation and ReLU behind each. The state
of a place sees the 1 + (k - 1)(4^blocks - 1) nodes up to it and none after it, so one pass over a path
gives the states of all of its beginnings: before the first node there are zeros.

The default loss is the full softmax, at all places at once, as in the paper. Added here: dropout,
without which a few thousand paths are learned by heart, and tied output weights.

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
from dagrec.training.options import ScheduleName


class NextItNetConfig(SequenceOptions):
    """Hyperparameters of the network; those of the optimisation come with them."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    blocks: int = Field(2, ge=1, le=4, description="residual blocks of two convolutions each")
    kernel: int = Field(2, ge=1, description="nodes that a convolution takes together")
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="on embeddings")
    hidden_dropout: float = Field(
        0.3, ge=0, lt=1, description="on what a block adds, and on the state before the head"
    )
    tied: bool = Field(True, description="use the services' embeddings as output weights")

    batch_size: int = Field(256, ge=1, description="units a step: paths")
    epochs: int = Field(100, ge=1, description="passes over the training units, at most")
    learning_rate: float = Field(3e-3, gt=0, description="step size at its highest")
    schedule: ScheduleName = Field(
        "warmup-cosine",
        description="warmup-cosine: linear rise, then half a cosine down to a hundredth",
    )


class CausalConvolution(nn.Module):
    """A convolution that looks back, then LN and ReLU: [N, D] -> [N, D]."""

    back: Tensor

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.register_buffer("back", dilation * torch.arange(kernel), persistent=False)
        # Its weights are W_0, ..., W_{k - 1} side by side.
        self.combine = nn.Linear(kernel * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, place: Tensor) -> Tensor:
        """x: [N, D], the nodes of all rows behind each other; place: [N], each one's in its row."""
        back = self.back
        at = torch.arange(len(x), device=x.device)[:, None] - back
        at = at.masked_fill(place[:, None] < back, len(x))  # before the first node there are zeros
        taken = nn.functional.pad(x, (0, 0, 0, 1))[at].flatten(1)  # [N, k D]
        return nn.functional.relu(self.norm(self.combine(taken)))


class NextItNetwork(Network):
    """Padded paths -> scores [R, C]."""

    def __init__(self, config: NextItNetConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.width
        self.embed = NodeEmbedding(nodes, width)
        if config.tied:
            with torch.no_grad():
                self.embed.weight *= width**-0.5  # as weights of the output they start small
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(
            CausalConvolution(width, config.kernel, 2**layer) for layer in range(2 * config.blocks)
        )
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(width, services, self.embed if config.tied else None)

    def states(self, inputs: RowInputs) -> Tensor:
        place = torch.arange(inputs.nodes.shape[1], device=inputs.nodes.device)
        real = place < inputs.lengths[:, None]  # only these are computed: most of a batch is padding
        place = place.expand_as(real)[real]
        x = self.drop_embedding(self.embed(inputs.nodes[real]))  # [N, D]
        for first, second in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = x + self.drop_hidden(second(first(x, place), place))
        starts = inputs.lengths.cumsum(0) - inputs.lengths
        states: Tensor = self.drop_hidden(x[starts[inputs.rows] + inputs.places])
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class NextItNet(SequenceRecommender):
    """Convolutions of growing reach over the path, and a linear score for each service."""

    name = "nextitnet"
    paper = "Yuan et al. 2019, arXiv 1808.05163"
    Config = NextItNetConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: NextItNetConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> NextItNetwork:
        return NextItNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)
