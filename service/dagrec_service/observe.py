"""Around every request: an id, a limit, a log line, counts. Plain ASGI, since every request pays it."""

from __future__ import annotations

import re
import time
from os import urandom
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dagrec.recommend.answers import Answer, Answers
from dagrec_service import errors
from dagrec_service.access import path_below
from dagrec_service.logs import AccessLog
from dagrec_service.metrics import Metrics

HEADER = b"x-request-id"
ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,128}")
PROBES = re.compile(r"/(?:(?:v2/)?health/.*|metrics)")
"""Never turned away: a busy service that does not answer its probes is killed for it."""


class Observe:
    """Gives requests their ids, counts and logs them, and turns those away that are too many."""

    def __init__(self, app: ASGIApp, metrics: Metrics, most: int, log: AccessLog | None = None) -> None:
        self.app = app
        self.metrics = metrics
        self.most = most
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        given = next((value for name, value in scope["headers"] if name == HEADER), b"")
        id_ = given if ACCEPTED.fullmatch(given) else urandom(16).hex().encode()
        state = scope.setdefault("state", {})
        state["request_id"] = id_.decode()
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, id_)]
            await send(message)

        self.metrics.active += 1
        try:
            if self.metrics.active > self.most and not PROBES.fullmatch(path_below(scope)):
                await errors.busy(Request(scope), self.most)(scope, receive, answer)
            else:
                await self.app(scope, receive, answer)
        except Exception as error:
            response = errors.failure(Request(scope), error)
            if status:
                raise  # part of an answer is on its way, and cannot be taken back
            await response(scope, receive, answer)
        finally:
            self.metrics.active -= 1
            self._tell(scope, status, time.perf_counter() - start)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        state = scope["state"]
        route = getattr(scope.get("route"), "path", "none")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.count(route, method, status, seconds)
        found = state.get("answered")
        if found is not None:
            self.metrics.answered(found)
        if self.log is not None:
            fields = {
                "request_id": state["request_id"],
                "method": method,
                "path": scope["path"][:200],
                "status": status,
                "ms": round(seconds * 1000, 3),
            }
            self.log.write("request", fields | _of(found or ()))


METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def _of(found: Any) -> dict[str, Any]:
    """What is logged of the answers: no keys, no services."""
    for each in found:
        answers = each.answers if isinstance(each, Answers) else [each]
        if answers and isinstance(answers[0], Answer):
            first = answers[0]
            return {
                "model": first.model,
                "version": first.version,
                "strategy": first.strategy,
                "answers": sum(
                    len(other.answers) if isinstance(other, Answers) else 1 for other in found
                ),
            }
    return {}


class LogBodies:
    """Logs what is sent; for looking at one's own requests, and off unless it is asked for."""

    def __init__(self, app: ASGIApp, log: AccessLog) -> None:
        self.app = app
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def told() -> Message:
            message = await receive()
            if body := message.get("body"):
                fields = {
                    "request_id": scope["state"]["request_id"],
                    "body": body.decode("utf-8", "replace"),
                }
                self.log.write("body", fields)
            return message

        await self.app(scope, told, send)
