"""What a recommender looked at: attention weights by node, for those who explain an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from dagrec.data.examples import Context


@dataclass(frozen=True)
class Attention:
    """The attention weights of one context.

    nodes: keys of the n nodes that were read, in the order of reading; weights: [layers, heads, n, n],
    row i says what node i took from each node, and sums to 1.
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


__all__ = ["Attention", "Attentive"]
