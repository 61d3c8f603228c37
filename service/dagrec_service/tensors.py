"""Tensors of the Open Inference Protocol, version 2, from and to what this library asks and answers."""

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
from dagrec_service.errors import short

MAX_ROWS = 100
PARAMETERS = frozenset(PredictRequest.model_fields) - {
    "path", "composition", "at", "model", "models", "explain"
}  # fmt: skip
"""Fields of a request that parameters may set for all rows."""
IN_ROWS = PARAMETERS | {"path", "composition", "at"}
"""Fields that a row may have; which model answers, the address tells."""
IGNORED = frozenset({"binary_data_output"})
"""Clients of Triton always ask for binary tensors, and take those that are none."""


class InputTensor(Options):
    """A tensor that goes in."""

    name: str
    shape: list[StrictInt]
    datatype: str
    parameters: dict[str, Any] = Field(default_factory=dict)
    data: list[Any] = Field(description="its elements, flat in row-major order, or nested")


class WantedOutput(Options):
    """A tensor that is asked for."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class InferRequest(Options):
    """Which service comes next, for up to 100 rows.

    The one input `path` is BYTES of shape [B], each element a JSON text: an array of node keys, or a
    request as POST /predict takes it; or BYTES of shape [B, L]: node keys, padded with "" at the end.
    """

    id: str | None = None
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="fields of a request of POST /predict, for all rows: k, mask, deny, ... "
        "(lists as such, or as JSON texts)",
    )
    inputs: list[InputTensor]
    outputs: list[WantedOutput] = Field(default_factory=list, description="which; none: all")


class OutputTensor(BaseModel):
    """A tensor that comes out: its elements flat, in row-major order."""

    name: str
    datatype: str
    shape: list[int]
    data: list[str] | list[int] | list[float]


class InferResponse(BaseModel):
    """The answers, a row each; k is the largest of all rows."""

    model_name: str
    model_version: str
    id: str | None = Field(None, description="that of the request; left out where it had none")
    outputs: list[OutputTensor]


def wanted_outputs(outputs: Sequence[WantedOutput]) -> list[str]:
    names = list(dict.fromkeys(output.name for output in outputs)) or list(OUTPUTS)
    for name in names:
        if name not in OUTPUTS:
            raise RequestError(f"outputs: must be of {', '.join(OUTPUTS)}, found {name!a}")
    return names


def row_requests(body: InferRequest, label: str) -> list[PredictRequest]:
    """A request of each row."""
    if len(body.inputs) != 1 or body.inputs[0].name != "path":
        names = [tensor.name for tensor in body.inputs]
        raise RequestError(f"inputs: must be the one tensor 'path', found {short(names)}")
    defaults = _parameters(body.parameters) | {"model": label}
    found = []
    for row, values in enumerate(_rows(body.inputs[0])):
        try:
            found.append(make_request(defaults | values))
        except RequestError as error:
            raise RequestError(f"path, row {row}: {error}") from None
    return found


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a request; a list may come as a JSON text, since the protocol knows no lists here."""
    found = {}
    for name, value in given.items():
        if name in IGNORED:
            continue
        if name not in PARAMETERS:
            raise RequestError(
                f"parameters: must be of {', '.join(sorted(PARAMETERS))}, found {short(name)}"
            )
        is_text = isinstance(value, str) and name in ("allow", "deny", "history")
        found[name] = _parsed(value, f"parameters: {name}") if is_text else value
    return found


