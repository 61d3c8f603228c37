"""Why these services: the training compositions behind them, and what the recommender weighed how."""

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

MAX_FOLLOWING = 5


class MadeStep(Options):
    """How often training made the step to one of the answered services."""

    service: str
    after: list[str] = Field(
        description="the longest end of the path after which it came; empty where it never came after "
        "the last node"
    )
    compositions: int = Field(description="training compositions that made the step after this end")
    examples: list[str] = Field(description="ids of the first three of them")


class Followed(Options):
    """A service that came next, and in how many compositions."""

    service: str
    compositions: int


class NearestContext(Options):
    """A path of training that is like the one that was asked about."""

    path: list[str]
    similarity: float = Field(description="nodes that both have, among those that either has")
    compositions: int
    next: list[Followed] = Field(description="what followed it, the most frequent five")


class Weight(Options):
    """What the recommender weighed, and how much."""

    of: str = Field(description="a node that it looked at, or a part that it is mixed from")
    weight: float


class Explanation(Options):
    """Why an answer is what it is, as far as training data and weights can tell."""

    steps: list[MadeStep] = Field(description="for each answered service, in their order")
    nearest: list[NearestContext] = Field(description="the three most like this one, the nearest first")
    weights: list[Weight] | None = Field(
        description="of attention to nodes, or of the parts of a mixture; null: it has none"
    )


def explain(bundle: Bundle, label: str, context: Context, services: Sequence[str]) -> Explanation:
    """The explanation of an answer in which a model of the bundle ranked these services."""
    vocabulary, evidence = bundle.vocabulary, bundle.evidence
    words = ("", "", *vocabulary.services, *vocabulary.others)
    path = [vocabulary.ids.get(key, UNKNOWN) for key in context.path]
    steps = evidence.steps(path, [vocabulary.columns[service] for service in services])
    return Explanation(
        steps=[
            MadeStep(
                service=service,
                after=list(context.path[len(path) - step.nodes :]),
                compositions=step.compositions,
                examples=list(step.ids),
            )
            for service, step in zip(services, steps, strict=True)
        ],
        nearest=[
            NearestContext(
                path=[words[node] for node in near.path],
                similarity=near.similarity,
                compositions=near.compositions,
                next=[
                    Followed(service=vocabulary.services[column], compositions=count)
                    for column, count in near.following[:MAX_FOLLOWING]
                ],
            )
            for near in evidence.nearest(path)
        ],
        weights=_weights(bundle, bundle.models[label].recommender, context),
    )


def _weights(bundle: Bundle, model: Recommender, context: Context) -> list[Weight] | None:
    if looked := _look(bundle, model, context):
        pairs = zip(looked.attention.nodes, looked.focus.tolist(), strict=True)
        return [Weight(of=node, weight=weight) for node, weight in pairs]
    if isinstance(model, SupportsShares) and context.path:
        shares = model.shares(bundle.vocabulary.encode([context]))
        return [Weight(of=part, weight=weight) for part, weight in shares.items()]
    return None


@dataclass(frozen=True)
class Look:
    """The attention with which a context was read, and the DAG that it was about.

    ``place``: position of the frontier among the nodes that were read.
    """

    attention: Attention
    place: int
    upstream: Upstream

    @classmethod
    def of(cls, model: SupportsAttention, context: Context) -> Look:
        attention = model.attention(context)
        # The frontier is the last of its key, since everything else lies before it.
        places = [i for i, node in enumerate(attention.nodes) if node == context.path[-1]]
        place = places[-1] if places else len(attention.nodes) - 1
        return cls(attention, place, Upstream.of(context))

    @property
    def focus(self) -> Floats:
        """[n] what the frontier took from each node in the last layer, mean over the heads."""
        last: Floats = self.attention.weights[-1, :, self.place].mean(axis=0, dtype=np.float64)
        return last

    def summary(self) -> dict[str, Any]:
        """As it goes into JSON."""
        return {
            "nodes": list(self.attention.nodes),
            "frontier": self.place,
            "focus": self.focus.tolist(),
            "weights": self.attention.weights.tolist(),
        }


def look(bundle: Bundle, request: PredictRequest) -> Look | None:
    """The attention with which a model of a bundle reads a request, at its first node to extend.

    None where the model has no attention, or nothing of the context is known.
    Raises :class:`RequestError` for a request that cannot be answered.
    """
    contexts, labels, _ = resolve(request, bundle)
    return _look(bundle, bundle.models[labels[0]].recommender, contexts[0])


def _look(bundle: Bundle, model: Recommender, context: Context) -> Look | None:
    known = any(key in bundle.vocabulary.ids for key in context.path)
    return Look.of(model, context) if known and isinstance(model, SupportsAttention) else None
