"""What endpoints share: the live bundle, the kinds of failure in the OpenAPI document."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from dagrec_service.errors import MEDIA_TYPE
from dagrec_service.holder import Holder
from dagrec_service.schemas import Problem

ABOUT = {
    401: "the key or token is missing or wrong",
    403: "it is switched off",
    404: "there is no such thing",
    408: "the body did not arrive in time",
    409: "the bundle was refused, and the one before goes on",
    413: "the body is too large",
    415: "the body is not declared to be JSON",
    422: "the request breaks a rule",
    503: "no bundle is loaded, or too many requests are being answered",
}
Documented = dict[int | str, dict[str, Any]]


def problems(*statuses: int) -> Documented:
    """These failures as the OpenAPI document tells of them, and those that any request can meet."""
    content = {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}
    return {s: {"content": content, "description": ABOUT[s]} for s in sorted({401, 503, *statuses})}


WITH_BODY = problems(408, 413, 415, 422)


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
