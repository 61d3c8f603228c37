"""Feedback on answers."""

from __future__ import annotations

import logging
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Body, Depends, HTTPException, Request
from fastapi.openapi.models import Example

from dagrec.recommend.feedback import Decision, Feedback
from dagrec_service.feedback_log import FeedbackLog
from dagrec_service.routes.common import HolderDep, problems, require_json

router = APIRouter()
log = logging.getLogger("dagrec.service")

WRITER_THREADS = CapacityLimiter(4)
"""Threads that wait for the disk, separate from those of the predictions."""
EXAMPLES: dict[str, Example] = {
    "taken": {
        "summary": "a service was taken",
        "value": {"request_id": "an-answer", "action": "taken", "service": "service_308"},
    },
    "refused": {
        "summary": "all services shown were refused",
        "value": {"request_id": "an-answer", "action": "refused"},
    },
}


@router.post(
    "/feedback",
    responses=problems(404, 408, 413, 415, 422),
    dependencies=[Depends(require_json)],
)
async def post_feedback(
    body: Annotated[Feedback, Body(openapi_examples=EXAMPLES)], request: Request, holder: HolderDep
) -> Decision:
    """Report that a service was taken after an answer, or refused; see `dagrec feedback`.

    `request_id` is the value of the answer's header X-Request-ID. Feedback is possible on the last
    10,000 answers, any number of times. The decision is on disk when the response is sent.
    """
    feedback_log: FeedbackLog | None = request.app.state.feedback
    if feedback_log is None:
        raise HTTPException(
            404,
            "feedback is off; serve with --feedback FOLDER, or set DAGREC_FEEDBACK, to switch it on",
        )
    vocabulary = holder.bundle.vocabulary
    try:
        decision = await to_thread.run_sync(
            feedback_log.record, body, vocabulary, limiter=WRITER_THREADS
        )
    except OSError as error:
        log.error("feedback cannot be written to %s: %s", feedback_log.folder, error.strerror)
        raise HTTPException(
            503,
            f"feedback cannot be written: {error.strerror}; it was not counted, send it again later",
        ) from None
    if decision is None:
        raise HTTPException(
            404,
            f"request_id must be the X-Request-ID of one of the last {feedback_log.max_results} "
            f"answers, found {body.request_id!a}; send the request again, and report on that answer",
        )
    request.app.state.metrics.feedback.labels(body.action).inc()
    return decision
