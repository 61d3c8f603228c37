"""Whether the process lives, and whether it can answer."""

from __future__ import annotations

from fastapi import APIRouter

from service.holder import self_check
from service.routes.common import PROBLEMS, Held
from service.schemas import Health

router = APIRouter()


@router.get("/health/live")
async def live() -> Health:
    """The process answers."""
    return Health(status="live")


@router.get("/health/ready", responses={503: PROBLEMS[503]})
async def ready(held: Held) -> Health:
    """A bundle is loaded, and each of its models has just answered a canned context."""
    self_check(held.bundle)
    return Health(status="ready", version=held.bundle.version)
