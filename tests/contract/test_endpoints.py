"""Responses conform to the OpenAPI document, for generated requests to every endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from dagrec_service.app import create_app
from dagrec_service.settings import make_settings
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from dagrec.data.formats import read
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.store.store import Store

DATA = Path(__file__).parents[2] / "data" / "compositions.json"
OPERATIONS = {
    "/predict": "POST",
    "/predict/batch": "POST",
    "/feedback": "POST",
    "/compositions/validate": "POST",
    "/v2": "GET",
    "/v2/health/live": "GET",
    "/v2/health/ready": "GET",
    "/v2/models/{model}": "GET",
    "/v2/models/{model}/ready": "GET",
    "/v2/models/{model}/infer": "POST",
    "/v2/models/{model}/versions/{version}": "GET",
    "/v2/models/{model}/versions/{version}/ready": "GET",
    "/v2/models/{model}/versions/{version}/infer": "POST",
    "/models": "GET",
    "/models/{name}": "GET",
    "/bundle": "GET",
    "/metrics": "GET",
    "/admin/reload": "POST",
    "/admin/rollback": "POST",
    "/health/live": "GET",
    "/health/ready": "GET",
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The OpenAPI schema of an application that runs in this process."""
    store = Store(tmp_path_factory.mktemp("endpoints"))
    train(read(DATA), store, load_config(models=["popularity", "markov"]), measure=0)
    # Schemathesis does not accept 413 as the rejection of an invalid request. Size limits are tested
    # elsewhere.
    feedback = tmp_path_factory.mktemp("feedback")
    app = create_app(make_settings(store=store.root, max_body=10**9, feedback=feedback))
    with TestClient(app):
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


def check_operation(api: Any, path: str, mode: GenerationMode, data: st.DataObject) -> None:
    """Check that the response to a generated request is no server error, and conforms to the document.

    A request that conforms to the schema may still be rejected: JSON schema cannot express that a
    request has either a path or a composition, or that the links of a composition are valid.
    """
    case = data.draw(api[path][OPERATIONS[path]].as_strategy(generation_mode=mode))
    assert case.call_and_validate(excluded_checks=[positive_data_acceptance]).status_code < 500


def test_openapi_document_lists_operations(api: Any) -> None:
    operations = {
        (path, method.upper())
        for path, methods in api.raw_schema["paths"].items()
        for method in methods
    }
    assert operations == set(OPERATIONS.items())


@pytest.mark.parametrize("path", OPERATIONS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_response_to_valid_request_conforms(api: Any, path: str, data: st.DataObject) -> None:
    check_operation(api, path, GenerationMode.POSITIVE, data)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_invalid_request_is_rejected(api: Any, data: st.DataObject) -> None:
    check_operation(api, "/predict", GenerationMode.NEGATIVE, data)


@pytest.mark.slow
@pytest.mark.parametrize("path", OPERATIONS)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_responses_to_many_valid_requests_conform(api: Any, path: str, data: st.DataObject) -> None:
    check_operation(api, path, GenerationMode.POSITIVE, data)


@pytest.mark.slow
@pytest.mark.parametrize("mode", GenerationMode)
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_responses_to_very_many_requests_conform(
    api: Any, mode: GenerationMode, data: st.DataObject
) -> None:
    check_operation(api, "/predict", mode, data)


@pytest.mark.parametrize("path", OPERATIONS)
def test_errors_are_documented_as_problems(api: Any, path: str) -> None:
    responses = api.raw_schema["paths"][path][OPERATIONS[path].lower()]["responses"]
    if path == "/metrics":
        assert set(responses["200"]["content"]) == {"text/plain"}
    else:
        assert responses["200"]["content"]["application/json"]["schema"]
    for status, response in responses.items():
        if status != "200":
            (kind,) = response["content"]
            if path.startswith("/v2/models/") and status in ("400", "404"):
                assert kind == "application/json"  # the form of the Open Inference Protocol
                continue
            assert kind == "application/problem+json"
            properties = response["content"][kind]["schema"]["properties"]
            assert set(properties) == {"type", "title", "status", "detail", "instance"}


def test_documented_examples_are_answered(api: Any) -> None:
    body = api.raw_schema["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert set(body["examples"]) == {"path", "composition", "history", "side by side"}
    for example in body["examples"].values():
        case = api["/predict"]["POST"].Case(body=example["value"], media_type="application/json")
        assert case.call_and_validate().status_code == 200
