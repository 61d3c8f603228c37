"""GPT: a decoder of the kind of GPT-2 over the path (Radford et al. 2019), at the size of such data.

    x_t = drop(sqrt(D) E[v_t] + P_t),  h = LN(Blocks(x)),  s(y) = E_y . h_L + b_y

The blocks are those of SASRec, both being pre-norm and causal, and the options are the same. What
differs by default is what makes a GPT:

- more layers and heads, a feed-forward net four times as wide with GELU, and learned places;
- the matrices of the blocks start from N(0, 0.02^2), and those that write to the residual stream
  (behind attention and at the end of the net) from 0.02 / sqrt(2 layers), so that depth does not raise
  its variance; biases start at 0;
- AdamW, with weight decay on all parameters.

The embedding starts and enters as in SASRec; the smaller start of GPT-2 (0.02) was no better on the
geoportal.

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

DEVIATION = 0.02
"""Standard deviation of the first weights of GPT-2."""


class GPTConfig(TransformerOptions):
    """The same options as SASRec, with other defaults."""

    layers: int = Field(4, ge=1, description="transformer blocks")
    heads: int = Field(4, ge=1, description="attention heads of a block; they divide its width")
    expansion: int = Field(4, ge=1, description="width within the feed-forward net, in widths")
    activation: Activation = Field("gelu", description="of the feed-forward net")
    positions: Positions = Field(
        "absolute",
        description="absolute: a vector a place; distance: a number a step back, for each head",
    )
    optimiser: Literal["adam", "adamw"] = Field("adamw", description="adam or adamw")
    weight_decay: float = Field(
        0.01, ge=0, description="adam: added to the gradient; adamw: decoupled from it"
    )


class GPT(AttentionRecommender):
    """A deeper causal transformer over the path, and a linear score for each service."""

    name = "gpt"
    paper = "Radford et al. 2019, Language models are unsupervised multitask learners"
    Config = GPTConfig
    traits = Traits(order_aware=True, gradient_trained=True)
    config: GPTConfig

    def build(self, vocabulary: Vocabulary, data: TrainingData | None) -> CausalTransformer:
        network = CausalTransformer(self.config, len(vocabulary), len(vocabulary.services))
        for block in network.blocks.blocks:
            assert isinstance(block, Block)
            start(block, self.config.layers)
        return network

    def units(self, contexts: Contexts, *, training: bool) -> PathRows:
        return PathRows.of(contexts, shared=training)


def start(block: Block, layers: int) -> None:
    """Give a block the first weights of GPT-2."""
    for module in block.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=DEVIATION)
            nn.init.zeros_(module.bias)
    last = block.feed[-1]
    assert isinstance(last, nn.Linear)
    for module in (block.out, last):
        nn.init.normal_(module.weight, std=DEVIATION / (2 * layers) ** 0.5)
