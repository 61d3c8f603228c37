"""The Open Inference Protocol, version 2 (KServe, Triton, ...): predictions as tensors.

A model is a label of the live bundle, or ``dagrec`` for its champion; its one version is the bundle's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.metadata import version as package_version
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from dagrec.errors import RequestError
from dagrec.store.bundle import Bundle
from dagrec_service.errors import clauses
from dagrec_service.routes import health
from dagrec_service.routes.common import Documented, Held, problems
from dagrec_service.routes.predict import answered, aside
from dagrec_service.tensors import (
    OUTPUTS,
    InferRequest,
    InferResponse,
    one_answer,
    output_tensor,
    row_requests,
    wanted_outputs,
)

CHAMPION = "dagrec"


class Failure(BaseModel):
    """A failure, as the protocol has it."""

    error: str


class ServerInfo(BaseModel):
    """What serves."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """Whether the process answers."""

    live: bool


class Ready(BaseModel):
    """Whether it can answer predictions."""

    ready: bool


class ModelReady(Ready):
    """Whether a model can answer."""

    name: str


class TensorInfo(BaseModel):
    """A tensor that goes in or comes out; -1: any number."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model, and its tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class ProtocolRoute(APIRoute):
    """Answers what it refuses in the protocol's form, and takes a body whatever type it declares."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        careful, endpoint, has_body = super().get_route_handler(), self.endpoint, bool(self.body_field)

        async def handle(request: Request) -> Response:
            try:
                if not has_body:
                    return await careful(request)
                if "inference-header-content-length" in request.headers:
                    return _failure(400, "tensors must be JSON, found binary ones; send data as JSON")
                body = InferRequest.model_validate_json(await request.body())
                found: Response = await endpoint(body=body, request=request, **request.path_params)
                return found
            except ValidationError as error:
                return _failure(400, clauses(error.errors(include_url=False)))
            except RequestError as error:
                return _failure(400, str(error))
            except HTTPException as error:
                if error.status_code != 404:  # of the body: too large, too late
                    raise
                return _failure(404, str(error.detail))

        return handle


def _failure(status: int, error: str) -> Response:
    return Response(Failure(error=error).model_dump_json(), status, media_type="application/json")


def _failures(*statuses: int) -> Documented:
    """The protocol's own failures, and as problems those of every request, before it is looked at."""
    own = {404: "there is no such model or version", 400: "the request breaks a rule"}
    others = problems(*({408, 413} if 400 in statuses else ()))
    # "4XX" keeps FastAPI from telling of a 422, which never comes.
    return (
        {status: {"model": Failure, "description": own[status]} for status in statuses}
        | others
        | {"4XX": others[401]}
    )


router = APIRouter(prefix="/v2", route_class=ProtocolRoute, tags=["open inference protocol"])


@router.get("", responses=_failures())
async def server_metadata() -> ServerInfo:
    """What serves, and which extensions of the protocol it knows."""
    return ServerInfo(name=CHAMPION, version=package_version("dagrec"), extensions=[])


@router.get("/health/live", responses=_failures())
async def server_live() -> Live:
    """The process answers."""
    return Live(live=True)


@router.get("/health/ready", responses=_failures())
async def server_ready(held: Held) -> Ready:
    """A bundle is loaded, and its champion has just answered canned contexts."""
    await health.ready(held)
    return Ready(ready=True)


@router.get("/models/{model}", responses=_failures(404))
async def model_metadata(model: str, held: Held) -> ModelMetadata:
    """A model's version and its tensors."""
    return _metadata(held.bundle, model)


def _metadata(bundle: Bundle, model: str, version: str | None = None) -> ModelMetadata:
    _label(bundle, model, version)
    return ModelMetadata(
        name=model,
        versions=[bundle.version],
        platform="dagrec",
        inputs=[TensorInfo(name="path", datatype="BYTES", shape=[-1])],
        outputs=[
            TensorInfo(name=name, datatype=datatype, shape=[-1, -1])
            for name, (datatype, _) in OUTPUTS.items()
        ],
    )


@router.get("/models/{model}/versions/{version}", responses=_failures(404))
async def version_metadata(model: str, version: str, held: Held) -> ModelMetadata:
    """The same of the live version; there is no other."""
    return _metadata(held.bundle, model, version)


@router.get("/models/{model}/ready", responses=_failures(404))
async def model_ready(model: str, held: Held) -> ModelReady:
    """The model is one of the live bundle, all of which were checked when it was loaded."""
    _label(held.bundle, model)
    return ModelReady(name=model, ready=True)


@router.get("/models/{model}/versions/{version}/ready", responses=_failures(404))
async def version_ready(model: str, version: str, held: Held) -> ModelReady:
    """The same of the live version; there is no other."""
    _label(held.bundle, model, version)
    return ModelReady(name=model, ready=True)


@router.post(
    "/models/{model}/versions/{version}/infer",
    response_model=InferResponse,
    responses=_failures(400, 404),
)
async def version_infer(model: str, version: str, body: InferRequest, request: Request) -> Response:
    """Which service comes next, from the live version; there is no other."""
    return await _infer(request, body, model, version)


@router.post("/models/{model}/infer", response_model=InferResponse, responses=_failures(400, 404))
async def infer(model: str, body: InferRequest, request: Request) -> Response:
    """Which service comes next: the same answers as of POST /predict, as tensors."""
    return await _infer(request, body, model, None)


async def _infer(request: Request, body: InferRequest, model: str, version: str | None) -> Response:
    state = request.app.state
    predictor, timeout = state.holder.predictor, state.settings.timeout
    label = _label(predictor.bundle, model, version)
    wanted = wanted_outputs(body.outputs)
    asked = row_requests(body, label)
    found = await aside(lambda: predictor.batch(asked, timeout=timeout))
    answers = [one_answer(row, each) for row, each in enumerate(found)]
    k = max(each.k for each in asked)
    response = InferResponse(
        model_name=model,
        model_version=predictor.bundle.version,
        id=body.id,
        outputs=[output_tensor(name, answers, k) for name in wanted],
    )
    return answered(request, asked, found, response)


def _label(bundle: Bundle, model: str, version: str | None = None) -> str:
    """The label of a model by its name in the protocol. Raises 404 where it has none."""
    if model not in (*bundle.models, CHAMPION):
        names = ", ".join((CHAMPION, *bundle.models))
        raise HTTPException(404, f"model must be one of {names}, found {model!a}")
    if version not in (None, bundle.version):
        raise HTTPException(
            404, f"version must be the live one, {bundle.version}, or left out, found {version!a}"
        )
    return model if model in bundle.models else bundle.manifest.champion
