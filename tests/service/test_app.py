from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from dagrec.store.store import Store
from tests import processes
from tests.processes import Completed
from tests.service.conftest import HTTP, free_port

DAGREC = Path(sys.executable).with_name("dagrec")
Start = Callable[..., Any]


def run_serve(*arguments: str | Path, **environment: str) -> Completed:
    """Run a server that is expected to fail on startup."""
    return processes.start("serve", *arguments, **environment).wait()


def assert_startup_error(done: Completed, status: int, *texts: str) -> None:
    """Check the exit status, and that the only output is one error line with these texts."""
    assert done.status == status, done.err
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("dagrec: ")
    for text in texts:
        assert text in done.err
    assert done.out == ""


def test_serve_rejects_empty_store(tmp_path: Path) -> None:
    done = run_serve("--store", tmp_path)
    assert_startup_error(
        done, 1, f"{tmp_path}: a store must contain a published bundle", "dagrec train"
    )


def test_serve_rejects_damaged_bundle(small_store: Store) -> None:
    graph = small_store.bundles / small_store.current() / "graph.safetensors"
    graph.write_bytes(graph.read_bytes()[:-1])
    assert_startup_error(
        run_serve("--store", small_store.root), 1, str(graph), "must not change after publication"
    )


def test_serve_rejects_invalid_setting(small_store: Store) -> None:
    environment = {"DAGREC_MAX_BODY": "many"}
    assert_startup_error(
        run_serve("--store", small_store.root, **environment), 2, "DAGREC_MAX_BODY", "valid integer"
    )
    environment = {"DAGREC_LOG_LEVEL": "loud"}
    assert_startup_error(
        run_serve("--store", small_store.root, **environment),
        2,
        "DAGREC_LOG_LEVEL",
        "'warning'",
        "found 'loud'",
    )


def test_serve_rejects_port_in_use(small_store: Store) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        done = run_serve("--store", small_store.root, "--port", port)
    assert_startup_error(
        done, 1, f"127.0.0.1, port {port}: cannot be bound", "choose another --host or --port"
    )


@pytest.mark.parametrize("signal_", [signal.SIGTERM, signal.SIGINT])
def test_signal_shuts_server_down(
    signal_: signal.Signals, small_store: Store, start_server: Start
) -> None:
    server = start_server(small_store.root, DAGREC_LOG_LEVEL="info")
    server.wait_until_ready()
    server.process.send_signal(signal_)
    done = server.process.wait()
    assert done.status in (0, -signal_)
    assert "Application shutdown complete" in done.err
    assert "Traceback" not in done.err
    with pytest.raises(httpx2.ConnectError):
        HTTP.get(f"{server.url}/health/live")


def test_installed_command_serves_until_signal(small_store: Store) -> None:
    port = free_port()
    command = [DAGREC, "serve", "--store", small_store.root, "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("Uvicorn running" in line for line in lines)
        assert HTTP.get(f"http://127.0.0.1:{port}/health/ready").is_success
        process.send_signal(signal.SIGTERM)
        assert any("Application shutdown complete" in line for line in lines)
    assert process.returncode in (0, -signal.SIGTERM)


def test_settings_limit_body_and_set_root_path(small_store: Store, start_server: Start) -> None:
    server = start_server(small_store.root, DAGREC_MAX_BODY="100", DAGREC_ROOT_PATH="/recommend")
    server.wait_until_ready()
    body = json.dumps({"path": ["a" * 50]})
    for size, status in ((100, 200), (101, 413)):
        response = HTTP.post(
            f"{server.url}/predict",
            content=body.ljust(size),
            headers={"content-type": "application/json"},
        )
        assert response.status_code == status
    assert HTTP.get(f"{server.url}/openapi.json").json()["servers"] == [{"url": "/recommend"}]
    assert "Traceback" not in server.stop()


def test_service_without_networks_does_not_import_torch(small_store: Store) -> None:
    code = (
        "import sys, pathlib\n"
        "from dagrec.recommend.predictor import predict\n"
        "from dagrec.recommend.request import make_request\n"
        "from dagrec_service.app import create_app\n"
        "from dagrec_service.holder import Holder\n"
        "from dagrec_service.settings import make_settings\n"
        "create_app(make_settings(store=pathlib.Path(sys.argv[1])))\n"
        "holder = Holder(pathlib.Path(sys.argv[1])); holder.load()\n"
        "assert predict(holder.bundle, make_request({'path': ['service_301']})).predictions\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, small_store.root], check=False)
    assert done.returncode == 0
