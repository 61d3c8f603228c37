"""Requests a second of the service, beside a bare FastAPI endpoint that answers as many bytes.

`make bench-service` trains markov and gru4rec on the bundled compositions, then loads in turn, with
connections that stay open: a bare endpoint; markov; gru4rec with contexts remembered, and without. Each
server is one process on one core, the client another on another; both log every request as they do by
default. What counts is the ratio to the bare endpoint in the same run.
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
TARGETS = {"markov": 0.8, "gru4rec, remembered": 0.6, "gru4rec, not remembered": 0.4}
BARE = "bare FastAPI"
CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
MAX_SECONDS = 120
"""Of one round."""


@dataclass(frozen=True)
class Subject:
    """Something to load: its name, where it is, and the model that must answer."""

    name: str
    path: str
    model: str | None
    process: subprocess.Popen[bytes]
    port: int

    def requests(self, paths: Sequence[Sequence[str]]) -> list[bytes]:
        return [encoded(self.path, {"path": path, "k": 10, "model": self.model}) for path in paths]

    @property
    def memory(self) -> float:
        """MB that the process holds."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(frozen=True)
class Load:
    """What one round came to: requests a second, and the time of each in ms."""

    rate: float
    times: list[float]


def encoded(path: str, body: dict[str, Any]) -> bytes:
    text = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(text) + text


class Connection(asyncio.Protocol):
    """Sends the next request as soon as an answer is whole; bounded by a count that all share."""

    def __init__(
        self, requests: Iterator[bytes], times: list[float], done: asyncio.Future[None]
    ) -> None:
        self.requests = requests
        self.times = times
        self.done = done
        self.buffer = b""
        self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.next()

    def next(self) -> None:
        request = next(self.requests, None)
        if request is None:
            self.transport.close()
            return
        self.sent = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
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
        self.next()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.done.done():
            self.done.set_result(None)


async def load(port: int, requests: Sequence[bytes], connections: int) -> Load:
    """All requests over so many connections."""
    loop = asyncio.get_running_loop()
    times: list[float] = []
    shared = iter(requests)
    waiting = []
    start = time.perf_counter()
    for _ in range(connections):
        done = loop.create_future()
        waiting.append(done)
        connection = partial(Connection, shared, times, done)
        await loop.create_connection(connection, "127.0.0.1", port)
    await asyncio.wait_for(asyncio.gather(*waiting), MAX_SECONDS)
    seconds = time.perf_counter() - start
    if len(times) != len(requests):
        raise RuntimeError(f"{len(requests)} requests were sent, found {len(times)} answers")
    return Load(len(times) / seconds, times)


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


def pinned(number: int) -> None:
    """Stay on one of the cores that this process may use, where there are two."""
    cores = sorted(CORES)
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[number]})


@contextlib.contextmanager
def started(
    name: str, model: str | None, command: list[str], port: int, **environment: str
) -> Iterator[Subject]:
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        preexec_fn=lambda: pinned(0),
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
        yield Subject(name, "/predict", model, process, port)
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(port: int, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        found: bytes = response.read()
    return found


def measure(
    subjects: Sequence[Subject],
    paths: Sequence[Sequence[str]],
    count: int,
    rounds: int,
    connections: int,
) -> dict[str, list[Load]]:
    """Rounds of every subject in turn, after one that is thrown away."""
    found: dict[str, list[Load]] = {subject.name: [] for subject in subjects}
    for number in range(rounds + 1):
        for subject in subjects:
            several = subject.requests(paths)
            requests = [several[i % len(several)] for i in range(count)]
            loaded = asyncio.run(load(subject.port, requests, connections))
            if number:
                found[subject.name].append(loaded)
    return found


def summary(subject: Subject, loads: Sequence[Load], bare: Sequence[Load]) -> dict[str, Any]:
    times = sorted(t for load in loads for t in load.times)
    ratios = [own.rate / other.rate for own, other in zip(loads, bare, strict=True)]
    return {
        "requests_per_second": statistics.median(load.rate for load in loads),
        "ratio": statistics.median(ratios),
        "target": TARGETS.get(subject.name),
        "p50_ms": times[len(times) // 2],
        "p99_ms": times[int(len(times) * 0.99)],
        "memory_mb": subject.memory,
    }


def main(
    data: Annotated[Path, typer.Argument(help="compositions")] = Path("data/compositions.json"),
    count: Annotated[int, typer.Option(min=100, help="requests a round")] = 4000,
    rounds: Annotated[int, typer.Option(min=1, help="rounds of each, in turn")] = 7,
    connections: Annotated[int, typer.Option(min=1, help="that stay open")] = 8,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the figures")] = None,
) -> None:
    """Load the service beside a bare FastAPI endpoint, in one run."""
    uvloop.install()
    examples, _ = extract(read(data).compositions)
    paths = sorted({example.context.path for example in examples})[:1500]
    options = ["--model", "markov", "--model", "gru4rec", "--measure", "0"]
    subprocess.run([DAGREC, "train", str(data), "--store", str(STORE), *options], check=True)
    serve = [DAGREC, "serve", "--store", str(STORE), "--watch", "0", "--port"]
    remembering, forgetting, plain = free_port(), free_port(), free_port()
    pinned(1)
    with (
        started("markov", "markov", [*serve, str(remembering)], remembering) as markov,
        started(
            "gru4rec, not remembered", "gru4rec", [*serve, str(forgetting), "--cache", "0"], forgetting
        ) as cold,
    ):
        answer = ask(remembering, {"path": list(paths[0]), "k": 10, "model": "markov"}).decode()
        bare_command = [sys.executable, "-c", BARE_APP, str(plain), answer]
        with started(BARE, None, bare_command, plain) as bare:
            warm = Subject("gru4rec, remembered", markov.path, "gru4rec", markov.process, markov.port)
            subjects = [bare, markov, warm, cold]
            for subject in subjects:
                found = json.loads(ask(subject.port, {"path": list(paths[0]), "model": subject.model}))
                assert subject.model in (None, found["model"]), found
            loads = measure(subjects, paths, count, rounds, connections)
            result = {s.name: summary(s, loads[s.name], loads[BARE]) for s in subjects}
    show(result, len(paths), connections)
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
        json_file.write_text(json.dumps({"about": about, "results": result}, indent=1) + "\n")


def show(result: dict[str, dict[str, Any]], contexts: int, connections: int) -> None:
    table = Table(box=None, title=f"{contexts} contexts, {connections} connections, one core a server")
    for name in ("", "requests/s", "of bare", "target", "p50 ms", "p99 ms", "MB"):
        table.add_column(name, justify="right" if name else "left")
    for name, row in result.items():
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
