"""Exception handlers: every error response is an application/problem+json document."""

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


def problem_response(
    request: Request, status: int, detail: str, headers: dict[str, str] | None = None
) -> Response:
    """Return the response for an error, as a :class:`Problem`."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request.url.path,
    )
    return Response(body.model_dump_json(), status, headers, MEDIA_TYPE)


def add_handlers(app: FastAPI) -> None:
    """Add a handler for each kind of exception to the application."""

    @app.exception_handler(RequestError)
    async def request_error(request: Request, error: RequestError) -> Response:
        return problem_response(request, 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return problem_response(request, 422, validation_detail(error.errors()))

    @app.exception_handler(StoreError)
    async def store_error(request: Request, error: StoreError) -> Response:
        return problem_response(request, 503, str(error))

    @app.exception_handler(HTTPException)
    async def http_exception(request: Request, error: HTTPException) -> Response:
        if error.status_code == 400 and error.__cause__ is not None:
            # FastAPI's response to JSON that the parser gives up on: too deep, or too long a number.
            detail = f"body: not readable JSON: {error.__cause__}; correct it"
            return problem_response(request, 422, detail)
        headers = dict(error.headers) if error.headers else None
        return problem_response(request, error.status_code, str(error.detail), headers)

    @app.exception_handler(RecursionError)
    async def recursion_error(request: Request, _error: RecursionError) -> Response:
        return problem_response(
            request, 422, "body: nested too deeply (a request needs about 6 levels)"
        )

    @app.exception_handler(Exception)
    async def other_exception(request: Request, error: Exception) -> Response:
        return internal_error(request, error)


def validation_detail(errors: Iterable[Any]) -> str:
    """Describe pydantic's validation errors of a body, field by field."""
    clauses = []
    for item in errors:
        if item["type"] == "json_invalid":
            # FastAPI gives the position in loc, pydantic in the message.
            position = f" at character {item['loc'][-1]}" if item["loc"] else ""
            clauses.append(f"body: not JSON{position}: {item['ctx']['error']}; correct it")
            continue
        field = ".".join(str(part) for part in item["loc"] if part != "body") or "body"
        rule = item["msg"].removeprefix("Value error, ")
        clauses.append(f"{field}: {rule}, found {shorten(item.get('input'))}")
    return "; ".join(clauses)


def internal_error(request: Request, error: Exception) -> Response:
    """Log an unexpected exception, and return a response that does not disclose it."""
    log.exception("request to %s failed", request.url.path, exc_info=error)
    return problem_response(request, 500, "the service failed at this request; see its log")


def too_many_requests(request: Request, max_requests: int) -> Response:
    """Return the response to a request beyond the limit of concurrent requests."""
    detail = (
        f"at most {max_requests} concurrent requests are allowed, found more; try again in a moment"
    )
    return problem_response(request, 503, detail, {"Retry-After": "1"})


def shorten(value: object) -> str:
    """Return the ASCII representation of a value for an error message, at most 80 characters long."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
