"""What the service answers, beside :class:`dagrec.recommend.answers.Answer`."""

from __future__ import annotations

from typing import Any

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
    parameters: int = Field(description="numbers that it has learned")
    metrics: dict[str, float] = Field(description="means over the held-out parts of its training")


class Models(BaseModel):
    """The models of the live bundle."""

    version: str
    mask: str
    models: list[ModelInfo]


class ModelDetails(ModelInfo):
    """One model of the live bundle, with all that is known of it."""

    version: str
    paper: str
    intervals: dict[str, tuple[float, float]] = Field(description="95 %, of the metrics")
    configuration: dict[str, Any] = Field(description="every hyperparameter")
    seed: int
    temperature: float = Field(description="by which scores are divided before they are probabilities")
    fit_seconds: float
    data: str = Field(description="fingerprint of the data")
    vocabulary: str = Field(description="fingerprint of the vocabulary")
    graph: str = Field(description="fingerprint of the links")


class BundleInfo(BaseModel):
    """The live bundle."""

    version: str
    created: str
    dagrec: str = Field(description="version of the program that published it")
    champion: str
    mask: str
    models: list[str]
    services: int = Field(description="candidates of every answer")
    nodes: int = Field(description="other nodes that it knows")
    links: int = Field(description="distinct links seen in training")
    compositions: int = Field(description="compositions with something to learn from")
    data: dict[str, Any]
    vocabulary: str
    graph: str
    config: dict[str, Any]


class Refused(BaseModel):
    """The bundle that the store calls live, and that was not taken."""

    version: str
    why: str
    at: str


class Health(BaseModel):
    """Whether the process lives, or is ready to answer."""

    status: str
    version: str | None = None
    refused: Refused | None = Field(
        None, description="a newer bundle that was refused; the old one stays"
    )


class Live(BaseModel):
    """What is live now."""

    version: str
