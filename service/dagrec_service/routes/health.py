"""Whether the process lives, whether it can answer, and what it has counted."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from dagrec_service.routes.common import Documented, Held, problems
from dagrec_service.schemas import Health, Refused

router = APIRouter()
PLAIN: Documented = {200: {"content": {"text/plain": {}}}}


@router.get("/health/live", responses=problems())
async def live() -> Health:
    """The process answers."""
    return Health(status="live")


@router.get("/health/ready", responses=problems())
async def ready(held: Held) -> Health:
    """A bundle is loaded, and its champion has just answered canned contexts.

    `refused` tells of a newer bundle that was not taken: the service goes on with the old one.
    """
    bundle, refused = held.check(), held.refused
    found = None if refused is None else Refused(**asdict(refused))
    return Health(status="ready", version=bundle.version, refused=found)


@router.get("/metrics", response_class=Response, responses=PLAIN | problems())
async def metrics(request: Request) -> Response:
    """Counts for Prometheus."""
    text, kind = request.app.state.metrics.text()
    return Response(text, media_type=kind)
