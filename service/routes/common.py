"""What endpoints share: the live bundle, the kinds of failure in the OpenAPI document."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from service.errors import MEDIA_TYPE
from service.holder import Holder
from service.schemas import Problem

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}, "description": about}
    for status, about in {
        413: "the body is too large",
        415: "the body is not declared to be JSON",
        422: "the request breaks a rule",
        503: "no bundle is loaded",
    }.items()
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
