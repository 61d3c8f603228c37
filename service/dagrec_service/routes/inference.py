"""The Open Inference Protocol, version 2 (KServe, Triton, ...): predictions as tensors.

A model is a label of the live bundle, or ``dagrec`` for its champion. Its only version is that of the
bundle.
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
from dagrec_service.errors import validation_detail
from dagrec_service.routes import health
from dagrec_service.routes.common import HolderDep, Responses, problems
from dagrec_service.routes.predict import make_response, run_in_thread
from dagrec_service.tensors import (
    OUTPUTS,
    InferRequest,
    InferResponse,
    output_names,
    output_tensor,
    row_requests,
    single_answer,
)

CHAMPION = "dagrec"


class InferenceError(BaseModel):
    """An error in the form of the protocol."""

    error: str


class ServerInfo(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ServerLive(BaseModel):
    """Whether the process responds."""

    live: bool


class ServerReady(BaseModel):
    """Whether the server can answer requests."""

    ready: bool


class ModelReady(ServerReady):
    """Whether a model can answer requests."""

    name: str


class TensorInfo(BaseModel):
    """An input or output tensor; -1 is a dimension of any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model and its tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorInfo]
    outputs: list[TensorInfo]


class ProtocolRoute(APIRoute):
    """Responds to errors in the form of the protocol, and accepts bodies of any content type."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        default_handler = super().get_route_handler()
        endpoint, has_body = self.endpoint, bool(self.body_field)

        async def handle(request: Request) -> Response:
            try:
                if not has_body:
                    return await default_handler(request)
                if "inference-header-content-length" in request.headers:
                    return _error(400, "tensors must be JSON, found binary ones; send data as JSON")
                body = InferRequest.model_validate_json(await request.body())
                response: Response = await endpoint(body=body, request=request, **request.path_params)
                return response
            except ValidationError as error:
                return _error(400, validation_detail(error.errors(include_url=False)))
            except RequestError as error:
                return _error(400, str(error))
            except HTTPException as error:
                if error.status_code != 404:  # from the body limits
                    raise
                return _error(404, str(error.detail))

        return handle


def _error(status: int, error: str) -> Response:
    return Response(
        InferenceError(error=error).model_dump_json(), status, media_type="application/json"
    )


def _errors(*statuses: int) -> Responses:
    """Return OpenAPI descriptions of the protocol's errors, and of the problems of all endpoints."""
    descriptions = {404: "the model or version does not exist", 400: "the request is invalid"}
    others = problems(*({408, 413} if 400 in statuses else ()))
    # With "4XX", FastAPI does not add a 422 response, which never occurs.
    return (
        {status: {"model": InferenceError, "description": descriptions[status]} for status in statuses}
        | others
        | {"4XX": others[401]}
    )


router = APIRouter(prefix="/v2", route_class=ProtocolRoute, tags=["open inference protocol"])


@router.get("", responses=_errors())
async def server_metadata() -> ServerInfo:
    """The name and version of the server, and the extensions that it supports."""
    return ServerInfo(name=CHAMPION, version=package_version("dagrec"), extensions=[])


@router.get("/health/live", responses=_errors())
async def server_live() -> ServerLive:
    """The process responds."""
    return ServerLive(live=True)


@router.get("/health/ready", responses=_errors())
async def server_ready(holder: HolderDep) -> ServerReady:
    """A bundle is loaded, and its champion passes the self-check."""
    await health.ready(holder)
    return ServerReady(ready=True)


@router.get("/models/{model}", responses=_errors(404))
async def model_metadata(model: str, holder: HolderDep) -> ModelMetadata:
    """The version and the tensors of a model."""
    return _metadata(holder.bundle, model)


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


@router.get("/models/{model}/versions/{version}", responses=_errors(404))
async def version_metadata(model: str, version: str, holder: HolderDep) -> ModelMetadata:
    """The tensors of a model in the live version, which is the only one."""
    return _metadata(holder.bundle, model, version)


@router.get("/models/{model}/ready", responses=_errors(404))
async def model_ready(model: str, holder: HolderDep) -> ModelReady:
    """The model is in the live bundle. All models are checked when the bundle is loaded."""
    _label(holder.bundle, model)
    return ModelReady(name=model, ready=True)


@router.get("/models/{model}/versions/{version}/ready", responses=_errors(404))
async def version_ready(model: str, version: str, holder: HolderDep) -> ModelReady:
    """The model is in the live version, which is the only one."""
    _label(holder.bundle, model, version)
    return ModelReady(name=model, ready=True)


@router.post(
    "/models/{model}/versions/{version}/infer",
    response_model=InferResponse,
    responses=_errors(400, 404),
)
async def version_infer(model: str, version: str, body: InferRequest, request: Request) -> Response:
    """Which service comes next, from the live version, which is the only one."""
    return await _infer(request, body, model, version)


@router.post("/models/{model}/infer", response_model=InferResponse, responses=_errors(400, 404))
async def infer(model: str, body: InferRequest, request: Request) -> Response:
    """Which service comes next: the answers of POST /predict, as tensors."""
    return await _infer(request, body, model, None)


async def _infer(request: Request, body: InferRequest, model: str, version: str | None) -> Response:
    state = request.app.state
    predictor, timeout = state.holder.predictor, state.settings.timeout
    label = _label(predictor.bundle, model, version)
    names = output_names(body.outputs)
    requests = row_requests(body, label)
    results = await run_in_thread(lambda: predictor.batch(requests, timeout=timeout))
    answers = [single_answer(row, result) for row, result in enumerate(results)]
    k = max(row_request.k for row_request in requests)
    response = InferResponse(
        model_name=model,
        model_version=predictor.bundle.version,
        id=body.id,
        outputs=[output_tensor(name, answers, k) for name in names],
    )
    return make_response(request, requests, results, response)


def _label(bundle: Bundle, model: str, version: str | None = None) -> str:
    """Return the label of a model from its name in the protocol. Raises 404 for an unknown name."""
    if model not in (*bundle.models, CHAMPION):
        names = ", ".join((CHAMPION, *bundle.models))
        raise HTTPException(404, f"model must be one of {names}, found {model!a}")
    if version not in (None, bundle.version):
        raise HTTPException(
            404, f"version must be the live one, {bundle.version}, or left out, found {version!a}"
        )
    return model if model in bundle.models else bundle.manifest.champion
