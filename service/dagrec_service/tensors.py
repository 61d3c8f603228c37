"""Tensors of the Open Inference Protocol, version 2, converted from and to requests and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, Field, StrictInt

from dagrec.data.formats.documents import parse_json
from dagrec.errors import DataError, RequestError
from dagrec.recommend.answers import Answer, Answers
from dagrec.recommend.request import PredictRequest, make_request
from dagrec.types import Options
from dagrec_service.errors import shorten

MAX_ROWS = 100
PARAMETERS = frozenset(PredictRequest.model_fields) - {
    "path", "composition", "at", "model", "models", "explain"
}  # fmt: skip
"""Fields of a request that the parameters may set for all rows."""
ROW_FIELDS = PARAMETERS | {"path", "composition", "at"}
"""Fields that a row may set; the model is given by the URL."""
IGNORED_PARAMETERS = frozenset({"binary_data_output"})
"""Triton's clients always request binary tensors, but accept others."""


class InputTensor(Options):
    """An input tensor."""

    name: str
    shape: list[StrictInt]
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] = Field(description="its elements, flat in row-major order, or nested")


class RequestedOutput(Options):
    """An output tensor that the response should contain."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(Options):
    """Which service comes next, for up to 100 rows.

    The one input `path` is of datatype BYTES. In shape [B], each element is a JSON text: an array of
    node keys, or a request as in POST /predict. In shape [B, L], each row holds node keys, padded with
    "" at the end.
    """

    id: str | None = None
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="fields of a POST /predict request that apply to all rows: k, mask, deny, ... "
        "(lists as arrays or as JSON texts)",
    )
    inputs: list[InputTensor]
    outputs: list[RequestedOutput] = Field(
        default_factory=list, description="the outputs to return; all if empty"
    )


class OutputTensor(BaseModel):
    """An output tensor, with its elements flat in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str] | list[int] | list[float]


class InferResponse(BaseModel):
    """The answers, one per row; k is the largest k of all rows."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="the id of the request, if it has one")
    outputs: list[OutputTensor]


def output_names(outputs: Sequence[RequestedOutput]) -> list[str]:
    """Return the names of the requested outputs; all names if none is requested."""
    names = list(dict.fromkeys(output.name for output in outputs)) or list(OUTPUTS)
    for name in names:
        if name not in OUTPUTS:
            raise RequestError(f"outputs: must be of {', '.join(OUTPUTS)}, found {name!a}")
    return names


def row_requests(body: InferRequest, label: str) -> list[PredictRequest]:
    """Return the request of each row, for the model with this label."""
    if len(body.inputs) != 1 or body.inputs[0].name != "path":
        names = [tensor.name for tensor in body.inputs]
        raise RequestError(f"inputs: must be the one tensor 'path', found {shorten(names)}")
    defaults = _parameters(body.parameters) | {"model": label}
    requests = []
    for row, fields in enumerate(_rows(body.inputs[0])):
        try:
            requests.append(make_request(defaults | fields))
        except RequestError as error:
            raise RequestError(f"path, row {row}: {error}") from None
    return requests


def _parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return request fields. Lists may be JSON texts, since the protocol has no list parameters."""
    fields = {}
    for name, value in parameters.items():
        if name in IGNORED_PARAMETERS:
            continue
        if name not in PARAMETERS:
            raise RequestError(
                f"parameters: must be of {', '.join(sorted(PARAMETERS))}, found {shorten(name)}"
            )
        is_json = isinstance(value, str) and name in ("allow", "deny", "history")
        fields[name] = _parse(value, f"parameters: {name}") if is_json else value
    return fields


