"""Transformer blocks for sequences of nodes, and the base classes of recommenders built from them.

Block (pre-norm, Xiong et al. 2020, arXiv 2002.04745), for x [B, L, D]:

    x <- x + drop(MHA(LN(x))),  x <- x + drop(W_2 drop(act(W_1 LN(x))))
    MHA: softmax_j(q_i . k_j / sqrt(D / H) + b[i - j]) v_j, in each of H heads

The sums run over the nodes that i may attend to: never padding and, in a causal network, no node after
i. Rows are padded on the right, so every query attends to at least one node and no softmax is empty. In
a causal network the state of a node does not depend on later nodes: one pass over a path computes the
states of all its prefixes, and each is equal to that of the prefix alone.

Positions: ``absolute`` adds a learned vector for each position, counted from the left; ``distance``
adds a learned scalar b[i - j] per head to the attention scores, which depends only on the distance
between two nodes (Shaw et al. 2018, arXiv 1803.02155, in the scalar form of T5). Both are initialised
to 0, so positions and distances that do not occur in training have no effect.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.errors import DataError
from dagrec.models.attention import Attention, AttentionSizes
from dagrec.models.sequence.base import SequenceOptions, SequenceRecommender
from dagrec.models.sequence.paths import RowInputs
from dagrec.training.network import Head, Network, NodeEmbedding
from dagrec.training.options import ScheduleName

Activation = Literal["relu", "gelu"]
Positions = Literal["absolute", "distance"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class TransformerOptions(AttentionSizes, SequenceOptions):
    """Hyperparameters of the blocks and of training.

    The batch size and learning rate are large, so that the same number of epochs suits both small and
    large data: 100 steps for a few dozen paths, 700 steps for 1,700 paths.
    """

    expansion: int = Field(
        1, ge=1, description="hidden width of the feed-forward network, as a multiple of width"
    )
    activation: Activation = Field(
        "relu", description="activation function of the feed-forward network"
    )
    positions: Positions = Field(
        "distance",
        description="absolute: a learned vector per position; distance: a learned bias per distance",
    )
    dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="dropout of embeddings, sublayer outputs and the feed-forward network",
    )
    tied: bool = Field(True, description="use the embeddings of the services as output weights")

    batch_size: int = Field(256, ge=1, description="paths per step")
    epochs: int = Field(100, ge=1, description="maximum number of epochs")
    learning_rate: float = Field(3e-3, gt=0, description="peak learning rate")
    schedule: ScheduleName = Field(
        "warmup-cosine",
        description="warmup-cosine: linear warm-up, then cosine decay to a hundredth of the peak",
    )


class Block(nn.Module):
    """One transformer block: x [N, D] -> the same shape, and the attention weights [B, H, L, L]."""

    def __init__(self, options: TransformerOptions, max_length: int, *, causal: bool) -> None:
        super().__init__()
        width, inner = options.width, options.width * options.expansion
        self.heads = options.heads
        self.norm_attention = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, inner),
            ACTIVATIONS[options.activation](),
            nn.Dropout(options.dropout),
            nn.Linear(inner, width),
        )
        self.drop = nn.Dropout(options.dropout)
        # Distances are at least 0 in a causal network, and at least -(max_length - 1) otherwise.
        self.min_distance = 0 if causal else 1 - max_length
        self.distance: nn.Parameter | None = None
        if options.positions == "distance":
            self.distance = nn.Parameter(torch.zeros(options.heads, max_length - self.min_distance))

    def forward(self, x: Tensor, real: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new states and the attention weights.

        real: [B, L], False at padding; x: [N, D] states of the N real positions; allowed: [B, L, L],
        True where the query (row) may attend to the key (column).
        """
        (batch, length), width = real.shape, x.shape[1]
        rows = x.new_zeros(batch, length, 3 * width)
        rows[real] = self.project(self.norm_attention(x)).to(rows.dtype)
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)  # [B, H, L, D / H]
            for part in rows.chunk(3, dim=2)
        )
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5  # [B, H, L, L]
        if self.distance is not None:
            position = torch.arange(length, device=x.device)
            # In a causal network, smaller distances are masked below.
            distances = (position[:, None] - position).clamp(min=self.min_distance)
            scores = scores + self.distance[:, distances - self.min_distance]
        weights = scores.masked_fill(~allowed[:, None], -torch.inf).softmax(dim=3)
        attended = (weights @ v).transpose(1, 2).reshape(batch, length, width)[real]
        x = x + self.drop(self.out(attended))
        return x + self.drop(self.feed(self.norm_feed(x))), weights


