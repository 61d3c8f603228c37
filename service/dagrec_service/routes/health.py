"""Health checks and metrics."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from dagrec_service.routes.common import HolderDep, Responses, problems
from dagrec_service.schemas import Health, RefusedBundle

router = APIRouter()
PLAIN_TEXT: Responses = {200: {"content": {"text/plain": {}}}}


@router.get("/health/live", responses=problems())
async def live() -> Health:
    """The process responds."""
    return Health(status="live")


@router.get("/health/ready", responses=problems())
async def ready(holder: HolderDep) -> Health:
    """A bundle is loaded, and its champion passes the self-check.

    `refused` describes a newer bundle that was refused: the service keeps the current one.
    """
    bundle, refusal = holder.check(), holder.refused
    refused = None if refusal is None else RefusedBundle(**asdict(refusal))
    return Health(status="ready", version=bundle.version, refused=refused)


@router.get("/metrics", response_class=Response, responses=PLAIN_TEXT | problems())
async def metrics(request: Request) -> Response:
    """Metrics for Prometheus."""
    text, content_type = request.app.state.metrics.exposition()
    return Response(text, media_type=content_type)
