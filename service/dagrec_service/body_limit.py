"""Limits on request bodies. Starlette's own limits respond in plain text instead of a problem."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dagrec_service.errors import problem_response


class BodyLimitMiddleware:
    """Responds 413 to bodies above ``max_bytes``, and 408 to incomplete ones after ``timeout`` seconds.

    The size is checked both in Content-Length and in the bytes received.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > self.max_bytes:
            await problem_response(Request(scope), 413, self._detail(length))(scope, receive, send)
            return
        deadline = asyncio.get_running_loop().time() + self.timeout
        received, complete = 0, False

        async def limited_receive() -> Message:
            nonlocal received, complete
            if complete:  # the next message is the end of the connection
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408,
                    f"a body must arrive within {self.timeout:g} s, found it incomplete; send it again",
                ) from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > self.max_bytes:
                raise HTTPException(413, self._detail(f"{received} or more"))
            return message

        await self.app(scope, limited_receive, send)

    def _detail(self, size: str) -> str:
        return (
            f"a body must have at most {self.max_bytes} bytes, found {size}; send less, or raise "
            "DAGREC_MAX_BODY"
        )
