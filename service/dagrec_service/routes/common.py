"""Dependencies of the endpoints, and the error responses of the OpenAPI document."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from dagrec_service.errors import MEDIA_TYPE
from dagrec_service.holder import Holder
from dagrec_service.schemas import Problem

DESCRIPTIONS = {
    401: "the key or token is missing or wrong",
    403: "the endpoint is switched off",
    404: "not found",
    408: "the body did not arrive in time",
    409: "the bundle was refused; the service keeps the current one",
    413: "the body is too large",
    415: "the content type of the body is not JSON",
    422: "the request is invalid",
    503: "no bundle is loaded, or there are too many concurrent requests",
}
Responses = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Responses:
    """Return OpenAPI descriptions of these error responses, and of those that any request can get."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {
        status: {"content": content, "description": DESCRIPTIONS[status]}
        for status in sorted({401, 503, *statuses})
    }


BODY_PROBLEMS = problems(408, 413, 415, 422)


# The dependencies are async functions, so that FastAPI does not run them in a thread pool.
async def get_holder(request: Request) -> Holder:
    """Return the holder of the live bundle."""
    holder: Holder = request.app.state.holder
    return holder


async def require_json(request: Request) -> None:
    """Reject other content types with 415, before the body fails validation with 422."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not re.fullmatch(r"application/(\S+\+)?json", kind):
        found = repr(kind) if kind else "none"
        raise HTTPException(415, f"content-type must be application/json, found {found}; set it")


HolderDep = Annotated[Holder, Depends(get_holder)]
