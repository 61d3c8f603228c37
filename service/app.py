"""The FastAPI application."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI

from dagrec.errors import ConfigError, DagrecError
from service import errors
from service.body_limit import BodyLimit
from service.holder import Holder
from service.routes import ROUTERS
from service.settings import Settings, make_settings


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; the live bundle is loaded when it starts, or it does not start.

    Without ``settings`` they come from the environment (for ``uvicorn --factory``).
    """
    chosen = settings or make_settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.settings, app.state.feedback = chosen, None
        app.state.holder = Holder(chosen.store)
        app.state.holder.load()
        yield

    app = FastAPI(
        title="dagrec",
        summary="Which service comes next in a composition that somebody is building",
        lifespan=lifespan,
        root_path=chosen.root_path,
        # FastAPI's own telemetry costs 12 % of the throughput of such short requests.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_middleware(BodyLimit, most=chosen.max_body)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def run(settings: Settings) -> None:
    """Serve until told to stop. Raises :class:`DagrecError` at once for what keeps it from starting."""
    Holder(settings.store).load()
    if settings.log_level not in uvicorn.config.LOG_LEVELS:
        levels = ", ".join(uvicorn.config.LOG_LEVELS)
        raise ConfigError(f"log_level must be one of {levels}, found {settings.log_level!r}")
    _need_free(settings.host, settings.port)
    uvicorn.run(
        create_app(settings), host=settings.host, port=settings.port, log_level=settings.log_level
    )


def _need_free(host: str, port: int) -> None:
    """Raise :class:`DagrecError` where the address cannot be bound; uvicorn would exit with 3."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise DagrecError(
            f"{host}, port {port}: cannot be bound: {error.strerror}; choose another --host or --port"
        ) from None
