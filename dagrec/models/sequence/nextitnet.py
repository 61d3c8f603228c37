"""NextItNet: dilated causal convolutions over the path (Yuan et al., WSDM 2019, arXiv 1808.05163).

    x_t = drop(E[v_t])
    block r = 0, 1, ...:  x <- x + drop(layer_{2 d}(layer_d(x))),  d = 4^r
    layer_d(x)_t = relu(LN(b + sum_{i < k} W_i x_{t - i d}))
    s(y) = w_y . drop(x_L) + b_y

This is the paper's second kind of residual block: two convolutions with kernel size k, each followed by
layer normalisation and ReLU; the dilation doubles from layer to layer (1, 2, 4, 8, ...). The receptive
field of a position is the 1 + (k - 1)(4^blocks - 1) nodes up to it and no later node, so one pass over
a path computes the states of all its prefixes. Positions before the first node are zeros.

The default loss is the full softmax at all positions, as in the paper. Dropout and tied output weights
are additions; without dropout the network overfits a few thousand paths.

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
    """Hyperparameters of the network and of training."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    blocks: int = Field(2, ge=1, le=4, description="residual blocks of two convolutions each")
    kernel: int = Field(2, ge=1, description="kernel size of the convolutions, in nodes")
    embedding_dropout: float = Field(0.25, ge=0, lt=1, description="dropout of embeddings")
    hidden_dropout: float = Field(
        0.3, ge=0, lt=1, description="dropout of the output of each block and of the final state"
    )
    tied: bool = Field(True, description="use the embeddings of the services as output weights")

    batch_size: int = Field(256, ge=1, description="paths per step")
    epochs: int = Field(100, ge=1, description="maximum number of epochs")
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate")
    schedule: ScheduleName = Field(
        "warmup-cosine",
        description="warmup-cosine: linear warm-up, then cosine decay to a hundredth of the peak",
    )


class CausalConvolution(nn.Module):
    """A dilated causal convolution, then LN and ReLU: [N, D] -> [N, D]."""

    offsets: Tensor

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.register_buffer("offsets", dilation * torch.arange(kernel), persistent=False)
        # The weight concatenates W_0, ..., W_{k - 1}.
        self.combine = nn.Linear(kernel * width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Return the outputs [N, D] of the concatenated nodes x [N, D] of all rows.

        position: [N] position of each node in its row.
        """
        indices = torch.arange(len(x), device=x.device)[:, None] - self.offsets
        indices = indices.masked_fill(position[:, None] < self.offsets, len(x))  # the row of zeros
        windows = nn.functional.pad(x, (0, 0, 0, 1))[indices].flatten(1)  # [N, k D]
        return nn.functional.relu(self.norm(self.combine(windows)))


class NextItNetwork(Network):
    """Padded paths -> scores [R, C]."""

    def __init__(self, config: NextItNetConfig, nodes: int, services: int) -> None:
        super().__init__()
        width = config.width
        self.embed = NodeEmbedding(nodes, width)
        if config.tied:
            with torch.no_grad():
                self.embed.weight *= width**-0.5  # small initial output weights
        self.drop_embedding = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(
            CausalConvolution(width, config.kernel, 2**layer) for layer in range(2 * config.blocks)
        )
        self.drop_hidden = nn.Dropout(config.hidden_dropout)
        self.head = Head(width, services, self.embed if config.tied else None)

    def states(self, inputs: RowInputs) -> Tensor:
        position = torch.arange(inputs.nodes.shape[1], device=inputs.nodes.device)
        # Only real nodes are computed, because most of a batch is padding.
        real = position < inputs.lengths[:, None]
        position = position.expand_as(real)[real]
        x = self.drop_embedding(self.embed(inputs.nodes[real]))  # [N, D]
        for first, second in zip(self.layers[::2], self.layers[1::2], strict=True):
            x = x + self.drop_hidden(second(first(x, position), position))
        starts = inputs.lengths.cumsum(0) - inputs.lengths
        states: Tensor = self.drop_hidden(x[starts[inputs.rows] + inputs.positions])
        return states

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class NextItNet(SequenceRecommender):
    """Dilated causal convolutions over the path.

    Use it as a convolutional alternative to recurrent networks and attention; its receptive field is
    bounded by ``blocks`` and ``kernel``.
    """

    name = "nextitnet"
    paper = "Yuan et al. 2019, arXiv 1808.05163"
    Config = NextItNetConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: NextItNetConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> NextItNetwork:
        return NextItNetwork(self.config, len(vocabulary), len(vocabulary.services))

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)
