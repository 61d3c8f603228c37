"""Server processes, among them one that answers from a bundle of all recommenders."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from dagrec.data.formats import read
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.store.store import Store

DATA = Path(__file__).parents[2] / "data" / "compositions.json"
DAGREC = Path(sys.executable).with_name("dagrec")


@dataclass
class Server:
    """A running process of `dagrec serve`."""

    process: subprocess.Popen[str]
    url: str

    def wait_until_ready(self) -> None:
        """Wait until the server is ready, for at most a minute."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server stopped: {self.process.communicate()[1]}")
            try:
                if httpx2.get(f"{self.url}/health/ready").is_success:
                    return
            except httpx2.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server was not ready within a minute")

    def stop(self) -> str:
        """Send SIGTERM, and return what the server wrote to standard error."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=20)[1]


def start(store: Path, **environment: str) -> Server:
    """Start `dagrec serve` on a free port, with environment variables."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [DAGREC, "serve", "--store", store, "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DAGREC_LOG_LEVEL": "warning", **environment},
    )
    return Server(process, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def start_server() -> Callable[..., Server]:
    """The function :func:`start`."""
    return start


@pytest.fixture
def small_store(tmp_path: Path) -> Store:
    """A store with recommenders that do not need torch."""
    store = Store(tmp_path / "small")
    train(read(DATA), store, load_config(models=["popularity", "markov"]), measure=0)
    return store


@pytest.fixture(scope="session")
def server(store: Store) -> Iterator[Server]:
    server = start(store.root)
    server.wait_until_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url) as client:
        yield client
