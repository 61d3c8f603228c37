"""Who may ask: an API key for all, a token for the administration."""

from __future__ import annotations

import re
from hmac import compare_digest

from fastapi import HTTPException, Request
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dagrec_service.errors import problem

OPEN = re.compile(r"/(?:health/.*|v2/health/.*|static/.*)?")
"""Paths that need no key: what asks for health has none, and the page must come to ask for it."""
SCHEME = {"WWW-Authenticate": "Bearer"}


class NeedKey:
    """Answers 401 to requests without the API key."""

    def __init__(self, app: ASGIApp, keys: tuple[SecretStr, ...]) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not OPEN.fullmatch(path_below(scope)):
            headers = Headers(scope=scope)
            given = headers.get("x-api-key") or _bearer(headers)
            if not any(_same(given, key) for key in self.keys):
                detail = (
                    "the API key must be in the header X-API-Key or in Authorization: Bearer, found "
                    f"{'another' if given else 'none'}; ask the operator for it"
                )
                await problem(Request(scope), 401, detail, SCHEME)(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def administrator(request: Request) -> None:
    """Refuse whoever has no administrator's token, and everybody where there is no such token."""
    token: SecretStr | None = request.app.state.settings.admin_token
    if token is None:
        raise HTTPException(403, "administration is off; set DAGREC_ADMIN_TOKEN to switch it on")
    given = _bearer(request.headers)
    if not _same(given, token):
        raise HTTPException(
            401,
            "the administrator's token must be in Authorization: Bearer, found "
            f"{'another' if given else 'none'}; it is the service's DAGREC_ADMIN_TOKEN",
            SCHEME,
        )


def path_below(scope: Scope) -> str:
    """The path below the prefix that a proxy has, or has not, stripped."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _bearer(headers: Headers) -> str:
    kind, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def _same(given: str, secret: SecretStr) -> bool:
    return compare_digest(given.encode(), secret.get_secret_value().encode())
