"""The limits on request bodies. Starlette's own answers in plain text, and not as a problem."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dagrec_service.errors import problem


class BodyLimit:
    """Answers 413 to a body of more than ``most`` bytes, whether announced or only counted, and 408 to
    one that has not arrived after ``seconds``."""

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        self.app = app
        self.most = most
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self.most:
            await problem(Request(scope), 413, self._detail(announced))(scope, receive, send)
            return
        until = asyncio.get_running_loop().time() + self.seconds
        total, whole = 0, False

        async def counted() -> Message:
            nonlocal total, whole
            if whole:  # what comes now is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"a body must arrive within {self.seconds:g} s, found it unfinished; send it again",
                ) from None
            total += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if total > self.most:
                raise HTTPException(413, self._detail(f"{total} or more"))
            return message

        await self.app(scope, counted, send)

    def _detail(self, found: str) -> str:
        return f"a body may have {self.most} bytes, found {found}; send less, or raise DAGREC_MAX_BODY"
