"""The answer to a prediction request: the same over HTTP, on the command line and in Python."""

from __future__ import annotations

from pydantic import Field, TypeAdapter

from dagrec.graph.mask import MaskPolicy
from dagrec.recommend.explain import Explanation
from dagrec.recommend.known import Strategy
from dagrec.types import Options


class Prediction(Options):
    """One recommended service."""

    rank: int
    service: str
    probability: float
    support: int = Field(description="training compositions in which the service followed this node")


PREDICTIONS = TypeAdapter(list[Prediction])


class Answer(Options):
    """The services that one model ranks after one node, and how the ranking came about."""

    model: str
    version: str
    at: str | None = Field(description="id of the extended node of the composition; null for a path")
    mask: MaskPolicy
    candidates: int = Field(description="number of services that the mask and the filters allow")
    strategy: Strategy = Field(
        description="model: every node of the context is known; back-off: unknown nodes before the "
        "node to extend were skipped; ancestor: the node to extend is unknown, and its nearest known "
        "ancestor was extended; history: no node is known, and the owner's history was used; "
        "popularity: nothing is known, and services are ranked by frequency"
    )
    why: str | None = Field(
        description="why the model or the mask fell back, or no service is left; otherwise null"
    )
    mask_fallback: bool = Field(
        description="the mask allows no service after this node, so all services are ranked"
    )
    terminal: bool = Field(
        description="the node is known, but no service followed it in the training data"
    )
    unknown: list[str] = Field(description="keys that do not occur in the training data")
    dropped: dict[str, int] = Field(
        description="counts of what reading the composition dropped or repaired, such as links that "
        "closed a cycle"
    )
    predictions: list[Prediction]
    explanation: Explanation | None = Field(None, description="null unless the request asks for it")
    took_ms: float = Field(description="milliseconds from the parsed request to this answer")


class Answers(Options):
    """The answers of several models or for several open ends, ordered by end, then by model."""

    answers: list[Answer]
    took_ms: float = Field(description="milliseconds for all answers")
