"""Benchmark of the service against a bare FastAPI endpoint with responses of the same size.

`make bench-service` trains markov and gru4rec on the bundled compositions. It then sends requests over
persistent connections to the bare endpoint, to markov, and to gru4rec with and without the cache, in
turn. Each server is one process on one core, and the client runs on another core. All servers log each
request, as by default. The relevant figure is the ratio to the bare endpoint in the same run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, cast

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from dagrec.data.examples import extract
from dagrec.data.formats import read

DAGREC = str(Path(sys.executable).with_name("dagrec"))
STORE = Path("out/bench-store")
TARGETS = {"markov": 0.8, "gru4rec, cached": 0.6, "gru4rec, not cached": 0.4}
"""Lowest acceptable ratios of requests per second to the bare endpoint."""
BARE = "bare FastAPI"
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
MAX_SECONDS = 120
"""Time limit of a round."""


@dataclass(frozen=True)
class Target:
    """A server to benchmark, and the model that must answer."""

    name: str
    path: str
    model: str | None
    process: subprocess.Popen[bytes]
    port: int

    def requests(self, paths: Sequence[Sequence[str]]) -> list[bytes]:
        return [encode(self.path, {"path": path, "k": 10, "model": self.model}) for path in paths]

    @property
    def memory(self) -> float:
        """Resident memory of the process, in MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Round:
    """The result of a round: requests per second, and the time of each request in ms."""

    rate: float
    times: list[float]


def encode(path: str, body: dict[str, Any]) -> bytes:
    """Return an HTTP request with a JSON body."""
    text = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(text) + text


class Connection(asyncio.Protocol):
    """Sends the next of the shared requests as soon as a response is complete."""

    def __init__(
        self, requests: Iterator[bytes], times: list[float], done: asyncio.Future[None]
    ) -> None:
        self.requests = requests
        self.times = times
        self.done = done
        self.buffer = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's class does not inherit from it
        self.send_next()

    def send_next(self) -> None:
        request = next(self.requests, None)
        if request is None:
            self.transport.close()
            return
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, body = self.buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(RuntimeError(self.buffer.decode()))
            self.transport.close()
            return
        self.buffer = b""
        self.times.append((time.perf_counter() - self.sent) * 1000)
        self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.done.done():
            self.done.set_result(None)


async def send_all(port: int, requests: Sequence[bytes], connections: int) -> Round:
    """Send all requests over a number of connections."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    shared = iter(requests)
    futures = []
    start = time.perf_counter()
    for _ in range(connections):
        done = loop.create_future()
        futures.append(done)
        connection = partial(Connection, shared, times, done)
        await loop.create_connection(connection, "127.0.0.1", port)
    await asyncio.wait_for(asyncio.gather(*futures), MAX_SECONDS)
    seconds = time.perf_counter() - start
    if len(times) != len(requests):
        raise RuntimeError(f"{len(requests)} requests were sent, found {len(times)} responses")
    return Round(len(times) / seconds, times)


BARE_APP = """
from typing import Any
import json, sys
import uvicorn
from fastapi import FastAPI

app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})
ANSWER = json.loads(sys.argv[2])

@app.post("/predict")
async def predict(body: dict[str, Any]) -> dict[str, Any]:
    return ANSWER

uvicorn.run(app, port=int(sys.argv[1]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pin(number: int) -> None:
    """Restrict this process to one of its cores, if there are several."""
    cores = sorted(CORES)
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[number]})


@contextlib.contextmanager
def start(
    name: str, model: str | None, command: list[str], port: int, **environment: str
) -> Iterator[Target]:
    """Run a server on the first core while the block runs."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        preexec_fn=lambda: pin(0),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            if process.poll() is not None:
                sys.exit(f"bench: {name} stopped with status {process.returncode}")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.1)
        yield Target(name, "/predict", model, process, port)
    finally:
        process.terminate()
        process.wait(timeout=30)


def predict(port: int, body: dict[str, Any]) -> bytes:
    """Send a request to a server, and return the body of the response."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        content: bytes = response.read()
    return content


