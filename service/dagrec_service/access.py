"""Authentication: an API key for all requests, and a token for the administration endpoints."""

from __future__ import annotations

import re
from hmac import compare_digest

from fastapi import HTTPException, Request
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dagrec_service.errors import problem_response

PUBLIC_PATHS = re.compile(r"/(?:health/.*|v2/health/.*|static/.*)?")
"""Paths that need no key: health probes send none, and the page must load before it can ask for one."""
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class ApiKeyMiddleware:
    """Responds 401 to requests without a valid API key."""

    def __init__(self, app: ASGIApp, keys: tuple[SecretStr, ...]) -> None:
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not PUBLIC_PATHS.fullmatch(path_without_root(scope)):
            headers = Headers(scope=scope)
            key = headers.get("x-api-key") or _bearer_token(headers)
            if not any(_equal(key, valid) for valid in self.keys):
                detail = (
                    "the API key must be in the header X-API-Key or in Authorization: Bearer, found "
                    f"{'a wrong one' if key else 'none'}; ask the operator for it"
                )
                await problem_response(Request(scope), 401, detail, CHALLENGE)(scope, receive, send)
                return
        await self.app(scope, receive, send)


async def require_admin(request: Request) -> None:
    """Reject requests without the administration token, and all requests if no token is set."""
    token: SecretStr | None = request.app.state.settings.admin_token
    if token is None:
        raise HTTPException(403, "administration is off; set DAGREC_ADMIN_TOKEN to switch it on")
    sent = _bearer_token(request.headers)
    if not _equal(sent, token):
        raise HTTPException(
            401,
            "the administration token must be in Authorization: Bearer, found "
            f"{'a wrong one' if sent else 'none'}; it is the service's DAGREC_ADMIN_TOKEN",
            CHALLENGE,
        )


def path_without_root(scope: Scope) -> str:
    """Return the path below ``root_path``, whether or not the proxy has stripped that prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


def _bearer_token(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _equal(sent: str, secret: SecretStr) -> bool:
    return compare_digest(sent.encode(), secret.get_secret_value().encode())
