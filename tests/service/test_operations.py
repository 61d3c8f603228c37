"""What an operator relies on: ids, logs, counts, keys, limits, and an end that loses nothing."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
from dagrec_service.access import OPEN
from dagrec_service.routes import ROUTERS
from fastapi.routing import APIRoute

from dagrec.store.bundle import Bundle
from dagrec.store.store import Store

Start = Callable[..., Any]
PATH = {"path": ["table_1001002", "service_301"]}
HEAD = (
    b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
)
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
    """Starts servers that are ready, and stops what is still running."""
    started = []

    def ready(**environment: str) -> Any:
        server = start_server(small_store.root, **environment)
        started.append(server)
        server.wait_until_ready()
        return server

    yield ready
    for server in started:
        if server.process.poll() is None:
            server.stop()


def lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_every_answer_carries_an_id_the_clients_own_where_it_is_plain(client: httpx2.Client) -> None:
    for method, path in (("GET", "/health/live"), ("POST", "/predict"), ("GET", "/nowhere")):
        made = client.request(method, path).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)
        assert client.request(method, path).headers["x-request-id"] != made
        given = client.request(method, path, headers={"x-request-id": "a.b-C_3"})
        assert given.headers["x-request-id"] == "a.b-C_3"
    for strange in ("x" * 129, "a b", "ä".encode(), '"', ""):
        answer = client.get("/health/live", headers={"x-request-id": strange})
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_a_request_is_one_line_of_json_without_what_was_asked(start: Callable[..., Any]) -> None:
    server = start(DAGREC_LOG_LEVEL="info", DAGREC_API_KEY="a-secret-key")
    headers = {"x-api-key": "a-secret-key", "x-request-id": "mine"}
    url = f"{server.url}/predict?also=hidden"
    assert httpx2.post(url, json=PATH, headers=headers).is_success
    assert httpx2.post(url, json={"path": "hidden"}, headers=headers).status_code == 422
    log = server.stop()
    found = [line for line in lines(log) if line.get("request_id") == "mine"]
    assert [line["status"] for line in found] == [200, 422]
    first = found[0]
    assert set(first) == {
        *("time", "level", "message", "request_id", "method", "path", "status", "ms"),
        *("model", "version", "strategy", "answers"),
    }
    assert (first["method"], first["path"], first["model"]) == ("POST", "/predict", "popularity")
    assert 0 < first["ms"] < 10_000
    for secret in ("a-secret-key", "service_301", "hidden"):
        assert secret not in log


def test_bodies_are_logged_only_where_that_is_asked_for(start: Callable[..., Any]) -> None:
    server = start(DAGREC_LOG_LEVEL="info", DAGREC_LOG_BODIES="true", DAGREC_LOG_FORMAT="text")
    httpx2.post(f"{server.url}/predict", json=PATH)
    log = server.stop()
    assert "service_301" in log
    assert re.search(
        r"^\S+Z info     request request_id=\w{32} method=POST path=/predict status=200", log, re.M
    )


def test_metrics_count_what_happened(start: Callable[..., Any]) -> None:
    server = start()
    with httpx2.Client(base_url=server.url) as client:
        for body in (PATH, PATH, {"path": ["x", "service_301"]}, {"path": ["x", "y"]}):
            assert client.post("/predict", json=body).is_success
        client.post("/predict", json={"path": ["service_301"], "models": "all", "mask": "soft"})
        client.post("/predict", json={})
        client.get("/models/markov")
        client.get("/models/popularity")
        client.get("/some/where")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    told = [line.rsplit(" ", 1) for line in answer.text.splitlines() if not line.startswith("#")]
    counts = {name: float(value) for name, value in told}

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
    assert "process_resident_memory_bytes" in answer.text


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_but_health_and_the_page_needs_the_key(method: str, path: str, keyed: str) -> None:
    url = keyed + re.sub(r"\{\w+(:path)?\}", "popularity", path)
    without = httpx2.request(method, url)
    if OPEN.fullmatch(path):
        assert without.status_code != 401
        return
    assert without.status_code == 401
    assert without.headers["www-authenticate"] == "Bearer"
    assert without.headers["content-type"] == "application/problem+json"
    for wrong in ({"x-api-key": "another-key"}, {"authorization": "Bearer a-good-ke"}):
        assert httpx2.request(method, url, headers=wrong).status_code == 401
    for right in ({"x-api-key": "a-good-key"}, {"authorization": "bearer a-good-key"}):
        assert httpx2.request(method, url, headers=right).status_code not in (
            401,
            500,
        ) or path.startswith("/admin")


@pytest.fixture(scope="module")
def keyed(store: Store, start_server: Start) -> Iterator[str]:
    server = start_server(store.root, DAGREC_API_KEY="a-good-key")
    server.wait_until_ready()
    yield server.url
    assert "a-good-key" not in server.stop()


def test_the_document_needs_the_key_as_well(keyed: str) -> None:
    for path in ("/openapi.json", "/docs", "//models", "/health/../models", "/static/../models"):
        assert httpx2.get(keyed + path).status_code in (401, 404)


def test_a_request_in_flight_is_finished_when_it_is_told_to_stop(start: Callable[..., Any]) -> None:
    server = start(DAGREC_LOG_LEVEL="info")
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps(PATH).encode()
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(HEAD % len(body) + body[:5])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert server.process.poll() is None
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"{server.url}/health/live")
        connection.sendall(body[5:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b'"predictions"' in answer
    _, log = server.process.communicate(timeout=20)
    assert "Application shutdown complete" in log


def test_a_body_that_does_not_arrive_is_not_waited_for(start: Callable[..., Any]) -> None:
    server = start(DAGREC_BODY_TIMEOUT="0.3")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(HEAD % 50 + b"{")
        connection.settimeout(10)
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"a body must arrive within 0.3 s" in answer


def test_too_many_at_once_are_told_to_come_back(start: Callable[..., Any]) -> None:
    server = start(DAGREC_MAX_REQUESTS="1", DAGREC_BODY_TIMEOUT="5")
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as waiting:
        waiting.sendall(HEAD % 50 + b"{")
        time.sleep(0.3)
        answer = httpx2.get(f"{server.url}/models")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert "may be 1" in answer.json()["detail"]
    time.sleep(0.2)
    assert httpx2.get(f"{server.url}/models").is_success


def test_a_long_request_does_not_keep_short_ones_waiting(server: Any, client: httpx2.Client) -> None:
    """All models at many ends take a while, in a thread."""
    nodes = [{"id": i, "mid": 301 + i % 16} for i in range(6)]
    body = {"composition": {"nodes": nodes, "links": []}, "models": "all"}
    took: list[float] = []

    def long() -> None:
        start = time.perf_counter()
        assert httpx2.post(f"{server.url}/predict", json=body, timeout=60).is_success
        took.append(time.perf_counter() - start)

    thread = threading.Thread(target=long)
    thread.start()
    short = []
    while thread.is_alive():
        start = time.perf_counter()
        assert client.post("/predict", json=PATH).is_success
        short.append(time.perf_counter() - start)
    thread.join()
    assert len(short) > 3
    assert sorted(short)[len(short) // 2] < took[0] / 3


def test_a_request_that_takes_too_long_is_ended(start: Callable[..., Any]) -> None:
    server = start(DAGREC_TIMEOUT="1e-6")
    answer = httpx2.post(f"{server.url}/predict", json=PATH)
    assert answer.status_code == 422
    assert "an answer may take 1e-06 s" in answer.json()["detail"]


def test_a_mask_without_links_is_refused(start: Callable[..., Any]) -> None:
    answer = httpx2.post(f"{start().url}/predict", json={"path": [], "mask": "catalogue"})
    assert answer.status_code == 422
    assert "mask 'catalogue' needs links that a user declared, found none" in answer.json()["detail"]


def test_other_origins_may_ask_only_where_they_are_named(
    start: Callable[..., Any], client: httpx2.Client
) -> None:
    origin = {"origin": "https://editor.example"}
    assert "access-control-allow-origin" not in client.get("/models", headers=origin).headers
    server = start(DAGREC_CORS="https://editor.example, https://other.example")
    answer = httpx2.get(f"{server.url}/models", headers=origin)
    assert answer.headers["access-control-allow-origin"] == "https://editor.example"
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    asked = {
        **origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-api-key",
    }
    assert httpx2.options(f"{server.url}/predict", headers=asked).is_success
    stranger = httpx2.get(f"{server.url}/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in stranger.headers


def test_a_model_and_the_bundle_tell_all_that_is_known(client: httpx2.Client, bundle: Bundle) -> None:
    for label, entry in bundle.manifest.models.items():
        found = client.get(f"/models/{label}").json()
        model = bundle.models[label].recommender
        assert found["configuration"] == model.config.model_dump(mode="json")
        assert found["paper"] == model.paper
        assert found["temperature"] == entry.temperature
        assert (found["vocabulary"], found["graph"]) == (
            bundle.manifest.vocabulary,
            bundle.manifest.graph,
        )
    answer = client.get("/models/nobody")
    assert answer.status_code == 404
    assert "model must be one of" in answer.json()["detail"]
    found = client.get("/bundle").json()
    assert found["version"] == bundle.version
    assert found["data"] == bundle.manifest.data
    assert found["services"] == len(bundle.vocabulary.services)
    assert found["models"] == list(bundle.models)