def _rows(tensor: InputTensor) -> list[dict[str, Any]]:
    """Return the request fields of each row. Raises :class:`RequestError` for an invalid tensor."""
    shape = tensor.shape
    if tensor.datatype != "BYTES":
        raise RequestError(f"path: datatype must be BYTES, found {shorten(tensor.datatype)}")
    if len(shape) not in (1, 2) or min(shape) < 0:
        raise RequestError(f"path: shape must be [B] or [B, L], found {shorten(shape)}")
    if not 1 <= shape[0] <= MAX_ROWS:
        raise RequestError(
            f"path: the number of rows must be 1 to {MAX_ROWS}, found {shorten(shape[0])}"
        )
    data = _nested(tensor) if len(shape) == 2 else [tensor.data]
    for element in (element for row in data for element in row):
        if not isinstance(element, str):
            raise RequestError(f"path: data must be texts, found {shorten(element)}")
    if len(shape) == 2:
        return [{"path": _unpad(row, keys)} for row, keys in enumerate(data)]
    if len(data[0]) != shape[0]:
        raise _size_error(shape, len(data[0]))
    return [_row_fields(row, text) for row, text in enumerate(data[0])]


def _nested(tensor: InputTensor) -> list[list[Any]]:
    """Return the [B, L] elements as B lists of length L."""
    rows, length = tensor.shape
    data = tensor.data
    if not any(isinstance(row, list) for row in data):
        if len(data) != rows * length:
            raise _size_error(tensor.shape, len(data))
        return [data[row * length : (row + 1) * length] for row in range(rows)]
    if len(data) != rows:
        raise _size_error(tensor.shape, len(data))
    for row, keys in enumerate(data):
        if not isinstance(keys, list) or len(keys) != length:
            size = f"{len(keys)} elements" if isinstance(keys, list) else "none"
            raise RequestError(f"path, row {row}: must be a list of {shorten(length)}, found {size}")
    return data


def _size_error(shape: Sequence[int], size: int) -> RequestError:
    return RequestError(
        f"path: data must have the elements of shape {shorten(list(shape))}, found {size}"
    )


def _unpad(row: int, keys: Sequence[str]) -> list[str]:
    length = next((i for i, key in enumerate(keys) if key == ""), len(keys))
    if any(keys[length:]):
        raise RequestError(f"path, row {row}: padding must be at the end, found a key after {length}")
    return list(keys[:length])


def _row_fields(row: int, text: str) -> dict[str, Any]:
    value = _parse(text, f"path, row {row}")
    if isinstance(value, list):
        return {"path": value}
    if isinstance(value, dict):
        for name in value:
            if name not in ROW_FIELDS:
                raise RequestError(
                    f"path, row {row}: fields must be of {', '.join(sorted(ROW_FIELDS))}, "
                    f"found {shorten(name)}"
                )
        return value
    raise RequestError(
        f"path, row {row}: must be the JSON text of an array of keys or of a request, found "
        f"{shorten(value)}"
    )


def _parse(text: str, subject: str) -> Any:
    try:
        return parse_json(text)
    except DataError as error:
        raise RequestError(f"{subject}: {error}") from None


def single_answer(row: int, result: Answer | Answers | RequestError) -> Answer:
    """Return the answer of a row. Raises :class:`RequestError` if it has several, or none."""
    if isinstance(result, RequestError):
        raise RequestError(f"path, row {row}: {result}")
    if isinstance(result, Answers):
        raise RequestError(
            f"path, row {row}: a row has one answer, found {len(result.answers)} open ends; name one "
            'with "at"'
        )
    return result


OUTPUTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "service": ("BYTES", lambda p: p.service),
    # Models score in float32, and clients expect FP32: the value is rounded to it.
    "probability": ("FP32", lambda p: float(np.float32(p.probability))),
    "support": ("INT64", lambda p: p.support),
}
"""The datatype of each output, and the function that returns its element for a prediction."""
PADDING: dict[str, Any] = {"BYTES": "", "FP32": 0.0, "INT64": 0}


def output_tensor(name: str, answers: Sequence[Answer], k: int) -> OutputTensor:
    """Return the [B, k] output with this name; rows are padded at the end."""
    datatype, element = OUTPUTS[name]
    data: list[Any] = []
    for answer in answers:
        data += map(element, answer.predictions)
        data += [PADDING[datatype]] * (k - len(answer.predictions))
    return OutputTensor(name=name, datatype=datatype, shape=[len(answers), k], data=data)
