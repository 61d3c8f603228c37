"""A published bundle of every recommender, and a real server process that answers from it."""

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

from dagrec.config import load_config
from dagrec.data.formats import read
from dagrec.jobs.train import train
from dagrec.store.store import Store

DATA = Path(__file__).parents[2] / "data" / "compositions.json"
DAGREC = Path(sys.executable).with_name("dagrec")


@dataclass
class Server:
    """A running `dagrec serve`."""

    process: subprocess.Popen[str]
    url: str

    def wait_until_ready(self) -> None:
        """Until it answers; at most a minute."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError(f"the server stopped: {self.process.communicate()[1]}")
            try:
                if httpx2.get(f"{self.url}/health/ready").is_success:
                    return
            except httpx2.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server was not ready within a minute")

    def stop(self) -> str:
        """End it as an operator does; returns what it wrote to standard error."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=20)[1]


def start(store: Path, **environment: str) -> Server:
    """`dagrec serve` on a free port."""
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
    """Starts `dagrec serve` on a store, with environment variables."""
    return start


@pytest.fixture
def small_store(tmp_path: Path) -> Store:
    """A store whose recommenders need no torch."""
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
