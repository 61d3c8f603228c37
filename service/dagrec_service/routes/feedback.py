"""Feedback: what people made of the answers."""

from __future__ import annotations

import logging
from typing import Annotated

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Body, Depends, HTTPException, Request
from fastapi.openapi.models import Example

from dagrec.feedback.record import Decision, Feedback
from dagrec_service.feedback_log import FeedbackLog
from dagrec_service.routes.common import Held, declared_json, problems

router = APIRouter()
log = logging.getLogger("dagrec.service")

WRITERS = CapacityLimiter(4)
"""Threads that wait for the disk; those of the predictions are others."""
EXAMPLES: dict[str, Example] = {
    "taken": {
        "summary": "a service of the answer was taken",
        "value": {"request_id": "an-answer", "action": "taken", "service": "service_308"},
    },
    "refused": {
        "summary": "nothing of what was shown fits",
        "value": {"request_id": "an-answer", "action": "refused"},
    },
}


@router.post(
    "/feedback",
    responses=problems(404, 408, 413, 415, 422),
    dependencies=[Depends(declared_json)],
)
async def post_feedback(
    body: Annotated[Feedback, Body(openapi_examples=EXAMPLES)], request: Request, held: Held
) -> Decision:
    """Tell which service was taken after an answer, or that it was refused; see `dagrec feedback`.

    `request_id` is the answer's header X-Request-ID. The newest 10,000 answers are remembered; there
    may be several reports on each. What is answered here is on disk.
    """
    feedback: FeedbackLog | None = request.app.state.feedback
    if feedback is None:
        raise HTTPException(
            404,
            "feedback is off; serve with --feedback FOLDER, or set DAGREC_FEEDBACK, to switch it on",
        )
    vocabulary = held.bundle.vocabulary
    try:
        decision = await to_thread.run_sync(feedback.note, body, vocabulary, limiter=WRITERS)
    except OSError as error:
        log.error("feedback cannot be written to %s: %s", feedback.folder, error.strerror)
        raise HTTPException(
            503,
            f"feedback cannot be written: {error.strerror}; it was not counted, send it again later",
        ) from None
    if decision is None:
        raise HTTPException(
            404,
            f"request_id must be the X-Request-ID of one of the newest {feedback.most_remembered} "
            f"answers, found {body.request_id!a}; ask again, and report on that answer",
        )
    request.app.state.metrics.feedback.labels(body.action).inc()
    return decision
