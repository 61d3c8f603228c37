"""The endpoints, one file per group. Each calls the library."""

from __future__ import annotations

from fastapi import APIRouter

from dagrec_service.routes import (
    admin,
    compositions,
    feedback,
    health,
    inference,
    models,
    playground,
    predict,
)

ROUTERS: tuple[APIRouter, ...] = (
    predict.router,
    feedback.router,
    compositions.router,
    models.router,
    health.router,
    admin.router,
    inference.router,
    playground.router,
)
"""The routers in the order of the API documentation."""
