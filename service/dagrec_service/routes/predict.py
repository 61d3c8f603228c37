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
from dagrec_service.routes.common import BODY_PROBLEMS, require_json
from dagrec_service.routes.fast import JSON, FastRoute

router = APIRouter(route_class=FastRoute)
T = TypeVar("T")

MAX_INLINE_BYTES = 8_000
"""Size of a body up to which the request is answered in the event loop; others run in a thread."""
MAX_WAIT = 10.0
"""Seconds that a request may wait for a thread."""
MAX_REQUESTS = 100
THREADS = CapacityLimiter(2)
"""Threads for long requests. The work is bound to the CPU, so that more threads would not help."""
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
        "summary": "with the history of the same person, and filters",
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
        "summary": "all models at every open end, with explanations",
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
        "summary": "two paths, one of them with the soft mask",
        "value": {"requests": [{"path": ["table_1002132"]}, {"path": ["service_308"], "mask": "soft"}]},
    }
}


class Batch(Options):
    """Several requests in one."""

    requests: Annotated[list[PredictRequest], Field(min_length=1, max_length=MAX_REQUESTS)]


class BatchError(Options):
    """Why a request of a batch could not be answered."""

    error: str


class BatchAnswers(Options):
    """The result of each request of a batch, in order."""

    answers: list[Answer | Answers | BatchError]
    took_ms: float


# Scoring takes less than a millisecond, which is less than a switch to a thread pool costs.
@router.post(
    "/predict",
    response_model=Answer | Answers,
    responses=BODY_PROBLEMS,
    dependencies=[Depends(require_json)],
)
async def post_predict(
    body: Annotated[PredictRequest, Body(openapi_examples=EXAMPLES)], request: Request
) -> Response:
    """Which services come next, ranked, with probabilities.

    The response is one answer, or several if the request names `models`, or if the composition has
    several open ends and the request does not name one with `at`.
    """
    state = request.app.state
    predictor, timeout = state.holder.predictor, state.settings.timeout
    if body.models is None and not body.explain and len(await request.body()) <= MAX_INLINE_BYTES:
        answer = predictor.answer(body, timeout=timeout)
    else:
        answer = await run_in_thread(lambda: predictor.answer(body, timeout=timeout))
    return make_response(request, [body], [answer], answer)


@router.post(
    "/predict/batch",
    response_model=BatchAnswers,
    responses=BODY_PROBLEMS,
    dependencies=[Depends(require_json)],
)
async def post_predict_batch(
    body: Annotated[Batch, Body(openapi_examples=BATCH_EXAMPLES)], request: Request
) -> Response:
    """Several requests in one, which the models score together. A request that fails has an error."""
    start = time.perf_counter()
    state = request.app.state
    predictor, timeout = state.holder.predictor, state.settings.timeout
    results = await run_in_thread(lambda: predictor.batch(body.requests, timeout=timeout))
    answers = [BatchError(error=str(r)) if isinstance(r, RequestError) else r for r in results]
    took_ms = round((time.perf_counter() - start) * 1000, 3)
    response = BatchAnswers(answers=answers, took_ms=took_ms)
    return make_response(request, body.requests, results, response)


async def run_in_thread(work: Callable[[], T]) -> T:
    """Run long work in a thread, while short requests are answered. Raises 503 if no thread is free."""
    try:
        with fail_after(MAX_WAIT):
            await THREADS.acquire()
    except TimeoutError:
        raise HTTPException(
            503,
            f"a long request must get a thread within {MAX_WAIT:g} s, found none free; "
            "try again later, or send smaller requests",
            {"Retry-After": "10"},
        ) from None
    try:
        return await to_thread.run_sync(work)
    finally:
        THREADS.release()


def make_response(
    request: Request,
    requests: Sequence[PredictRequest],
    results: Sequence[Answer | Answers | RequestError],
    body: BaseModel,
) -> Response:
    """Return a response with this body, and keep the results for the metrics, the log and feedback."""
    state = request.scope["state"]
    state["results"] = results
    if (feedback_log := request.app.state.feedback) is not None:
        feedback_log.remember(state["request_id"], requests, results)
    return Response(body.model_dump_json(), media_type=JSON)
