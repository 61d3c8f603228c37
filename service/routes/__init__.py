"""The endpoints, a file each group. Each is a call of the library."""

from __future__ import annotations

from fastapi import APIRouter

from service.routes import admin, health, models, playground, predict

ROUTERS: tuple[APIRouter, ...] = (
    predict.router,
    models.router,
    health.router,
    admin.router,
    playground.router,
)
"""In the order of the documentation."""
