"""Predictions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from anyio import CapacityLimiter, fail_after, to_thread
from fastapi import APIRouter, Body, Depends, HTTPException, Request, Response
from fastapi.openapi.models import Example
from pydantic import BaseModel, Field

from dagrec.errors import RequestError
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.request import PredictRequest
from dagrec.types import Options
from dagrec_service.routes.common import WITH_BODY, declared_json
from dagrec_service.routes.fast import JSON, FastRoute

router = APIRouter(route_class=FastRoute)
T = TypeVar("T")

SHORT = 8_000
"""Bytes of a request that is answered at once; a longer one is answered in a thread."""
MAX_WAIT = 10.0
"""Seconds that a longer request waits for its turn."""
MAX_REQUESTS = 100
LONG = CapacityLimiter(2)
"""Threads for longer requests: more would only take turns."""
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
    "side by side": {
        "summary": "all models at every open end, and why",
        "value": {
            "composition": {
                "nodes": [{"id": "1002132"}, {"id": "a", "mid": 308}, {"id": "b", "mid": 309}],
                "links": [
                    {"source": "1002132", "target": "a"},
                    {"source": "1002132", "target": "b"},
                ],
            },
            "models": "all",
            "explain": True,
            "k": 5,
        },
    },
}
BATCH_EXAMPLES: dict[str, Example] = {
    "paths": {
        "summary": "two paths, of which one is masked softly",
        "value": {"requests": [{"path": ["table_1002132"]}, {"path": ["service_308"], "mask": "soft"}]},
    }
}


class Batch(Options):
    """Several requests at once."""

    requests: Annotated[list[PredictRequest], Field(min_length=1, max_length=MAX_REQUESTS)]


class Refused(Options):
    """Why one request of a batch was not answered."""

    error: str


class BatchAnswers(Options):
    """What became of each request of a batch, in their order."""

    answers: list[Answer | Answers | Refused]
    took_ms: float


# Scoring takes less than a millisecond: done inline, it is faster than in a pool of threads.
@router.post(
    "/predict",
    response_model=Answer | Answers,
    responses=WITH_BODY,
    dependencies=[Depends(declared_json)],
)
async def post_predict(
    body: Annotated[PredictRequest, Body(openapi_examples=EXAMPLES)], request: Request
) -> Response:
    """Which service comes next, ranked, with probabilities.

    One answer; or several side by side, where `models` are named, or where a composition has several
    open ends and `at` names none of them.
    """
    state = request.app.state
    predictor, timeout = state.holder.predictor, state.settings.timeout
    if body.models is None and not body.explain and len(await request.body()) <= SHORT:
        answer = predictor.answer(body, timeout=timeout)
    else:
        answer = await aside(lambda: predictor.answer(body, timeout=timeout))
    return answered(request, [body], [answer], answer)


@router.post(
    "/predict/batch",
    response_model=BatchAnswers,
    responses=WITH_BODY,
    dependencies=[Depends(declared_json)],
)
async def post_predict_batch(
    body: Annotated[Batch, Body(openapi_examples=BATCH_EXAMPLES)], request: Request
) -> Response:
    """Several requests at once: models score them together. What cannot be answered says why."""
    start = time.perf_counter()
    state = request.app.state
    predictor, timeout = state.holder.predictor, state.settings.timeout
    found = await aside(lambda: predictor.batch(body.requests, timeout=timeout))
    answers = [Refused(error=str(f)) if isinstance(f, RequestError) else f for f in found]
    took = round((time.perf_counter() - start) * 1000, 3)
    return answered(request, body.requests, found, BatchAnswers(answers=answers, took_ms=took))


async def aside(work: Callable[[], T]) -> T:
    """Done in a thread, so that short requests are answered meanwhile; 503 after too long a wait."""
    try:
        with fail_after(MAX_WAIT):
            await LONG.acquire()
    except TimeoutError:
        raise HTTPException(
            503,
            f"long requests may wait {MAX_WAIT:g} s for those before them, found more of these; "
            "try again later, or ask for less at once",
            {"Retry-After": "10"},
        ) from None
    try:
        return await to_thread.run_sync(work)
    finally:
        LONG.release()


def answered(
    request: Request,
    asked: Sequence[PredictRequest],
    found: Sequence[Answer | Answers | RequestError],
    body: BaseModel,
) -> Response:
    """The response, after those who count answers, or wait for feedback on them, were told."""
    state = request.scope["state"]
    state["answered"] = found
    if (feedback := request.app.state.feedback) is not None:
        feedback.remember(state["request_id"], asked, found)
    return Response(body.model_dump_json(), media_type=JSON)
