"""Server processes, among them one that answers from a bundle of all recommenders."""

from __future__ import annotations

import random
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from dagrec.data.formats import read
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.store.store import Store
from tests import processes
from tests.processes import Job, wait_until

DATA = Path(__file__).parents[2] / "data" / "compositions.json"
HTTP = httpx2.Client(limits=httpx2.Limits(max_keepalive_connections=0), timeout=processes.PATIENCE)
"""Sends single requests. Functions such as ``httpx2.get`` would read all certificates each time."""


@dataclass
class Server:
    """A running process of `dagrec serve`."""

    process: Job
    url: str

    def wait_until_ready(self) -> None:
        wait_until(self._is_ready, "the server is ready")

    def _is_ready(self) -> bool:
        assert self.process.status is None, f"the server stopped: {self.process.wait().err}"
        try:
            return HTTP.get(f"{self.url}/health/ready").is_success
        except httpx2.TransportError:
            return False

    def client(self) -> httpx2.Client:
        """Return a client that keeps its connection."""
        return httpx2.Client(base_url=self.url, timeout=processes.PATIENCE, verify=False)

    def connect(self) -> socket.socket:
        """Open a connection, for requests that are sent in parts."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=processes.PATIENCE)

    def stop(self) -> str:
        """Send SIGTERM, and return what the server wrote to standard error."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait().err


def free_port() -> int:
    """Return a free port, outside the range from which the system takes the ports of clients."""
    while True:
        with socket.socket() as probe:
            port = random.SystemRandom().randrange(10_000, 32_000)
            if probe.connect_ex(("127.0.0.1", port)):
                return port


def start(store: Path, **environment: str) -> Server:
    """Start `dagrec serve` with environment variables."""
    port = str(free_port())
    environment = {"DAGREC_LOG_LEVEL": "warning", **environment}
    job = processes.start("serve", "--store", store, "--port", port, **environment)
    return Server(job, f"http://127.0.0.1:{port}")


@pytest.fixture(scope="session")
def start_server() -> Callable[..., Server]:
    """The function :func:`start`."""
    return start


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a store with recommenders that do not need torch; tests must not change it."""
    store = Store(tmp_path_factory.mktemp("small") / "store")
    train(read(DATA), store, load_config(models=["popularity", "markov"]), measure=0)
    return store.root


@pytest.fixture
def small_store(small_bundle: Path, tmp_path: Path) -> Store:
    """A copy of this store, which the test may change."""
    shutil.copytree(small_bundle, tmp_path / "small")
    return Store(tmp_path / "small")


@pytest.fixture(scope="session")
def server(store: Store) -> Iterator[Server]:
    server = start(store.root)
    server.wait_until_ready()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as client:
        yield client
