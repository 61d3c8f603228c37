"""The endpoints, a file each group. Each is a call of the library."""

from __future__ import annotations

from fastapi import APIRouter

from service.routes import health, models, predict

ROUTERS: tuple[APIRouter, ...] = (predict.router, models.router, health.router)
"""In the order of the documentation."""
