"""Health probes under load, warnings on unknown settings, and escaping in logs."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from dagrec_service.logs import AccessLog, JsonLines, TextLines

from dagrec.store.store import Store
from tests.processes import wait_until
from tests.service.conftest import HTTP

Start = Callable[..., Any]
FORGED = "/a\n2026-01-01T00:00:00.000Z error bundle refused\r\x1b[2J\u2028\x85ü"


@pytest.fixture
def record() -> logging.LogRecord:
    return logging.LogRecord("dagrec.service", logging.ERROR, "", 0, "refused: %s", (FORGED,), None)


def test_busy_service_answers_probes(small_store: Store, start_server: Start) -> None:
    server = start_server(
        small_store.root,
        DAGREC_MAX_REQUESTS="1",
        DAGREC_BODY_TIMEOUT="1000",
        DAGREC_ROOT_PATH="/recommend",
    )
    server.wait_until_ready()
    with server.connect() as waiting:
        waiting.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: 50\r\n\r\n{"
        )
        wait_until(
            lambda: HTTP.get(f"{server.url}/models").status_code == 503, "the request is in progress"
        )
        for path in ("/health/live", "/health/ready", "/v2/health/live", "/metrics"):
            for prefix in ("", "/recommend"):
                assert HTTP.get(server.url + prefix + path).is_success, path
        for path in ("/models", "/", "/health", "/metricsx"):
            assert HTTP.get(server.url + path).status_code == 503, path
    server.stop()


def test_unknown_variable_is_logged_without_value(small_store: Store, start_server: Start) -> None:
    server = start_server(small_store.root, DAGREC_API_KEYS="a-secret-key")
    server.wait_until_ready()
    log = server.stop()
    assert "DAGREC_API_KEYS is not a setting and is ignored" in log
    assert "a-secret-key" not in log


def test_text_log_escapes_line_breaks_and_control_characters(record: logging.LogRecord) -> None:
    stream = io.StringIO()
    AccessLog("text", stream).write("request", {"path": FORGED})
    for line in (stream.getvalue(), TextLines().format(record) + "\n"):
        assert line.endswith(
            r"/a\n2026-01-01T00:00:00.000Z error bundle refused\r\x1b[2J\u2028\x85ü" + "\n"
        )
        assert line[:-1].isprintable()


def test_json_log_round_trips_control_characters(record: logging.LogRecord) -> None:
    stream = io.StringIO()
    AccessLog("json", stream).write("request", {"path": FORGED})
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue())["path"] == FORGED
    assert "\n" not in JsonLines().format(record)
    assert json.loads(JsonLines().format(record))["message"] == f"refused: {FORGED}"
