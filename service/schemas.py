"""What the service answers, beside :class:`dagrec.predict.Answer`."""

from __future__ import annotations

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Every failure, as ``application/problem+json`` (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="the kind of failure")
    status: int
    detail: str = Field(description="the object, the rule, the value found and the way out")
    instance: str = Field(description="the path that was asked for")


class ModelInfo(BaseModel):
    """One model of the live bundle."""

    name: str
    recommender: str
    champion: bool
    parameters: int
    metrics: dict[str, float]


class Models(BaseModel):
    """The models of the live bundle."""

    version: str
    mask: str
    models: list[ModelInfo]


class Health(BaseModel):
    """Whether the process lives, or is ready to answer."""

    status: str
    version: str | None = None
