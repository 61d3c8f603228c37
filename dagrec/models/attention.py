"""Recommenders with attention between nodes: their sizes, and access to their attention weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dagrec.data.examples import Context
from dagrec.types import Options


class AttentionSizes(Options):
    """Sizes of attention blocks; each block is attention followed by a feed-forward network."""

    width: int = Field(64, ge=1, description="width of embeddings and states")
    layers: int = Field(2, ge=1, description="attention blocks")
    heads: int = Field(
        2, ge=1, description="attention heads per block; width must be a multiple of heads"
    )
    expansion: int = Field(
        2, ge=1, description="hidden width of the feed-forward network, as a multiple of width"
    )

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, found {self.width} and {self.heads}")
        return self


@dataclass(frozen=True)
class Attention:
    """The attention weights of one context.

    nodes: keys of the n nodes that the network reads, in their order; weights: [layers, heads, n, n],
    where row i holds the weights with which node i attends to each node. A row sums to 1, or is 0 if
    the node attends to none.
    """

    nodes: tuple[str, ...]
    weights: NDArray[np.float32]


@runtime_checkable
class SupportsAttention(Protocol):
    """A recommender that can return its attention weights."""

    def attention(self, context: Context) -> Attention:
        """Return the attention weights of a context, computed without dropout.

        Raises :class:`NotFittedError` before ``fit``, and :class:`DataError` for an empty context.
        """


__all__ = ["Attention", "AttentionSizes", "SupportsAttention"]
