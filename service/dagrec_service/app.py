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
from dagrec_service.access import NeedKey
from dagrec_service.body_limit import BodyLimit
from dagrec_service.feedback_log import FeedbackLog
from dagrec_service.holder import Holder
from dagrec_service.logs import AccessLog, configure
from dagrec_service.metrics import Metrics
from dagrec_service.observe import LogBodies, Observe
from dagrec_service.routes import ROUTERS
from dagrec_service.settings import Settings, make_settings, unknown_variables

log = logging.getLogger("dagrec.service")


def create_app(settings: Settings | None = None, *, holder: Holder | None = None) -> FastAPI:
    """The application; the live bundle is loaded when it starts, or it does not start.

    Without ``settings`` they come from the environment (for ``uvicorn --factory``). A ``holder`` that
    has loaded already is taken as it is.
    """
    chosen = settings or make_settings()
    held = holder or Holder(chosen.store, cache=chosen.cache)
    metrics = Metrics()
    metrics.watch(held)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if holder is None:
            held.load()
        for name in unknown_variables():
            log.warning("%s is no setting, and was ignored; see dagrec serve --help", name)
        watching = asyncio.create_task(held.watch(chosen.watch)) if chosen.watch else None
        yield
        if watching:
            watching.cancel()

    app = FastAPI(
        title="dagrec",
        summary="Which service comes next in a composition that somebody is building",
        lifespan=lifespan,
        root_path=chosen.root_path,
        # FastAPI's own telemetry costs 12 % of the throughput of such short requests.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.settings, app.state.holder, app.state.metrics = chosen, held, metrics
    app.state.feedback = chosen.feedback and FeedbackLog(chosen.feedback, chosen.feedback_mb)
    _wrap(app, chosen, metrics)
    errors.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _wrap(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    """Put around the endpoints what every request passes, the innermost first."""
    log = AccessLog(settings.log_format) if settings.log_level in ("info", "debug") else None
    app.add_middleware(BodyLimit, most=settings.max_body, seconds=settings.body_timeout)
    if settings.log_bodies and log is not None:
        app.add_middleware(LogBodies, log=log)
    if settings.api_key is not None:
        secrets = (settings.api_key, settings.admin_token)
        app.add_middleware(NeedKey, keys=tuple(secret for secret in secrets if secret is not None))
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=("X-Request-ID",),
        )
    app.add_middleware(Observe, metrics=metrics, most=settings.max_requests, log=log)


def run(settings: Settings) -> None:
    """Serve until told to stop. Raises :class:`DagrecError` at once for what keeps it from starting."""
    holder = Holder(settings.store, cache=settings.cache, taken=settle)
    holder.load()
    _need_free(settings.host, settings.port)
    uvicorn.run(
        create_app(settings, holder=holder),
        host=settings.host,
        port=settings.port,
        log_config=configure(settings.log_level, settings.log_format),
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive,
        timeout_graceful_shutdown=settings.grace,
    )


def settle() -> None:
    """Take what is there, a bundle above all, out of what is searched for garbage.

    The searches cost up to half of an answer. For a process that does nothing but serve.
    """
    gc.set_threshold(20_000, 20, 100)  # an answer makes few objects that hold each other
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _need_free(host: str, port: int) -> None:
    """Raise :class:`DagrecError` where the address cannot be bound; uvicorn would exit with 3."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise DagrecError(
            f"{host}, port {port}: cannot be bound: {error.strerror}; choose another --host or --port"
        ) from None
