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


def check_problem(answer: httpx2.Response, status: int, path: str, *texts: str) -> None:
    """The one shape of every failure: RFC 9457."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "instance"}
    assert body["type"] == "about:blank"
    assert body["title"] == HTTPStatus(status).phrase
    assert (body["status"], body["instance"]) == (status, path)
    for text in texts:
        assert text in body["detail"]
    assert "{self" not in body["detail"]


def composition(nodes: str, links: str = "") -> bytes:
    return f'{{"composition": {{"nodes": [{nodes}], "links": [{links}]}}}}'.encode()


def test_an_unknown_address_is_not_found(client: httpx2.Client) -> None:
    for path in ("/nope", "/predict/more", "/v2/nope", "/" + "a" * 5000):
        check_problem(client.get(path), 404, path, "Not Found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/predict", "POST"), ("PUT", "/predict", "POST"), ("POST", "/models", "GET")],
)
def test_a_wrong_method_is_named_with_the_right_ones(
    method: str, path: str, allowed: str, client: httpx2.Client
) -> None:
    answer = client.request(method, path)
    check_problem(answer, 405, path)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json", "é"])
def test_a_body_that_is_not_declared_as_json_is_refused(
    kind: str | None, client: httpx2.Client
) -> None:
    headers = {} if kind is None else {"content-type": kind.encode()}
    answer = client.post("/predict", content=b'{"path": []}', headers=headers)
    check_problem(answer, 415, "/predict", "content-type must be application/json, found")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "application/x+json"]
)
def test_other_names_of_json_are_json(kind: str, client: httpx2.Client) -> None:
    answer = client.post("/predict", content=b'{"path": []}', headers={"content-type": kind})
    assert answer.status_code == 200


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
        (b'{"path": [], "at": 1}', ["at names a node of a composition"]),
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
        (b'{"path": [], "model": "nobody"}', ["model must be one of", *MODELS, "'nobody'", "/models"]),
        (b'{"path": [], "model": "\\ud800"}', ["model must be one of", "\\ud800"]),
        (b'{"path": [], "mask": "hard"}', ["mask", "'observed'", "'soft'", "'hard'"]),
        (composition(""), ["composition: ", "at least one node"]),
        (composition('{"mid": 1}'), ["node 1: id", "found nothing"]),
        (composition('{"id": 1}, {"id": "1"}'), ["node '1'", "found it twice", "rename one"]),
        (composition('{"id": NaN}'), ["node 1: id", "NaN"]),
        (composition('{"id": "\\ud800"}'), ["node 1: id", "lone surrogate"]),
        (composition('{"id": 1}', '{"source": 1, "target": 2}'), ["link '1' -> '2'", "which is none"]),
        (composition('{"id": 1}', '{"source": 1, "target": 1}'), ["closes a cycle"]),
        (composition('{"id": 1}', '{"source": "\\udfff", "target": 1}'), ["link 1: source"]),
        (
            b'{"composition": {"nodes": [{"id": 1}], "links": []}, "at": "\\ud800"}',
            ["at: must be the id of a node", "\\ud800"],
        ),
        (composition(", ".join(['{"id":1}'] * 10_001)), ["nodes may be 10000, found 10001"]),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else "",
)
def test_a_wrong_body_is_refused_by_field_rule_and_value(
    body: bytes, texts: Sequence[str], client: httpx2.Client
) -> None:
    check_problem(client.post("/predict", content=body, headers=JSON), 422, "/predict", *texts)


@pytest.mark.parametrize("field", ["k", "path", "composition", "at", "model", "mask", "other"])
def test_deep_nesting_is_refused_wherever_it_stands(field: str, client: httpx2.Client) -> None:
    """Every depth near the interpreter's own limit, where writing out a value can fail as well."""
    for depth in (100, *range(900, 1000), 100_000):
        body = b'{"%s": %s1%s}' % (field.encode(), b"[" * depth, b"]" * depth)
        check_problem(client.post("/predict", content=body, headers=JSON), 422, "/predict")


def test_a_body_over_the_limit_is_refused_whether_announced_or_counted(client: httpx2.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(101):
            yield b" " * 10_000

    texts = ["a body may have 1000000 bytes", "found 1000001", "DAGREC_MAX_BODY"]
    answer = client.post("/predict", content=b" " * 1_000_001, headers=JSON)
    check_problem(answer, 413, "/predict", *texts)
    answer = client.post("/predict", content=chunks(), headers=JSON)
    check_problem(answer, 413, "/predict", texts[0], "found 1010000 or more")


def test_the_largest_body_is_answered(client: httpx2.Client) -> None:
    body = json.dumps({"path": ["a" * 1000] * 900}).encode().ljust(1_000_000)
    assert client.post("/predict", content=body, headers=JSON).status_code == 200


def test_failures_leave_the_service_ready(client: httpx2.Client) -> None:
    for body in (b"{", b"\xff", b"[" * 100_000):
        assert client.post("/predict", content=body, headers=JSON).is_client_error
    assert client.get("/health/ready").is_success


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (RuntimeError("a secret of the inside"), 500, "the service failed at this request"),
        (StoreError("a bundle must be loaded, found none yet"), 503, "a bundle must be loaded"),
    ],
)
def test_what_fails_inside_has_the_same_shape_and_tells_no_secrets(
    failure: Exception, status: int, text: str
) -> None:
    app = FastAPI()
    errors.install(app)

    @app.get("/fails")
    async def fails() -> None:
        raise failure

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/fails")

    answer = anyio.run(ask)
    check_problem(answer, status, "/fails", text)
    assert "secret" not in answer.text
