"""The FastAPI application."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from dagrec.errors import DagrecError
from dagrec_service import errors
from dagrec_service.access import ApiKeyMiddleware
from dagrec_service.body_limit import BodyLimitMiddleware
from dagrec_service.feedback_log import FeedbackLog
from dagrec_service.holder import Holder
from dagrec_service.logs import AccessLog, logging_config
from dagrec_service.metrics import Metrics
from dagrec_service.observe import LogBodiesMiddleware, ObserveMiddleware
from dagrec_service.routes import ROUTERS
from dagrec_service.settings import Settings, make_settings, unknown_variables

log = logging.getLogger("dagrec.service")


def create_app(settings: Settings | None = None, *, holder: Holder | None = None) -> FastAPI:
    """Return the application. It loads the live bundle on startup, and does not start without one.

    ``settings`` default to those of the environment (for ``uvicorn --factory``). A ``holder`` must
    already have loaded its bundle.
    """
    settings = settings or make_settings()
    bundle_holder = holder or Holder(settings.store, cache=settings.cache)
    metrics = Metrics()
    metrics.add_holder(bundle_holder)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if holder is None:
            bundle_holder.load()
        for name in unknown_variables():
            log.warning("%s is not a setting and is ignored; see dagrec serve --help", name)
        watcher = asyncio.create_task(bundle_holder.watch(settings.watch)) if settings.watch else None
        yield
        if watcher:
            watcher.cancel()

    app = FastAPI(
        title="dagrec",
        summary="Recommends the next service for a workflow that is being composed",
        lifespan=lifespan,
        root_path=settings.root_path,
        # FastAPI's telemetry costs 12 % of the throughput of such short requests.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings, app.state.holder, app.state.metrics = settings, bundle_holder, metrics
    app.state.feedback = settings.feedback and FeedbackLog(settings.feedback, settings.feedback_mb)
    _add_middleware(app, settings, metrics)
    errors.add_handlers(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _add_middleware(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Add the middleware, the innermost first."""
    access_log = AccessLog(settings.log_format) if settings.log_level in ("info", "debug") else None
    app.add_middleware(BodyLimitMiddleware, max_bytes=settings.max_body, timeout=settings.body_timeout)
    if settings.log_bodies and access_log is not None:
        app.add_middleware(LogBodiesMiddleware, log=access_log)
    if settings.api_key is not None:
        secrets = (settings.api_key, settings.admin_token)
        keys = tuple(secret for secret in secrets if secret is not None)
        app.add_middleware(ApiKeyMiddleware, keys=keys)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("X-Request-ID",),
        )
    app.add_middleware(
        ObserveMiddleware, metrics=metrics, max_requests=settings.max_requests, log=access_log
    )


def run(settings: Settings) -> None:
    """Serve until a signal stops the process. Raises :class:`DagrecError` if it cannot start."""
    holder = Holder(settings.store, cache=settings.cache, on_load=freeze_objects)
    holder.load()
    _check_address(settings.host, settings.port)
    uvicorn.run(
        create_app(settings, holder=holder),
        host=settings.host,
        port=settings.port,
        log_config=logging_config(settings.log_level, settings.log_format),
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.grace,
    )


def freeze_objects() -> None:
    """Exclude all existing objects, mostly those of the bundle, from garbage collection.

    Collections that scan them take up to half of the time of an answer. This suits only a process that
    does nothing but serve.
    """
    gc.set_threshold(20_000, 20, 100)  # an answer creates few reference cycles
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _check_address(host: str, port: int) -> None:
    """Raise :class:`DagrecError` if the address cannot be bound; uvicorn would exit with status 3."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise DagrecError(
            f"{host}, port {port}: cannot be bound: {error.strerror}; choose another --host or --port"
        ) from None