def _rows(tensor: InputTensor) -> list[dict[str, Any]]:
    """The fields that each row sets. Raises :class:`RequestError` for a tensor that is none."""
    shape = tensor.shape
    if tensor.datatype != "BYTES":
        raise RequestError(f"path: datatype must be BYTES, found {short(tensor.datatype)}")
    if len(shape) not in (1, 2) or min(shape) < 0:
        raise RequestError(f"path: shape must be [B] or [B, L], found {short(shape)}")
    if not 1 <= shape[0] <= MAX_ROWS:
        raise RequestError(f"path: rows may be 1 to {MAX_ROWS}, found {short(shape[0])}")
    data = _nested(tensor) if len(shape) == 2 else [tensor.data]
    for element in (element for row in data for element in row):
        if not isinstance(element, str):
            raise RequestError(f"path: data must be texts, found {short(element)}")
    if len(shape) == 2:
        return [{"path": _unpadded(row, keys)} for row, keys in enumerate(data)]
    if len(data[0]) != shape[0]:
        raise _wrong_size(shape, len(data[0]))
    return [_row(row, text) for row, text in enumerate(data[0])]


def _nested(tensor: InputTensor) -> list[list[Any]]:
    """[B, L] elements as B lists of L."""
    rows, length = tensor.shape
    data = tensor.data
    if not any(isinstance(row, list) for row in data):
        if len(data) != rows * length:
            raise _wrong_size(tensor.shape, len(data))
        return [data[row * length : (row + 1) * length] for row in range(rows)]
    if len(data) != rows:
        raise _wrong_size(tensor.shape, len(data))
    for row, keys in enumerate(data):
        if not isinstance(keys, list) or len(keys) != length:
            size = f"{len(keys)} elements" if isinstance(keys, list) else "none"
            raise RequestError(f"path, row {row}: must be a list of {short(length)}, found {size}")
    return data


def _wrong_size(shape: Sequence[int], found: int) -> RequestError:
    return RequestError(
        f"path: data must have the elements of shape {short(list(shape))}, found {found}"
    )


def _unpadded(row: int, keys: Sequence[str]) -> list[str]:
    length = next((i for i, key in enumerate(keys) if key == ""), len(keys))
    if any(keys[length:]):
        raise RequestError(f"path, row {row}: padding must be at the end, found a key after {length}")
    return list(keys[:length])


def _row(row: int, text: str) -> dict[str, Any]:
    value = _parsed(text, f"path, row {row}")
    if isinstance(value, list):
        return {"path": value}
    if isinstance(value, dict):
        for name in value:
            if name not in IN_ROWS:
                raise RequestError(
                    f"path, row {row}: fields must be of {', '.join(sorted(IN_ROWS))}, "
                    f"found {short(name)}"
                )
        return value
    raise RequestError(
        f"path, row {row}: must be the JSON text of an array of keys or of a request, found "
        f"{short(value)}"
    )


def _parsed(text: str, what: str) -> Any:
    try:
        return parse_json(text)
    except DataError as error:
        raise RequestError(f"{what}: {error}") from None


def one_answer(row: int, found: Answer | Answers | RequestError) -> Answer:
    if isinstance(found, RequestError):
        raise RequestError(f"path, row {row}: {found}")
    if isinstance(found, Answers):
        raise RequestError(
            f"path, row {row}: a row has one answer, found {len(found.answers)} open ends; name one "
            'with "at"'
        )
    return found


Cell = Callable[[Any], Any]
OUTPUTS: dict[str, tuple[str, Cell]] = {
    "service": ("BYTES", lambda p: p.service),
    # FP32 is what models score in, and what clients expect: the nearest to the probability.
    "probability": ("FP32", lambda p: float(np.float32(p.probability))),
    "support": ("INT64", lambda p: p.support),
}
"""The tensors that come out: their data types, and the element of a prediction."""
PADDING: dict[str, Any] = {"BYTES": "", "FP32": 0.0, "INT64": 0}


def output_tensor(name: str, answers: Sequence[Answer], k: int) -> OutputTensor:
    """[B, k] the elements of each answer, padded at the end."""
    datatype, cell = OUTPUTS[name]
    data: list[Any] = []
    for answer in answers:
        data += map(cell, answer.predictions)
        data += [PADDING[datatype]] * (k - len(answer.predictions))
    return OutputTensor(name=name, datatype=datatype, shape=[len(answers), k], data=data)
