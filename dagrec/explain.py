"""What a trained recommender looked at when it answered: its attention weights, of one context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dagrec.data.examples import Context
from dagrec.errors import ConfigError, RequestError
from dagrec.graph.upstream import Upstream
from dagrec.models.attention import Attention, Attentive
from dagrec.request import PredictRequest, request_context
from dagrec.store.bundle import Bundle
from dagrec.types import Floats


@dataclass(frozen=True)
class Explanation:
    """The attention of one answer, and the DAG that it was about.

    ``place``: position of the frontier among the nodes that were read.
    """

    model: str
    version: str
    attention: Attention
    place: int
    upstream: Upstream

    @property
    def focus(self) -> Floats:
        """[n] what the frontier took from each node in the last layer, mean over the heads."""
        last: Floats = self.attention.weights[-1, :, self.place].mean(axis=0, dtype=np.float64)
        return last

    def summary(self) -> dict[str, Any]:
        """As it goes into JSON."""
        return {
            "model": self.model,
            "version": self.version,
            "nodes": list(self.attention.nodes),
            "frontier": self.place,
            "focus": self.focus.tolist(),
            "weights": self.attention.weights.tolist(),
        }


def explain(bundle: Bundle, request: PredictRequest) -> Explanation:
    """The attention with which a model of a bundle reads a request.

    Raises :class:`RequestError` for a request that cannot be answered, an empty context, and a model
    that has no attention.
    """
    context = request_context(request, bundle.vocabulary)
    try:
        label, model = bundle.model(request.model)
    except ConfigError as error:
        raise RequestError(str(error)) from None
    if not isinstance(model, Attentive):
        able = [name for name, other in bundle.models.items() if isinstance(other, Attentive)]
        raise RequestError(
            f"model {label!r} looks at no node more than at others: it has no attention; choose one of "
            f"{', '.join(able) or 'those that have (see dagrec models), and train it'}"
        )
    if not context.path:
        raise RequestError("path: must name at least one node to look at, found none; add one")
    attention = model.attention(context)
    return Explanation(
        label, bundle.version, attention, _place(attention, context), Upstream.of(context)
    )


def _place(attention: Attention, context: Context) -> int:
    """Where the frontier stands: last of its key, since everything else lies before it."""
    nodes = attention.nodes
    key = context.path[-1]
    return max((i for i, node in enumerate(nodes) if node == key), default=len(nodes) - 1)