class Blocks(nn.Module):
    """All blocks and a final norm: embedded nodes [B, L, D] -> states of the same shape.

    Between blocks only the states of real nodes are kept, because rows differ much in length and most
    of a batch is padding.
    """

    def __init__(self, options: TransformerOptions, max_length: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.drop = nn.Dropout(options.dropout)
        self.blocks = nn.ModuleList(
            Block(options, max_length, causal=causal) for _ in range(options.layers)
        )
        self.norm = nn.LayerNorm(options.width)

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the states, which are 0 at padding, and the attention weights of each block.

        real: [B, L], False at padding.
        """
        allowed = real[:, None, :].expand(-1, x.shape[1], -1)
        if self.causal:
            allowed = allowed & torch.ones_like(allowed[0]).tril()
        block_weights = []
        h = self.drop(x[real])
        for block in self.blocks:
            h, weights = block(h, real, allowed)
            block_weights.append(weights)
        states = torch.zeros_like(x)
        states[real] = self.norm(h).to(x.dtype)
        return states, block_weights


class AttentionNetwork(Network):
    """A network whose states are computed by :class:`Blocks`."""

    @abstractmethod
    def attend(self, inputs: RowInputs) -> tuple[Tensor, list[Tensor]]:
        """Return the states of all positions [B, L, D] and the weights of each block [B, H, L, L]."""


class CausalTransformer(AttentionNetwork):
    """Padded paths -> scores [R, C]; the state of a context is the state of its last node.

    The input of a node is sqrt(D) E[v], initially with unit variance. With tied weights, E[v] is also
    the output weight; its initial variance 1 / D gives the scores unit variance.
    """

    def __init__(self, options: TransformerOptions, nodes: int, services: int) -> None:
        super().__init__()
        width = options.width
        self.scale = width**0.5
        self.embed = NodeEmbedding(nodes, width)
        with torch.no_grad():
            self.embed.weight /= self.scale
        self.position: nn.Parameter | None = None
        if options.positions == "absolute":
            self.position = nn.Parameter(torch.zeros(MAX_CONTEXT_LENGTH, width))
        self.blocks = Blocks(options, MAX_CONTEXT_LENGTH, causal=True)
        self.head = Head(width, services, self.embed if options.tied else None)

    def attend(self, inputs: RowInputs) -> tuple[Tensor, list[Tensor]]:
        x = self.embed(inputs.nodes) * self.scale
        position = torch.arange(x.shape[1], device=x.device)
        if self.position is not None:
            x = x + self.position[: len(position)]
        result: tuple[Tensor, list[Tensor]] = self.blocks(x, position < inputs.lengths[:, None])
        return result

    def states(self, inputs: RowInputs) -> Tensor:
        states, _ = self.attend(inputs)
        return states[inputs.rows, inputs.positions]

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class AttentionRecommender(SequenceRecommender):
    """A sequence recommender that can return its attention weights."""

    appended: ClassVar[tuple[str, ...]] = ()
    """Tokens that the network appends to the path."""

    def attention(self, context: Context) -> Attention:
        """Return the attention weights of a context, computed without dropout.

        Raises :class:`NotFittedError` before ``fit``, and :class:`DataError` for an empty context.
        """
        network, vocabulary = self._fitted(self._network), self.graph.vocabulary
        if not context.path:
            raise DataError(
                f"{self.name}: attention needs a context of one node or more, found an empty one",
                rule="empty-context",
            )
        assert isinstance(network, AttentionNetwork)
        units = self.units(self.read(vocabulary.encode([context]), vocabulary), training=False)
        inputs, _ = units.take(np.zeros(1, dtype=np.int64))
        with torch.inference_mode():
            _, weights = network.attend(inputs)
        nodes = [str(key) for key in cast(tuple[str, ...], self.key(context))[-MAX_CONTEXT_LENGTH:]]
        return Attention((*nodes, *self.appended), torch.cat(weights).numpy())
