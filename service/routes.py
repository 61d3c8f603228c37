"""The endpoints. Each is a call of the library."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException, Request
from fastapi.openapi.models import Example

from dagrec.predict import Answer, predict
from dagrec.request import PredictRequest
from service.errors import MEDIA_TYPE
from service.holder import Holder, self_check
from service.schemas import Health, ModelInfo, Models, Problem

router = APIRouter()

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}, "description": about}
    for status, about in {
        413: "the body is too large",
        415: "the body is not declared to be JSON",
        422: "the request breaks a rule",
        503: "no bundle is loaded",
    }.items()
}
EXAMPLES: dict[str, Example] = {
    "path": {
        "summary": "after a path of node keys",
        "value": {"path": ["table_1002132", "service_308"], "k": 5},
    },
    "composition": {
        "summary": "at a node of a partial composition",
        "value": {
            "composition": {
                "nodes": [{"id": "1002132"}, {"id": "n2", "mid": 308}],
                "links": [{"source": "1002132", "target": "n2"}],
            },
            "at": "n2",
            "k": 5,
        },
    },
    "history": {
        "summary": "with what the same person did before, and filters",
        "value": {
            "path": ["table_1002132"],
            "history": [
                {"path": ["table_1002132", "service_308"], "time": "2026-01-31T09:30:00Z"},
                {"path": ["table_1001894", "service_308", "service_309"]},
            ],
            "deny": ["service_307"],
            "no_repeats": True,
            "diversity": 0.2,
            "k": 5,
        },
    },
}


# Dependencies are async so that none of them costs a change of thread.
async def holder(request: Request) -> Holder:
    found: Holder = request.app.state.holder
    return found


async def declared_json(request: Request) -> None:
    """Refuse another content type by its own status, before the body is called wrong."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/(\S+\+)?json", kind):
        found = repr(kind) if kind else "none"
        raise HTTPException(415, f"content-type must be application/json, found {found}; set it")


Held = Annotated[Holder, Depends(holder)]


# Scoring takes less than a millisecond: done inline, it is faster than in a pool of threads.
@router.post("/predict", responses=PROBLEMS, dependencies=[Depends(declared_json)])
async def post_predict(
    body: Annotated[PredictRequest, Body(openapi_examples=EXAMPLES)], held: Held
) -> Answer:
    """Which service comes next, ranked, with probabilities."""
    return predict(held.bundle, body)


@router.get("/models", responses={503: PROBLEMS[503]})
async def get_models(held: Held) -> Models:
    """The models of the live bundle, with what was measured of them."""
    manifest = held.bundle.manifest
    return Models(
        version=manifest.version,
        mask=held.bundle.mask.value,
        models=[
            ModelInfo(
                name=label,
                recommender=entry.recommender,
                champion=label == manifest.champion,
                parameters=entry.parameters,
                metrics=entry.metrics,
            )
            for label, entry in manifest.models.items()
        ],
    )


@router.get("/health/live")
async def live() -> Health:
    """The process answers."""
    return Health(status="live")


@router.get("/health/ready", responses={503: PROBLEMS[503]})
async def ready(held: Held) -> Health:
    """A bundle is loaded, and each of its models has just answered a canned context."""
    self_check(held.bundle)
    return Health(status="ready", version=held.bundle.version)
