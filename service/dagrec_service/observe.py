"""Middleware that runs on all requests: ids, metrics, the access log and the concurrency limit.

It is plain ASGI, because its cost is added to each request.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from os import urandom
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dagrec.errors import RequestError
from dagrec.recommend.answers import Answer, Answers
from dagrec_service import errors
from dagrec_service.access import path_without_root
from dagrec_service.logs import AccessLog
from dagrec_service.metrics import Metrics

ID_HEADER = b"x-request-id"
VALID_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
PROBES = re.compile(r"/(?:(?:v2/)?health/.*|metrics)")
"""Paths without a concurrency limit: an orchestrator kills a service whose probes fail."""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class ObserveMiddleware:
    """Assigns request ids, counts and logs requests, and rejects those over the concurrency limit."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, max_requests: int, log: AccessLog | None = None
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.max_requests = max_requests
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        sent_id = next((value for name, value in scope["headers"] if name == ID_HEADER), b"")
        id_ = sent_id if VALID_ID.fullmatch(sent_id) else urandom(16).hex().encode()
        state = scope.setdefault("state", {})
        state["request_id"] = id_.decode()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (ID_HEADER, id_)]
            await send(message)

        self.metrics.active += 1
        try:
            busy = self.metrics.active > self.max_requests
            if busy and not PROBES.fullmatch(path_without_root(scope)):
                response = errors.too_many_requests(Request(scope), self.max_requests)
                await response(scope, receive, send_with_id)
            else:
                await self.app(scope, receive, send_with_id)
        except Exception as error:
            response = errors.internal_error(Request(scope), error)
            if status:
                raise  # the response has started already
            await response(scope, receive, send_with_id)
        finally:
            self.metrics.active -= 1
            self._report(scope, status, time.perf_counter() - start)

    def _report(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.count_request(route, method, status, seconds)
        results = state.get("results")
        if results is not None:
            self.metrics.count_answers(results)
        if self.log is not None:
            fields = {
                "request_id": state["request_id"],
                "method": method,
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1000, 3),
            }
            self.log.write("request", fields | _answer_fields(results or ()))


def _answer_fields(results: Sequence[Answer | Answers | RequestError]) -> dict[str, Any]:
    """Return the log fields of the results; they contain no keys of nodes or services."""
    for result in results:
        answers = result.answers if isinstance(result, Answers) else [result]
        if answers and isinstance(answers[0], Answer):
            first = answers[0]
            return {
                "model": first.model,
                "version": first.version,
                "strategy": first.strategy,
                "answers": sum(
                    len(other.answers) if isinstance(other, Answers) else 1 for other in results
                ),
            }
    return {}


class LogBodiesMiddleware:
    """Logs request bodies, for debugging."""

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self.app = app
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def logging_receive() -> Message:
            message = await receive()
            if body := message.get("body"):
                fields = {
                    "request_id": scope["state"]["request_id"],
                    "body": body.decode("utf-8", "replace"),
                }
                self.log.write("body", fields)
            return message

        await self.app(scope, logging_receive, send)
