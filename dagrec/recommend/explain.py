"""Explanations of answers: supporting training compositions, similar contexts and model weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from dagrec.data.examples import Context
from dagrec.data.vocabulary import UNKNOWN
from dagrec.graph.upstream import Upstream
from dagrec.models.attention import Attention, SupportsAttention
from dagrec.models.base import Recommender
from dagrec.models.hybrid.mixture import SupportsShares
from dagrec.recommend.request import PredictRequest, resolve
from dagrec.store.bundle import Bundle
from dagrec.types import Floats, Options

MAX_NEXT = 5


class StepSupport(Options):
    """The training compositions in which an answered service followed the end of the path."""

    service: str
    after: list[str] = Field(
        description="the longest suffix of the path that the service followed; empty if it never "
        "followed the last node"
    )
    compositions: int = Field(description="training compositions in which it followed this suffix")
    examples: list[str] = Field(description="ids of the first three of these compositions")


class NextService(Options):
    """A service that followed a path, and the number of compositions in which it did."""

    service: str
    compositions: int


class NearestContext(Options):
    """A path of the training data that is similar to the requested one."""

    path: list[str]
    similarity: float = Field(description="Jaccard similarity of the two sets of nodes")
    compositions: int
    next: list[NextService] = Field(description="the five services that followed it most often")


class Weight(Options):
    """The weight of one node or one component in the score."""

    of: str = Field(description="a node that the model attends to, or a component of a mixture")
    weight: float


class Explanation(Options):
    """The evidence for an answer in the training data, and the weights that the model used."""

    steps: list[StepSupport] = Field(description="one for each answered service, in order")
    nearest: list[NearestContext] = Field(
        description="the three most similar training contexts, the nearest first"
    )
    weights: list[Weight] | None = Field(
        description="attention to nodes, or weights of a mixture's components; null for other models"
    )


def explain(bundle: Bundle, label: str, context: Context, services: Sequence[str]) -> Explanation:
    """Explain an answer in which a model of the bundle ranked these services."""
    vocabulary, evidence = bundle.vocabulary, bundle.evidence
    keys = ("", "", *vocabulary.services, *vocabulary.others)
    path = [vocabulary.ids.get(key, UNKNOWN) for key in context.path]
    steps = evidence.steps(path, [vocabulary.columns[service] for service in services])
    return Explanation(
        steps=[
            StepSupport(
                service=service,
                after=list(context.path[len(path) - step.nodes :]),
                compositions=step.compositions,
                examples=list(step.ids),
            )
            for service, step in zip(services, steps, strict=True)
        ],
        nearest=[
            NearestContext(
                path=[keys[node] for node in near.path],
                similarity=near.similarity,
                compositions=near.compositions,
                next=[
                    NextService(service=vocabulary.services[column], compositions=count)
                    for column, count in near.following[:MAX_NEXT]
                ],
            )
            for near in evidence.nearest(path)
        ],
        weights=_weights(bundle, bundle.models[label].recommender, context),
    )


def _weights(bundle: Bundle, model: Recommender, context: Context) -> list[Weight] | None:
    if view := _attention_view(bundle, model, context):
        pairs = zip(view.attention.nodes, view.focus.tolist(), strict=True)
        return [Weight(of=node, weight=weight) for node, weight in pairs]
    if isinstance(model, SupportsShares) and context.path:
        shares = model.shares(bundle.vocabulary.encode([context]))
        return [Weight(of=part, weight=weight) for part, weight in shares.items()]
    return None


@dataclass(frozen=True)
class AttentionView:
    """The attention weights of a model for one context, and the DAG upstream of the frontier.

    ``frontier`` is the position of the frontier in ``attention.nodes``.
    """

    attention: Attention
    frontier: int
    upstream: Upstream

    @classmethod
    def of(cls, model: SupportsAttention, context: Context) -> AttentionView:
        attention = model.attention(context)
        # All other nodes lie upstream of the frontier, so it is the last node with its key.
        positions = [i for i, node in enumerate(attention.nodes) if node == context.path[-1]]
        frontier = positions[-1] if positions else len(attention.nodes) - 1
        return cls(attention, frontier, Upstream.of(context))

    @property
    def focus(self) -> Floats:
        """[n] attention of the frontier to each node in the last layer, averaged over the heads."""
        weights: Floats = self.attention.weights[-1, :, self.frontier].mean(axis=0, dtype=np.float64)
        return weights

    def summary(self) -> dict[str, Any]:
        """Return the view as it is written to JSON."""
        return {
            "nodes": list(self.attention.nodes),
            "frontier": self.frontier,
            "focus": self.focus.tolist(),
            "weights": self.attention.weights.tolist(),
        }


def attention_view(bundle: Bundle, request: PredictRequest) -> AttentionView | None:
    """The attention of the requested model at the first frontier of a request.

    None if the model has no attention, or no node of the context is known.
    Raises :class:`RequestError` for a request that cannot be answered.
    """
    contexts, labels, *_ = resolve(request, bundle)
    return _attention_view(bundle, bundle.models[labels[0]].recommender, contexts[0])


def _attention_view(bundle: Bundle, model: Recommender, context: Context) -> AttentionView | None:
    known = any(key in bundle.vocabulary.ids for key in context.path)
    return AttentionView.of(model, context) if known and isinstance(model, SupportsAttention) else None
