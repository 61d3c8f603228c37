"""Transformer blocks for sequences of nodes, and what the recommenders built of them share.

Block (pre-norm, Xiong et al. 2020, arXiv 2002.04745), for x [B, L, D]:

    x <- x + drop(MHA(LN(x))),  x <- x + drop(W_2 drop(act(W_1 LN(x))))
    MHA: softmax_j(q_i . k_j / sqrt(D / H) + b[i - j]) v_j, in each of H heads

The sums run over the nodes that i may see: real ones (never padding) and, in a causal network, none after
i. Rows are padded on the right, so every query sees a real node and no softmax is empty. In a causal
network nothing behind a node reaches it: one pass over a path gives the states of all of its prefixes,
each exactly as if the prefix stood alone.

Positions: ``absolute`` adds a learned vector for each place, counted from the left; ``distance`` adds
the learned number b[i - j] to the scores of each head, which says how far back a node lies wherever the
context begins (Shaw et al. 2018, arXiv 1803.02155, in the scalar form of T5). Both start at 0, so a place
or a distance that training never reached adds nothing.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from dagrec.data.examples import LONGEST_CONTEXT
from dagrec.models.network import Head, Network, NodeEmbedding
from dagrec.models.sequence.base import SequenceOptions
from dagrec.models.sequence.paths import RowInputs

Activation = Literal["relu", "gelu"]
Positions = Literal["absolute", "distance"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU}


class TransformerOptions(SequenceOptions):
    """Sizes of the blocks; those of the optimisation come with them."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    layers: int = Field(2, ge=1, description="transformer blocks")
    heads: int = Field(2, ge=1, description="attention heads of a block; they divide its width")
    expansion: int = Field(1, ge=1, description="width within the feed-forward net, in widths")
    activation: Activation = Field("relu", description="of the feed-forward net")
    positions: Positions = Field(
        "distance",
        description="absolute: a vector a place; distance: a number a step back, for each head",
    )
    dropout: float = Field(
        0.3, ge=0, lt=1, description="on embeddings, attention weights and what a block adds"
    )
    tied: bool = Field(True, description="use the services' embeddings as output weights")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, found {self.width} and {self.heads}")
        return self


class Block(nn.Module):
    """x [B, L, D] -> the same shape, and the attention weights [B, H, L, L]."""

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
        self.reach = reach
        self.distance: nn.Parameter | None = None
        if options.positions == "distance":
            # Distances run from 0 in a causal network, from -(reach - 1) where nodes look both ways.
            steps = reach if causal else 2 * reach - 1
            self.distance = nn.Parameter(torch.zeros(options.heads, steps))

    def forward(self, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """seen: [B or 1, L, L], True where the query (row) may see the key (column)."""
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, -1).transpose(1, 2)  # [B, H, L, D / H]
            for part in self.project(self.norm_attention(x)).chunk(3, dim=2)
        )
        scores = q @ k.transpose(2, 3) * (width // self.heads) ** -0.5  # [B, H, L, L]
        if self.distance is not None:
            place = torch.arange(length, device=x.device)
            steps = place[:, None] - place
            if self.distance.shape[1] == self.reach:
                steps = steps.clamp(min=0)  # what lies ahead is not seen anyway
            else:
                steps = steps + self.reach - 1
            scores = scores + self.distance[:, steps]
        weights = scores.masked_fill(~seen[:, None], -torch.inf).softmax(dim=3)
        taken = (self.drop(weights) @ v).transpose(1, 2).reshape(batch, length, width)
        x = x + self.drop(self.out(taken))
        return x + self.drop(self.feed(self.norm_feed(x))), weights


class Blocks(nn.Module):
    """Embedded nodes [B, L, D] -> states of the same shape, after all blocks and a last norm."""

    def __init__(self, options: TransformerOptions, reach: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.blocks = nn.ModuleList(Block(options, reach, causal=causal) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.width)

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, list[Tensor]]:
        """real: [B, L], False at padding. Returns the states, and each block's weights [B, H, L, L]."""
        seen = real[:, None, :].expand(-1, x.shape[1], -1)
        if self.causal:
            seen = seen & torch.ones_like(seen[0]).tril()
        found = []
        for block in self.blocks:
            x, weights = block(x, seen)
            found.append(weights)
        return self.norm(x), found


class AttentionNetwork(Network):
    """A network whose states come out of :class:`Blocks`."""

    def attend(self, inputs: RowInputs) -> tuple[Tensor, list[Tensor]]:
        """States of all places [B, L, D] and the weights of each block [B, H, L, L]."""
        raise NotImplementedError


class CausalTransformer(AttentionNetwork):
    """Padded paths -> scores [R, C]; the state of a context is that of its last node."""

    def __init__(self, options: TransformerOptions, nodes: int, services: int) -> None:
        super().__init__()
        width = options.width
        self.scale = width**0.5
        self.embed = NodeEmbedding(nodes, width)
        with torch.no_grad():
            # Scaled by sqrt(D), a node enters with unit variance; as output weights they start small.
            self.embed.weight *= width**-0.5
        self.position: nn.Parameter | None = None
        if options.positions == "absolute":
            self.position = nn.Parameter(torch.zeros(LONGEST_CONTEXT, width))
        self.drop = nn.Dropout(options.dropout)
        self.blocks = Blocks(options, LONGEST_CONTEXT, causal=True)
        self.head = Head(width, services, self.embed if options.tied else None)

    def attend(self, inputs: RowInputs) -> tuple[Tensor, list[Tensor]]:
        x = self.embed(inputs.nodes) * self.scale
        place = torch.arange(x.shape[1], device=x.device)
        if self.position is not None:
            x = x + self.position[: len(place)]
        states, weights = self.blocks(self.drop(x), place < inputs.lengths[:, None])
        return states, weights

    def states(self, inputs: RowInputs) -> Tensor:
        states, _ = self.attend(inputs)
        return states[inputs.rows, inputs.places]

    def scores(self, states: Tensor, columns: Tensor | None = None) -> Tensor:
        scores: Tensor = self.head(states, columns)
        return scores
