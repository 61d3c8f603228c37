"""GPT: a small GPT-2 style decoder over the path (Radford et al. 2019).

    x_t = drop(sqrt(D) E[v_t] + P_t),  h = LN(Blocks(x)),  s(y) = E_y . h_L + b_y

The blocks (pre-norm, causal) and the options are those of SASRec. The defaults and the initialisation
follow GPT-2:

- more layers and heads, a feed-forward network of four times the width with GELU, and learned absolute
  positions;
- the weight matrices of the blocks are drawn from N(0, 0.02^2), and those that write to the residual
  stream (the output projections of attention and of the feed-forward network) with standard deviation
  0.02 / sqrt(2 layers), so the variance does not grow with depth; biases are 0;
- AdamW, with weight decay on all parameters.

The embedding is initialised and scaled as in SASRec; the smaller initialisation of GPT-2 (0.02) was no
better on the geoportal data.

In: padded paths. Out: scores [R, C].
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.models.base import Traits
from dagrec.models.sequence.attention import (
    Activation,
    AttentionRecommender,
    Block,
    CausalTransformer,
    Positions,
    TransformerOptions,
)
from dagrec.models.sequence.paths import PathRows
from dagrec.training.data import TrainingData

INITIAL_STD = 0.02
"""Standard deviation of the initial weights of GPT-2."""


class GPTConfig(TransformerOptions):
    """The same options as SASRec, with other defaults."""

    layers: int = Field(4, ge=1, description="attention blocks")
    heads: int = Field(
        4, ge=1, description="attention heads per block; width must be a multiple of heads"
    )
    expansion: int = Field(
        4, ge=1, description="hidden width of the feed-forward network, as a multiple of width"
    )
    activation: Activation = Field(
        "gelu", description="activation function of the feed-forward network"
    )
    positions: Positions = Field(
        "absolute",
        description="absolute: a learned vector per position; distance: a learned bias per distance",
    )
    optimiser: Literal["adam", "adamw"] = Field("adamw", description="optimiser")
    weight_decay: float = Field(
        0.01, ge=0, description="adam: added to the gradient; adamw: decoupled from it"
    )


class GPT(AttentionRecommender):
    """A causal transformer over the path with the defaults of GPT-2: deeper and wider than SASRec.

    Use it on large data sets where more capacity than that of SASRec may help.
    """

    name = "gpt"
    paper = "Radford et al. 2019, Language models are unsupervised multitask learners"
    Config = GPTConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: GPTConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> CausalTransformer:
        network = CausalTransformer(self.config, len(vocabulary), len(vocabulary.services))
        for block in network.blocks.blocks:
            assert isinstance(block, Block)
            initialise_like_gpt2(block, self.config.layers)
        return network

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)


def initialise_like_gpt2(block: Block, layers: int) -> None:
    """Draw the initial weights of a block as GPT-2 does."""
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=INITIAL_STD)
            nn.init.zeros_(module.bias)
    last = block.feed[-1]
    assert isinstance(last, nn.Linear)
    for module in (block.out, last):
        nn.init.normal_(module.weight, std=INITIAL_STD / (2 * layers) ** 0.5)
