"""The Open Inference Protocol: the answers of /predict as tensors, and errors for invalid tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dagrec_service.app import create_app
from dagrec_service.settings import make_settings
from fastapi.testclient import TestClient

from dagrec.data.formats import read
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.store.store import Store
from tests.recommend.requests import chain
from tests.service.conftest import HTTP

DATA = Path(__file__).parents[2] / "data" / "compositions.json"
PATHS = [["table_1001002", "service_301"], [], ["never seen"], ["service_303"]]
INFER = "/v2/models/dagrec/infer"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of the application in this process."""
    store = Store(tmp_path_factory.mktemp("inference"))
    train(read(DATA), store, load_config(models=["markov", "popularity"]), measure=0)
    with TestClient(create_app(make_settings(store=store.root, max_body=100_000))) as client:
        yield client


def tensor(data: list[Any], shape: list[Any] | None = None, **other: Any) -> dict[str, Any]:
    shape = [len(data)] if shape is None else shape
    return {"name": "path", "datatype": "BYTES", "shape": shape, "data": data} | other


def infer(client: TestClient, data: dict[str, Any], url: str = INFER, **other: Any) -> dict[str, Any]:
    response = client.post(url, json={"inputs": [data], **other})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def predictions(result: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
    """Return the rows of a response without padding, as tuples of the outputs' elements."""
    outputs = {output["name"]: output for output in result["outputs"]}
    (rows, k) = outputs["service"]["shape"]
    assert [output["datatype"] for output in result["outputs"]] == ["BYTES", "FP32", "INT64"]
    assert all(output["shape"] == [rows, k] for output in result["outputs"])
    assert all(len(output["data"]) == rows * k for output in result["outputs"])
    elements = list(zip(*(outputs[name]["data"] for name in outputs), strict=True))
    padded_rows = [elements[row * k : (row + 1) * k] for row in range(rows)]
    for row in padded_rows:
        padding = [element for element in row if element[0] == ""]
        assert padding == [("", 0.0, 0)] * len(padding) == row[len(row) - len(padding) :]
    return [[element for element in row if element[0]] for row in padded_rows]


def expected(client: TestClient, **request: Any) -> list[tuple[Any, ...]]:
    answer = client.post("/predict", json=request).json()
    return [
        (p["service"], float(np.float32(p["probability"])), p["support"]) for p in answer["predictions"]
    ]


@pytest.mark.parametrize("model", ["dagrec", "markov", "popularity"])
@pytest.mark.parametrize("k", [1, 5, 1000])
def test_every_form_of_input_gives_answers_of_predict(model: str, k: int, client: TestClient) -> None:
    length = max(map(len, PATHS))
    padded = [path + [""] * (length - len(path)) for path in PATHS]
    flat = [key for row in padded for key in row]
    forms = [
        tensor([json.dumps(path) for path in PATHS]),
        tensor([json.dumps({"path": path}) for path in PATHS]),
        tensor(padded, [len(PATHS), length]),
        tensor(flat, [len(PATHS), length]),
    ]
    label = None if model == "dagrec" else model
    answers = [expected(client, path=path, k=k, model=label) for path in PATHS]
    for form in forms:
        result = infer(client, form, f"/v2/models/{model}/infer", parameters={"k": k})
        assert predictions(result) == answers
        assert result["outputs"][0]["shape"] == [len(PATHS), k]
        assert result["model_name"] == model


def test_row_fields_take_precedence_over_parameters(client: TestClient) -> None:
    row = {"path": ["service_303"], "k": 2, "mask": "soft"}
    parameters = {"k": 4, "mask": "none", "deny": '["service_301"]', "no_repeats": True}
    rows = tensor(['["service_303"]', json.dumps(row)])
    answers = predictions(infer(client, rows, parameters=parameters))
    common = {"deny": ["service_301"], "no_repeats": True}
    assert answers == [
        expected(client, path=["service_303"], k=4, mask="none", **common),
        expected(client, **row, **common),
    ]
    parameters["deny"] = ["service_301"]  # type: ignore[assignment]
    assert predictions(infer(client, rows, parameters=parameters)) == answers


def test_row_may_be_composition(client: TestClient) -> None:
    request = chain(301, 303, table="1001002", at="n1", k=3)
    result = infer(client, tensor([json.dumps(request)]))
    assert predictions(result) == [expected(client, **request)]


def test_response_has_requested_outputs_and_id(client: TestClient) -> None:
    form = tensor(["[]"])
    outputs = [{"name": "support", "parameters": {"binary_data": False}}, {"name": "service"}]
    result = infer(client, form, outputs=outputs, id="mine", parameters={"binary_data_output": True})
    assert [output["name"] for output in result["outputs"]] == ["support", "service"]
    assert result["id"] == "mine"


def test_only_live_version_is_available(client: TestClient) -> None:
    version = client.get("/bundle").json()["version"]
    form = tensor(["[]"])
    result = infer(client, form, f"/v2/models/markov/versions/{version}/infer")
    assert result["model_version"] == version
    for url in ("", "/ready"):
        assert client.get(f"/v2/models/markov/versions/{version}{url}").status_code == 200
        for other in ("markov/versions/1", "other", f"other/versions/{version}"):
            response = client.get(f"/v2/models/{other}{url}")
            assert response.status_code == 404
            assert set(response.json()) == {"error"}
    for other in ("markov/versions/1", "other"):
        response = client.post(f"/v2/models/{other}/infer", json={"inputs": [form]})
        assert response.status_code == 404
        assert "must be" in response.json()["error"]


def test_server_and_model_metadata(client: TestClient) -> None:
    assert set(client.get("/v2").json()) == {"name", "version", "extensions"}
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/markov/ready").json() == {"name": "markov", "ready": True}
    metadata = client.get("/v2/models/dagrec").json()
    assert metadata["inputs"] == [{"name": "path", "datatype": "BYTES", "shape": [-1]}]
    outputs = {output["name"]: output["datatype"] for output in metadata["outputs"]}
    assert outputs == {"service": "BYTES", "probability": "FP32", "support": "INT64"}
    assert metadata["versions"] == [client.get("/bundle").json()["version"]]


INVALID: dict[str, tuple[Any, str]] = {
    "no inputs": ([], "must be the one tensor 'path'"),
    "two inputs": ([tensor(["[]"]), tensor(["[]"])], "must be the one tensor 'path'"),
    "another input": ([tensor(["[]"], name="paths")], "must be the one tensor 'path'"),
    "datatype": ([tensor([1.0], datatype="FP32")], "datatype must be BYTES, found 'FP32'"),
    "no dimension": ([tensor(["[]"], [])], "shape must be [B] or [B, L]"),
    "three dimensions": ([tensor(["[]"], [1, 1, 1])], "shape must be [B] or [B, L]"),
    "negative": ([tensor(["[]"], [1, -1])], "shape must be [B] or [B, L]"),
    "string in shape": ([tensor(["[]"], ["1"])], "inputs.0.shape.0"),
    "fraction in shape": ([tensor(["[]"], [1.5])], "inputs.0.shape.0"),
    "no rows": ([tensor([], [0])], "rows must be 1 to 100, found 0"),
    "no rows of keys": ([tensor([], [0, 3])], "rows must be 1 to 100, found 0"),
    "too many rows": ([tensor(["[]"] * 101)], "rows must be 1 to 100, found 101"),
    "huge rows": ([tensor(["[]"], [10**300])], "rows must be 1 to 100"),
    "huge length": ([tensor(["a"], [1, 10**300])], "data must have the elements of shape"),
    "huge length, nested": ([tensor([["a"]], [1, 10**300])], "row 0: must be a list of"),
    "fewer than its shape": ([tensor(["[]"], [2])], "shape [2], found 1"),
    "more than its shape": ([tensor(["a", "b", "c"], [1, 2])], "shape [1, 2], found 3"),
    "ragged": ([tensor([["a", "b"], ["a"]], [2, 2])], "row 1: must be a list of 2, found 1"),
    "half nested": ([tensor([["a", "b"], "a"], [2, 2])], "row 1: must be a list of 2, found none"),
    "nested too deeply": ([tensor([[["a"]]], [1, 1])], "data must be texts"),
    "lists instead of texts": ([tensor([["[]"]], [1])], "data must be texts"),
    "numbers": ([tensor([1])], "data must be texts, found 1"),
    "keys after padding": ([tensor(["", "a"], [1, 2])], "row 0: padding must be at the end"),
    "no JSON": ([tensor(["[]", "service_301"])], "row 1: not JSON"),
    "JSON number": ([tensor(["1"])], "row 0: must be the JSON text of an array"),
    "NaN in JSON": ([tensor(["[NaN]"])], "row 0: a number must be finite"),
    "JSON too deep": ([tensor(["[" * 50_000])], "row 0: JSON is nested too deeply"),
    "a surrogate": ([tensor(['["\\ud800"]'])], "row 0: path.0"),
    "numeric keys": ([tensor(["[1]"])], "row 0: path.0"),
    "another model": ([tensor(['{"path": [], "model": "markov"}'])], "row 0: fields must be of"),
    "several models": ([tensor(['{"path": [], "models": "all"}'])], "row 0: fields must be of"),
    "path and composition": ([tensor(['{"path": [], "composition": {}}'])], "row 0: "),
    "a broken composition": ([tensor(['{"composition": {}}'])], "row 0: composition: "),
    "several ends": (
        [tensor(['{"composition": {"nodes": [{"id": 1}, {"id": 2}], "links": []}}'])],
        "row 0: a row has one answer, found 2 open ends",
    ),
}


def check_rejected(response: Any, text: str) -> None:
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    assert text in response.json()["error"]
    assert len(response.json()["error"]) < 1000


@pytest.mark.parametrize(("inputs", "text"), INVALID.values(), ids=list(INVALID))
def test_invalid_input_is_rejected_in_protocol_form(inputs: Any, text: str, client: TestClient) -> None:
    check_rejected(client.post(INFER, json={"inputs": inputs}), text)


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"outputs": [{"name": "scores"}]}, "outputs: must be of service, probability, support"),
        ({"parameters": {"models": "all"}}, "parameters: must be of"),
        ({"parameters": {"k": 0}}, "k"),
        ({"parameters": {"deny": "service_301"}}, "parameters: deny: not JSON"),
        ({"parameters": []}, "parameters"),
        ({"id": 3}, "id"),
        ({"more": 3}, "more"),
    ],
    ids=str,
)
def test_other_invalid_field_is_rejected_in_protocol_form(
    other: Any, text: str, client: TestClient
) -> None:
    check_rejected(client.post(INFER, json={"inputs": [tensor(["[]"])], **other}), text)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff", b'{"inputs": [{"name": "\\ud800"}]}']
)
def test_invalid_body_is_rejected_in_protocol_form(body: bytes, client: TestClient) -> None:
    check_rejected(client.post(INFER, content=body), "")


def test_binary_tensors_are_rejected(client: TestClient) -> None:
    headers = {"Inference-Header-Content-Length": "2"}
    check_rejected(client.post(INFER, content=b"{}\x00", headers=headers), "must be JSON")


def test_nan_is_rejected(client: TestClient) -> None:
    body = '{"inputs": [{"name": "path", "datatype": "BYTES", "shape": [1], "data": [NaN]}]}'
    check_rejected(client.post(INFER, content=body), "data must be texts")
    body = body.replace("[NaN]", '["[]"]').replace("[1]", "[NaN]")
    check_rejected(client.post(INFER, content=body), "shape")


def test_body_over_limit_is_problem(client: TestClient) -> None:
    response = client.post(INFER, json={"inputs": [tensor(["x" * 200_000])]})
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"


def test_server_answers_inference_request(server: Any) -> None:
    response = HTTP.post(f"{server.url}{INFER}", json={"inputs": [tensor(["[]"])]})
    assert response.status_code == 200
    assert response.headers["x-request-id"]
