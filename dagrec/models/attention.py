"""Recommenders in which nodes look at each other: their sizes, and the weights they looked with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dagrec.data.examples import Context
from dagrec.types import Options


class AttentionSizes(Options):
    """Sizes of blocks of attention, each followed by a feed-forward net."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    layers: int = Field(2, ge=1, description="blocks of attention and a feed-forward net")
    heads: int = Field(2, ge=1, description="attention heads of a block; they divide its width")
    expansion: int = Field(2, ge=1, description="width within the feed-forward net, in widths")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, found {self.width} and {self.heads}")
        return self


@dataclass(frozen=True)
class Attention:
    """The attention weights of one context.

    nodes: keys of the n nodes that were read, in the order of reading; weights: [layers, heads, n, n],
    row i says what node i took from each node; it sums to 1, or is 0 where it had nothing to look at.
    """

    nodes: tuple[str, ...]
    weights: NDArray[np.float32]


@runtime_checkable
class Attentive(Protocol):
    """A recommender whose attention can be read."""

    def attention(self, context: Context) -> Attention:
        """The weights with which this context is read, without dropout.

        Raises :class:`NotFittedError` before ``fit``, and :class:`DataError` for an empty context.
        """


__all__ = ["Attention", "AttentionSizes", "Attentive"]
