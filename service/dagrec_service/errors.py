"""Every failure in one shape: application/problem+json."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from dagrec.errors import RequestError, StoreError
from dagrec_service.schemas import Problem

MEDIA_TYPE = "application/problem+json"
log = logging.getLogger("dagrec.service")


def problem(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """The answer for a failure."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request.url.path,
    )
    return Response(body.model_dump_json(), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Give the app a handler for every kind of failure."""

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        return problem(request, 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return problem(request, 422, clauses(error.errors()))

    @app.exception_handler(StoreError)
    async def no_bundle(request: Request, error: StoreError) -> Response:
        return problem(request, 503, str(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400 and error.__cause__ is not None:
            # FastAPI's answer to a body whose JSON no parser can hold: too deep, too long a number.
            return problem(request, 422, f"body: not readable JSON: {error.__cause__}; correct it")
        headers = dict(error.headers) if error.headers else None
        return problem(request, error.status_code, str(error.detail), headers)

    @app.exception_handler(RecursionError)
    async def too_deep(request: Request, _error: RecursionError) -> Response:
        return problem(request, 422, "body: nested too deeply (a request needs about 6 levels)")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return failure(request, error)


def clauses(errors: Iterable[Any]) -> str:
    """What is wrong with a body, field by field, from the errors of pydantic."""
    found = []
    for item in errors:
        if item["type"] == "json_invalid":
            # FastAPI says where; pydantic says it in the text.
            place = f" at character {item['loc'][-1]}" if item["loc"] else ""
            found.append(f"body: not JSON{place}: {item['ctx']['error']}; correct it")
            continue
        field = ".".join(str(part) for part in item["loc"] if part != "body") or "body"
        rule = item["msg"].removeprefix("Value error, ")
        found.append(f"{field}: {rule}, found {short(item.get('input'))}")
    return "; ".join(found)


def failure(request: Request, error: Exception) -> Response:
    """The answer for what nobody foresaw; the log says what it was, and the answer does not."""
    log.exception("request to %s failed", request.url.path, exc_info=error)
    return problem(request, 500, "the service failed at this request; its log says why")


def busy(request: Request, most: int) -> Response:
    """The answer for one request too many."""
    detail = f"requests answered at the same time may be {most}; try again in a moment"
    return problem(request, 503, detail, {"Retry-After": "1"})


def short(value: object) -> str:
    """A value for an error message, in ASCII, cut to a length that a person reads."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
