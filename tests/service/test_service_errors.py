from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from http import HTTPStatus

import anyio
import httpx2
import pytest
from dagrec_service import errors
from fastapi import FastAPI

from dagrec.errors import StoreError
from dagrec.models.registry import MODELS

JSON = {"content-type": "application/json"}


def check_problem(response: httpx2.Response, status: int, path: str, *texts: str) -> None:
    """Check that a response is a problem (RFC 9457) whose detail has these texts."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "instance"}
    assert body["type"] == "about:blank"
    assert body["title"] == HTTPStatus(status).phrase
    assert (body["status"], body["instance"]) == (status, path)
    for text in texts:
        assert text in body["detail"]
    assert "{self" not in body["detail"]


def composition(nodes: str, links: str = "") -> bytes:
    return f'{{"composition": {{"nodes": [{nodes}], "links": [{links}]}}}}'.encode()


def test_unknown_path_is_not_found(client: httpx2.Client) -> None:
    for path in ("/nope", "/predict/more", "/v2/nope", "/" + "a" * 5000):
        check_problem(client.get(path), 404, path, "Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/predict", "POST"), ("PUT", "/predict", "POST"), ("POST", "/models", "GET")],
)
def test_wrong_method_is_rejected_with_allowed_ones(
    method: str, path: str, allowed: str, client: httpx2.Client
) -> None:
    response = client.request(method, path)
    check_problem(response, 405, path)
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json", "é"])
def test_other_content_type_is_rejected(kind: str | None, client: httpx2.Client) -> None:
    headers = {} if kind is None else {"content-type": kind.encode()}
    response = client.post("/predict", content=b'{"path": []}', headers=headers)
    check_problem(response, 415, "/predict", "content-type must be application/json, found")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"]
)
def test_json_content_types_are_accepted(kind: str, client: httpx2.Client) -> None:
    response = client.post("/predict", content=b'{"path": []}', headers={"content-type": kind})
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        (b"", ["body: Field required"]),
        (b"{", ["body: not JSON at character 1", "correct it"]),
        (b"not json", ["body: not JSON at character 0"]),
        (b'{"path": ["\xff"]}', ["body: not readable JSON", "0xff"]),
        (b"[]", ["body", "valid dictionary", "[]"]),
        (b"null", ["body", "valid dictionary"]),
        (b"{}", ["either a path or a composition"]),
        (b'{"path": [], "composition": {}}', ["either a path or a composition"]),
        (b'{"path": [], "at": 1}', ["at needs a composition, found none"]),
        (b'{"path": "a,b"}', ["path", "valid list", "'a,b'"]),
        (b'{"path": [], "k": 0}', ["k", "greater than or equal to 1", "found 0"]),
        (b'{"path": [], "k": 1001}', ["k", "less than or equal to 1000"]),
        (b'{"path": [], "k": 1.5}', ["k", "1.5"]),
        (b'{"path": [], "k": NaN}', ["k", "nan"]),
        (b'{"path": [], "k": Infinity}', ["k", "inf"]),
        (b'{"path": [], "k": 1e999}', ["k", "inf"]),
        (b'{"path": [], "k": ' + b"1" * 4000 + b"}", ["k", "less than or equal to 1000", "111..."]),
        (b'{"path": [], "k": ' + b"1" * 5000 + b"}", ["body: not readable JSON", "4300 digits"]),
        (b'{"path": [], "kk": 1}', ["kk", "Extra inputs are not permitted"]),
        (b'{"path": [], "\\ud800": 1}', ["\\ud800"]),
        (b'{"path": ["\\ud800"]}', ["path.0", "\\ud800"]),
        (
            b'{"path": [], "model": "unknown"}',
            ["model must be one of", *MODELS, "'unknown'", "/models"],
        ),
        (b'{"path": [], "model": "\\ud800"}', ["model must be one of", "\\ud800"]),
        (b'{"path": [], "mask": "hard"}', ["mask", "'observed'", "'soft'", "'hard'"]),
        (composition(""), ["composition: ", "at least one node"]),
        (composition('{"mid": 1}'), ["node 1: id", "found nothing"]),
        (composition('{"id": 1}, {"id": "1"}'), ["node '1'", "found it twice", "rename one"]),
        (composition('{"id": NaN}'), ["node 1: id", "NaN"]),
        (composition('{"id": "\\ud800"}'), ["node 1: id", "lone surrogate"]),
        (
            composition('{"id": 1}', '{"source": 1, "target": 2}'),
            ["link '1' -> '2'", "which does not exist"],
        ),
        (composition('{"id": 1}', '{"source": 1, "target": 1}'), ["closes a cycle"]),
        (composition('{"id": 1}', '{"source": "\\udfff", "target": 1}'), ["link 1: source"]),
        (
            b'{"composition": {"nodes": [{"id": 1}], "links": []}, "at": "\\ud800"}',
            ["at: must be the id of a node", "\\ud800"],
        ),
        (
            composition(", ".join(['{"id":1}'] * 10_001)),
            ["at most 10000 nodes are allowed, found 10001"],
        ),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else "",
)
def test_invalid_body_is_rejected_with_field_rule_and_value(
    body: bytes, texts: Sequence[str], client: httpx2.Client
) -> None:
    check_problem(client.post("/predict", content=body, headers=JSON), 422, "/predict", *texts)


@pytest.mark.parametrize("field", ["k", "path", "composition", "at", "model", "mask", "other"])
def test_deep_nesting_is_rejected_in_every_field(field: str, client: httpx2.Client) -> None:
    """Test depths near the interpreter's recursion limit, where formatting a value can fail too."""
    for depth in (100, *range(900, 1000), 100_000):
        body = b'{"%s": %s1%s}' % (field.encode(), b"[" * depth, b"]" * depth)
        check_problem(client.post("/predict", content=body, headers=JSON), 422, "/predict")


def test_body_over_limit_is_rejected_with_and_without_content_length(client: httpx2.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(101):
            yield b" " * 10_000

    texts = ["a body must have at most 1000000 bytes", "found 1000001", "DAGREC_MAX_BODY"]
    response = client.post("/predict", content=b" " * 1_000_001, headers=JSON)
    check_problem(response, 413, "/predict", *texts)
    response = client.post("/predict", content=chunks(), headers=JSON)
    check_problem(response, 413, "/predict", texts[0], "found 1010000 or more")


def test_largest_body_is_answered(client: httpx2.Client) -> None:
    body = json.dumps({"path": ["a" * 1000] * 900}).encode().ljust(1_000_000)
    assert client.post("/predict", content=body, headers=JSON).status_code == 200


def test_service_is_ready_after_invalid_requests(client: httpx2.Client) -> None:
    for body in (b"{", b"\xff", b"[" * 100_000):
        assert client.post("/predict", content=body, headers=JSON).is_client_error
    assert client.get("/health/ready").is_success


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (RuntimeError("an internal secret"), 500, "the service failed at this request"),
        (StoreError("a bundle must be loaded, found none yet"), 503, "a bundle must be loaded"),
    ],
)
def test_internal_error_is_problem_without_details(failure: Exception, status: int, text: str) -> None:
    app = FastAPI()
    errors.add_handlers(app)

    @app.get("/fails")
    async def fails() -> None:
        raise failure

    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/fails")

    response = anyio.run(send)
    check_problem(response, status, "/fails", text)
    assert "secret" not in response.text