def measure(
    targets: Sequence[Target],
    paths: Sequence[Sequence[str]],
    count: int,
    rounds: int,
    connections: int,
) -> dict[str, list[Round]]:
    """Measure rounds of all targets in turn, after a warm-up round, and return the rounds by name."""
    results: dict[str, list[Round]] = {target.name: [] for target in targets}
    for number in range(rounds + 1):
        for target in targets:
            distinct = target.requests(paths)
            requests = [distinct[i % len(distinct)] for i in range(count)]
            result = asyncio.run(send_all(target.port, requests, connections))
            if number:
                results[target.name].append(result)
    return results


def summarise(target: Target, rounds: Sequence[Round], bare: Sequence[Round]) -> dict[str, Any]:
    """Return the medians over rounds, percentiles of the times, and the memory of the server."""
    times = sorted(time_ms for round_ in rounds for time_ms in round_.times)
    ratios = [round_.rate / other.rate for round_, other in zip(rounds, bare, strict=True)]
    return {
        "requests_per_second": statistics.median(round_.rate for round_ in rounds),
        "ratio": statistics.median(ratios),
        "target": TARGETS.get(target.name),
        "p50_ms": times[len(times) // 2],
        "p99_ms": times[int(len(times) * 0.99)],
        "memory_mb": target.memory,
    }


def main(
    data: Annotated[Path, typer.Argument(help="compositions")] = Path("data/compositions.json"),
    count: Annotated[int, typer.Option(min=100, help="requests per round")] = 4000,
    rounds: Annotated[int, typer.Option(min=1, help="rounds per server")] = 7,
    connections: Annotated[int, typer.Option(min=1, help="persistent connections")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the results")] = None,
) -> None:
    """Measure the requests per second of the service and of a bare FastAPI endpoint."""
    uvloop.install()
    examples, _ = extract(read(data).compositions)
    paths = sorted({example.context.path for example in examples})[:1500]
    options = ["--model", "markov", "--model", "gru4rec", "--measure", "0"]
    subprocess.run([DAGREC, "train", str(data), "--store", str(STORE), *options], check=True)
    serve = [DAGREC, "serve", "--store", str(STORE), "--watch", "0", "--port"]
    cached_port, uncached_port, bare_port = free_port(), free_port(), free_port()
    pin(1)
    with (
        start("markov", "markov", [*serve, str(cached_port)], cached_port) as markov,
        start(
            "gru4rec, not cached",
            "gru4rec",
            [*serve, str(uncached_port), "--cache", "0"],
            uncached_port,
        ) as uncached,
    ):
        answer = predict(cached_port, {"path": list(paths[0]), "k": 10, "model": "markov"}).decode()
        bare_command = [sys.executable, "-c", BARE_APP, str(bare_port), answer]
        with start(BARE, None, bare_command, bare_port) as bare:
            cached = Target("gru4rec, cached", markov.path, "gru4rec", markov.process, markov.port)
            targets = [bare, markov, cached, uncached]
            for target in targets:
                body = {"path": list(paths[0]), "model": target.model}
                checked = json.loads(predict(target.port, body))
                assert target.model in (None, checked["model"]), checked
            results = measure(targets, paths, count, rounds, connections)
            summaries = {t.name: summarise(t, results[t.name], results[BARE]) for t in targets}
    show(summaries, len(paths), connections)
    if json_file is not None:
        about = {
            "data": str(data),
            "contexts": len(paths),
            "requests": count,
            "rounds": rounds,
            "connections": connections,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "versions": {name: version(name) for name in ("fastapi", "uvicorn", "pydantic", "torch")},
        }
        json_file.write_text(json.dumps({"about": about, "results": summaries}, indent=1) + "\n")


def show(summaries: dict[str, dict[str, Any]], contexts: int, connections: int) -> None:
    """Print the summaries as a table."""
    table = Table(
        box=None, title=f"{contexts} contexts, {connections} connections, one core per server"
    )
    for name in ("", "requests/s", "of bare", "target", "p50 ms", "p99 ms", "MB"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in summaries.items():
        target = "" if row["target"] is None else f"{row['target']:.1f}"
        table.add_row(
            name,
            f"{row['requests_per_second']:,.0f}",
            f"{row['ratio']:.2f}",
            target,
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['memory_mb']:.0f}",
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
