"""Transformer blocks for sequences of nodes, and what the recommenders built of them share.

Block (pre-norm, Xiong et al. 2020, arXiv 2002.04745), for x [B, L, D]:

    x <- x + drop(MHA(LN(x))),  x <- x + drop(W_2 drop(act(W_1 LN(x))))
    MHA: softmax_j(q_i . k_j / sqrt(D / H) + b[i - j]) v_j, in each of H heads

The sums run over the nodes that i may see: real ones (never padding) and, in a causal network, none
after i. Rows are padded on the right, so every query sees a real node and no softmax is empty. In a
causal network nothing behind a node reaches it: one pass over a path gives the states of all of its
prefixes, each exactly as if the prefix stood alone.

Positions: ``absolute`` adds a learned vector for each place, counted from the left; ``distance`` adds
the learned number b[i - j] to the scores of each head, which says how far back a node lies wherever the
context begins (Shaw et al. 2018, arXiv 1803.02155, in the scalar form of T5). Both start at 0, so a
place or a distance that training never reached adds nothing.
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
    """Sizes of the blocks; those of the optimisation come with them.

    Batches are large and the first steps long, so that a few dozen contexts and some thousand get
    numbers of steps that suit both: 100, and 700 of 1,700 paths.
    """

    expansion: int = Field(1, ge=1, description="width within the feed-forward net, in widths")
    activation: Activation = Field("relu", description="of the feed-forward net")
    positions: Positions = Field(
        "distance",
        description="absolute: a vector a place; distance: a number a step back, for each head",
    )
    dropout: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="on embeddings, within the feed-forward net, and on what a block adds",
    )
    tied: bool = Field(True, description="use the services' embeddings as output weights")

    batch_size: int = Field(256, ge=1, description="units a step: paths")
    epochs: int = Field(100, ge=1, description="passes over the training units, at most")
    learning_rate: float = Field(3e-3, gt=0, description="step size at its highest")
    schedule: ScheduleName = Field(
        "warmup-cosine",
        description="warmup-cosine: linear rise, then half a cosine down to a hundredth",
    )


class Block(nn.Module):
    """x [N, D] -> the same shape, and the attention weights [B, H, L, L]."""

    def __init__(self, options: TransformerOptions, reach: int, *, causal: bool) -> None:
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
        # Distances start at 0 in a causal network, at -(reach - 1) where nodes look both ways.
        self.nearest = 0 if causal else 1 - reach
        self.distance: nn.Parameter | None = None
        if options.positions == "distance":
            self.distance = nn.Parameter(torch.zeros(options.heads, reach - self.nearest))

    def forward(self, x: Tensor, real: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """x: [N, D], the real places of all rows, of which real [B, L] says where they stand; seen:
        [B, L, L], True where the query (row) may see the key (column)."""
        (batch, length), width = real.shape, x.shape[1]
        rows = x.new_zeros(batch, length, 3 * width)
        rows[real] = self.project(self.norm_attention(x)).to(rows.dtype)
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)  # [B, H, L, D / H]
            for part in rows.chunk(3, dim=2)
        )
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5  # [B, H, L, L]
        if self.distance is not None:
            place = torch.arange(length, device=x.device)
            steps = (place[:, None] - place).clamp(min=self.nearest)  # what is nearer is not seen
            scores = scores + self.distance[:, steps - self.nearest]
        weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(dim=3)
        taken = (weights @ v).transpose(1, 2).reshape(batch, length, width)[real]
        x = x + self.drop(self.out(taken))
        return x + self.drop(self.feed(self.norm_feed(x))), weights


class Blocks(nn.Module):
    """Embedded nodes [B, L, D] -> states of the same shape, after all blocks and a last norm.

    Between blocks there are only the places of real nodes: rows are far apart in length, and most of a
    batch is padding.
    """

    def __init__(self, options: TransformerOptions, reach: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.drop = nn.Dropout(options.dropout)
        self.blocks = nn.ModuleList(Block(options, reach, causal=causal) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.width)

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, list[Tensor]]:
        """real: [B, L], False at padding. Returns the states, 0 there, and each block's weights."""
        seen = real[:, None, :].expand(-1, x.shape[1], -1)
        if self.causal:
            seen = seen & torch.ones_like(seen[0]).tril()
        found = []
        inside = self.drop(x[real])
        for block in self.blocks:
            inside, weights = block(inside, real, seen)
            found.append(weights)
        states = torch.zeros_like(x)
        states[real] = self.norm(inside).to(x.dtype)
        return states, found


class AttentionNetwork(Network):
    """A network whose states come out of :class:`Blocks`."""

    @abstractmethod
    def attend(self, inputs: RowInputs) -> tuple[Tensor, list[Tensor]]:
        """States of all places [B, L, D], and the weights of each block [B, H, L, L]."""


class CausalTransformer(AttentionNetwork):
    """Padded paths -> scores [R, C]; the state of a context is that of its last node.

    A node enters as sqrt(D) E[v], with unit variance at the start; as an output weight, where the two
    are tied, E[v] starts with variance 1 / D, so that the scores have unit variance too.
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
        place = torch.arange(x.shape[1], device=x.device)
        if self.position is not None:
            x = x + self.position[: len(place)]
        found: tuple[Tensor, list[Tensor]] = self.blocks(x, place < inputs.lengths[:, None])
        return found

    def states(self, inputs: RowInputs) -> Tensor:
        states, _ = self.attend(inputs)
        return states[inputs.rows, inputs.places]

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores


class AttentionRecommender(SequenceRecommender):
    """A sequence recommender whose attention can be read."""

    appended: ClassVar[tuple[str, ...]] = ()
    """What the network reads behind the last node."""

    def attention(self, context: Context) -> Attention:
        """The weights with which this context is read, without dropout.

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
