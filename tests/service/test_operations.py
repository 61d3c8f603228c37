"""Operation of the service: request ids, logs, metrics, keys, limits, CORS and shutdown."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dagrec_service.access import PUBLIC_PATHS
from dagrec_service.routes import ROUTERS
from fastapi.routing import APIRoute

from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from tests.processes import wait_until
from tests.service.conftest import HTTP, Server

Start = Callable[..., Any]
PATH = {"path": ["table_1001002", "service_301"]}
REQUEST_HEAD = (
    b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
)
ACTIVE = "dagrec_active_requests "
ROUTES = sorted(
    {
        (method, route.path)
        for router in ROUTERS
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    }
)


@pytest.fixture
def start(small_store: Store, start_server: Start) -> Iterator[Callable[..., Any]]:
    """A function that starts a server and waits until it is ready; servers stop after the test."""
    servers = []

    def start(**environment: str) -> Any:
        server = start_server(small_store.root, **environment)
        servers.append(server)
        server.wait_until_ready()
        return server

    yield start
    for server in servers:
        if server.process.status is None:
            server.stop()


def active_requests(server: Server) -> float:
    """The number of requests in progress, including the one that asks for it."""
    text = HTTP.get(f"{server.url}/metrics").text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(ACTIVE))


def accepts_connections(server: Server) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return False
    return True


def parse_lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_response_has_request_id_of_client_if_valid(client: httpx2.Client) -> None:
    for method, path in (("GET", "/health/live"), ("POST", "/predict"), ("GET", "/nowhere")):
        id_ = client.request(method, path).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", id_)
        assert client.request(method, path).headers["x-request-id"] != id_
        response = client.request(method, path, headers={"x-request-id": "a.b-C_3"})
        assert response.headers["x-request-id"] == "a.b-C_3"
    for invalid in ("x" * 129, "a b", "ä".encode(), '"', ""):
        response = client.get("/health/live", headers={"x-request-id": invalid})
        assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


def test_access_log_has_one_line_per_request_without_its_contents(start: Callable[..., Any]) -> None:
    server = start(DAGREC_LOG_LEVEL="info", DAGREC_API_KEY="a-secret-key")
    headers = {"x-api-key": "a-secret-key", "x-request-id": "mine"}
    url = f"{server.url}/predict?also=hidden"
    assert HTTP.post(url, json=PATH, headers=headers).is_success
    assert HTTP.post(url, json={"path": "hidden"}, headers=headers).status_code == 422
    log = server.stop()
    lines = [line for line in parse_lines(log) if line.get("request_id") == "mine"]
    assert [line["status"] for line in lines] == [200, 422]
    first = lines[0]
    assert set(first) == {
        *("time", "level", "message", "request_id", "method", "path", "status", "ms"),
        *("model", "version", "strategy", "answers"),
    }
    assert (first["method"], first["path"], first["model"]) == ("POST", "/predict", "popularity")
    assert 0 < first["ms"] < 10_000
    for secret in ("a-secret-key", "service_301", "hidden"):
        assert secret not in log


def test_log_bodies_setting_logs_bodies(start: Callable[..., Any]) -> None:
    server = start(DAGREC_LOG_LEVEL="info", DAGREC_LOG_BODIES="true", DAGREC_LOG_FORMAT="text")
    HTTP.post(f"{server.url}/predict", json=PATH)
    log = server.stop()
    assert "service_301" in log
    assert re.search(
        r"^\S+Z info     request request_id=\w{32} method=POST path=/predict status=200", log, re.M
    )


def test_metrics_count_requests_and_answers(start: Callable[..., Any]) -> None:
    server = start()
    with server.client() as client:
        for body in (PATH, PATH, {"path": ["x", "service_301"]}, {"path": ["x", "y"]}):
            assert client.post("/predict", json=body).is_success
        client.post("/predict", json={"path": ["service_301"], "models": "all", "mask": "soft"})
        client.post("/predict", json={})
        client.get("/models/markov")
        client.get("/models/popularity")
        client.get("/some/where")
        response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    samples = [line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#")]
    counts = {name: float(value) for name, value in samples}

    def requests(route: str, method: str, status: int) -> float:
        return counts[f'dagrec_requests_total{{method="{method}",route="{route}",status="{status}"}}']

    assert requests("/predict", "POST", 200) == 5
    assert requests("/predict", "POST", 422) == 1
    assert requests("/models/{name}", "GET", 200) == 2
    assert requests("none", "GET", 404) == 1
    assert counts['dagrec_request_seconds_count{route="/predict"}'] == 6

    def answers(model: str, strategy: str, mask: str) -> float:
        return counts[f'dagrec_answers_total{{mask="{mask}",model="{model}",strategy="{strategy}"}}']

    assert answers("popularity", "model", "observed") == 2
    assert answers("popularity", "back-off", "observed") == 1
    assert answers("popularity", "popularity", "observed") == 1
    assert answers("markov", "model", "soft") == answers("popularity", "model", "soft") == 1
    assert counts["dagrec_unknown_nodes_total"] == 3
    assert counts["dagrec_mask_fallbacks_total"] == 1
    assert (counts["dagrec_cache_hits_total"], counts["dagrec_cache_misses_total"]) == (1, 5)
    assert counts["dagrec_active_requests"] == 1
    assert "process_resident_memory_bytes" in response.text


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_routes_except_public_ones_need_api_key(method: str, path: str, protected_url: str) -> None:
    url = protected_url + re.sub(r"\{\w+(:path)?\}", "popularity", path)
    response = HTTP.request(method, url)
    if PUBLIC_PATHS.fullmatch(path):
        assert response.status_code != 401
        return
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["content-type"] == "application/problem+json"
    for headers in ({"x-api-key": "another-key"}, {"authorization": "Bearer a-good-ke"}):
        assert HTTP.request(method, url, headers=headers).status_code == 401
    for headers in ({"x-api-key": "a-good-key"}, {"authorization": "bearer a-good-key"}):
        status = HTTP.request(method, url, headers=headers).status_code
        assert status not in (401, 500) or path.startswith("/admin")


@pytest.fixture(scope="module")
def protected_url(small_bundle: Path, start_server: Start) -> Iterator[str]:
    server = start_server(small_bundle, DAGREC_API_KEY="a-good-key")
    server.wait_until_ready()
    yield server.url
    assert "a-good-key" not in server.stop()


def test_api_documentation_needs_api_key(protected_url: str) -> None:
    for path in ("/openapi.json", "/docs", "//models", "/health/../models", "/static/../models"):
        assert HTTP.get(protected_url + path).status_code in (401, 404)


def test_shutdown_finishes_requests_in_progress(start: Callable[..., Any]) -> None:
    server = start(DAGREC_LOG_LEVEL="info")
    body = json.dumps(PATH).encode()
    with server.connect() as connection:
        connection.sendall(REQUEST_HEAD % len(body) + body[:5])
        wait_until(lambda: active_requests(server) == 2, "the request is in progress")
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts_connections(server), "the server shuts down")
        assert server.process.status is None
        connection.sendall(body[5:])
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    assert response.startswith(b"HTTP/1.1 200 OK")
    assert b'"predictions"' in response
    assert "Application shutdown complete" in server.process.wait().err


def test_incomplete_body_times_out(start: Callable[..., Any]) -> None:
    server = start(DAGREC_BODY_TIMEOUT="0.3")
    with server.connect() as connection:
        connection.sendall(REQUEST_HEAD % 50 + b"{")
        response = HTTPResponse(connection)
        response.begin()
        assert response.status == 408
        assert b"a body must arrive within 0.3 s" in response.read()


def test_requests_over_concurrency_limit_are_rejected(start: Callable[..., Any]) -> None:
    server = start(DAGREC_MAX_REQUESTS="1", DAGREC_BODY_TIMEOUT="1000")
    with server.connect() as connection:
        connection.sendall(REQUEST_HEAD % 50 + b"{")
        wait_until(lambda: active_requests(server) == 2, "the request is in progress")
        response = HTTP.get(f"{server.url}/models")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"
        assert "at most 1 concurrent requests are allowed" in response.json()["detail"]
    wait_until(lambda: active_requests(server) == 1, "the request has ended")
    assert HTTP.get(f"{server.url}/models").is_success


def test_long_request_does_not_delay_short_ones(server: Any, client: httpx2.Client) -> None:
    """A request for all models at several ends is long, and runs in a thread."""
    nodes = [{"id": i, "mid": 301 + i % 16} for i in range(6)]
    body = {"composition": {"nodes": nodes, "links": []}, "models": "all"}
    with ThreadPoolExecutor() as pool:
        long = pool.submit(HTTP.post, f"{server.url}/predict", json=body)
        short = 0
        while not long.done():
            assert client.post("/predict", json=PATH).is_success
            short += 1
    assert long.result().is_success
    assert short > 8, "most short requests took more than a quarter of the time of the long one"


def test_answer_over_time_limit_is_rejected(start: Callable[..., Any]) -> None:
    server = start(DAGREC_TIMEOUT="1e-6")
    response = HTTP.post(f"{server.url}/predict", json=PATH)
    assert response.status_code == 422
    assert "an answer must take at most 1e-06 s" in response.json()["detail"]


def test_catalogue_mask_without_declared_links_is_rejected(start: Callable[..., Any]) -> None:
    response = HTTP.post(f"{start().url}/predict", json={"path": [], "mask": "catalogue"})
    assert response.status_code == 422
    assert "mask 'catalogue' needs links that a user declared, found none" in response.json()["detail"]


def test_cors_allows_only_configured_origins(start: Callable[..., Any], client: httpx2.Client) -> None:
    origin = {"origin": "https://editor.example"}
    assert "access-control-allow-origin" not in client.get("/models", headers=origin).headers
    server = start(DAGREC_CORS="https://editor.example, https://other.example")
    response = HTTP.get(f"{server.url}/models", headers=origin)
    assert response.headers["access-control-allow-origin"] == "https://editor.example"
    assert "X-Request-ID" in response.headers["access-control-expose-headers"]
    preflight = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-api-key",
    }
    assert HTTP.options(f"{server.url}/predict", headers=preflight).is_success
    response = HTTP.get(f"{server.url}/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in response.headers


def test_model_and_bundle_details_equal_manifest(client: httpx2.Client, bundle: Bundle) -> None:
    for label, entry in bundle.manifest.models.items():
        details = client.get(f"/models/{label}").json()
        model = bundle.models[label].recommender
        assert details["configuration"] == model.config.model_dump(mode="json")
        assert details["paper"] == model.paper
        assert details["temperature"] == entry.temperature
        assert (details["vocabulary"], details["graph"]) == (
            bundle.manifest.vocabulary,
            bundle.manifest.graph,
        )
    response = client.get("/models/unknown")
    assert response.status_code == 404
    assert "model must be one of" in response.json()["detail"]
    details = client.get("/bundle").json()
    assert details["version"] == bundle.version
    assert details["data"] == bundle.manifest.data
    assert details["services"] == len(bundle.vocabulary.services)
    assert details["models"] == list(bundle.models)
