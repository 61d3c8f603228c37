"""Demonstration on one data set: evaluate, train, publish, serve, and send one request over HTTP.

`make demo` runs it on the bundled compositions, `make demo DATA=FILE` on others. The service runs until
Ctrl-C; with DEMO_ONCE=1, it stops after the request.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from dagrec.data.formats import read
from dagrec.errors import DagrecError

STORE = "out/demo-store"
MODELS = ("--model", "markov", "--model", "gru4rec", "--model", "dagset")
DAGREC = str(Path(sys.executable).with_name("dagrec"))


def run(title: str, *command: str) -> None:
    """Print a title and a command of dagrec, and run the command."""
    print(f"\n== {title}\n$ dagrec {' '.join(command)}", flush=True)
    subprocess.run([DAGREC, *command], check=True)


def free_port(preferred: int) -> int:
    """Return the preferred port if it is free, and any free port if not."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port")


def wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    """Wait until the service is ready, for at most a minute."""
    for _ in range(300):
        if service.poll() is not None:
            sys.exit(f"demo: the service stopped with status {service.returncode}")
        try:
            with urllib.request.urlopen(f"{url}/health/ready", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    sys.exit("demo: the service was not ready within a minute")


def main() -> None:
    data = sys.argv[1]
    try:
        examples, _ = read(Path(data)).examples()
    except DagrecError as error:
        sys.exit(f"demo: {error}")
    longest = max(examples, key=lambda example: len(example.context.path))
    run("Evaluate on held-out pairs", "evaluate", data, "--repeats", "5", *MODELS)
    run("Train on all data, and publish", "train", data, "--store", STORE, *MODELS)
    port = free_port(8000)
    url = f"http://127.0.0.1:{port}"
    print(f"\n== Serve\n$ dagrec serve --store {STORE} --port {port}", flush=True)
    service = subprocess.Popen(
        [DAGREC, "serve", "--store", STORE, "--port", str(port)],
        env={**os.environ, "DAGREC_LOG_LEVEL": "warning"},
    )
    try:
        wait_until_ready(url, service)
        body = json.dumps({"path": list(longest.context.path), "k": 3})
        print(f"\n== Predict\n$ curl -s {url}/predict -H 'content-type: application/json' -d '{body}'")
        request = urllib.request.Request(
            f"{url}/predict", body.encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            print(json.dumps(json.load(response), indent=1), flush=True)
        if os.environ.get("DEMO_ONCE", "") in ("", "0"):
            print(f"\nThe service is running. Playground: {url}, API documentation: {url}/docs.")
            print("Press Ctrl-C to stop it.")
            service.wait()
    except KeyboardInterrupt:
        print("\nstopping")
    finally:
        service.terminate()
        service.wait(timeout=30)


if __name__ == "__main__":
    main()
