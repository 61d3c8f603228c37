"""What a prediction answers: the same over HTTP, on the command line and in Python."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, TypeAdapter

from dagrec.graph.mask import MaskPolicy
from dagrec.recommend.explain import Explanation
from dagrec.types import Options

Strategy = Literal["model", "back-off", "popularity"]


class Prediction(Options):
    """One service of an answer."""

    rank: int
    service: str
    probability: float
    support: int = Field(description="training examples in which it followed this node")


PREDICTIONS = TypeAdapter(list[Prediction])


class Answer(Options):
    """Ranked services of one model after one node, and everything needed to read them."""

    model: str
    version: str
    at: str | None = Field(description="id of the composition's node that is extended; null: a path")
    mask: MaskPolicy
    candidates: int = Field(description="services that the mask and the filters allow")
    strategy: Strategy = Field(
        description="model: all of the context is known; back-off: unknown nodes were passed over; "
        "popularity: nothing of it is known"
    )
    why: str | None = Field(
        description="why the model or the mask fell back; null: neither of them did"
    )
    mask_fallback: bool = Field(
        description="the mask allows no service after this node, so that all services are ranked"
    )
    terminal: bool = Field(description="the node is known, and nothing ever followed it")
    unknown: list[str] = Field(description="keys that training never saw")
    predictions: list[Prediction]
    explanation: Explanation | None = Field(None, description="where the request asked for it")
    took_ms: float = Field(description="milliseconds from the parsed request to this answer")


class Answers(Options):
    """Answers side by side: of several models, or at several open ends (all models at the first)."""

    answers: list[Answer]
    took_ms: float = Field(description="milliseconds for all of them")
