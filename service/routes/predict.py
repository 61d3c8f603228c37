"""Predictions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Depends
from fastapi.openapi.models import Example

from dagrec.predict import Answer, predict
from dagrec.request import PredictRequest
from service.routes.common import PROBLEMS, Held, declared_json

router = APIRouter()

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


# Scoring takes less than a millisecond: done inline, it is faster than in a pool of threads.
@router.post("/predict", responses=PROBLEMS, dependencies=[Depends(declared_json)])
async def post_predict(
    body: Annotated[PredictRequest, Body(openapi_examples=EXAMPLES)], held: Held
) -> Answer:
    """Which service comes next, ranked, with probabilities."""
    return predict(held.bundle, body)
