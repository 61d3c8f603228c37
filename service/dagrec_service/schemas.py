"""Response bodies of the service, other than :class:`dagrec.recommend.answers.Answer`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class Problem(BaseModel):
    """Every error, as ``application/problem+json`` (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="the phrase of the status")
    status: int
    detail: str = Field(description="the object, the rule it breaks, the value found and how to fix it")
    instance: str = Field(description="the path of the request")


class ModelInfo(BaseModel):
    """A model of the live bundle."""

    name: str
    recommender: str
    champion: bool
    parameters: int = Field(description="number of learned parameters")
    metrics: dict[str, float] = Field(description="means over the held-out parts of its training data")


class Models(BaseModel):
    """The models of the live bundle."""

    version: str
    mask: str
    models: list[ModelInfo]


class ModelDetails(ModelInfo):
    """A model of the live bundle, in detail."""

    version: str
    paper: str
    intervals: dict[str, tuple[float, float]] = Field(description="95 % intervals of the metrics")
    configuration: dict[str, Any] = Field(description="all hyperparameters")
    seed: int
    temperature: float = Field(description="divisor of the scores before the softmax")
    fit_seconds: float
    data: str = Field(description="fingerprint of the training data")
    vocabulary: str = Field(description="fingerprint of the vocabulary")
    graph: str = Field(description="fingerprint of the links")


class BundleInfo(BaseModel):
    """The live bundle."""

    version: str
    created: str
    dagrec: str = Field(description="version of dagrec that published it")
    champion: str
    mask: str
    models: list[str]
    services: int = Field(description="number of services in the vocabulary")
    nodes: int = Field(description="number of other nodes in the vocabulary")
    links: int = Field(description="number of distinct links in the training data")
    compositions: int = Field(description="number of compositions with at least one training example")
    data: dict[str, Any]
    vocabulary: str
    graph: str
    config: dict[str, Any]


class RefusedBundle(BaseModel):
    """The store's live bundle, which the service refused to load."""

    version: str
    why: str
    at: str


class Health(BaseModel):
    """Whether the process is live or ready to answer."""

    status: str
    version: str | None = None
    refused: RefusedBundle | None = Field(
        None, description="a newer bundle that was refused; the service keeps the current one"
    )


class LiveBundle(BaseModel):
    """The version of the live bundle."""

    version: str
