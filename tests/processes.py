"""Run commands, scripts and functions in processes that are forked from one with all imports.

A fork takes milliseconds; starting an interpreter and importing torch takes three seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from dagrec import cli

PROCESSES = multiprocessing.get_context("forkserver")
# torch imports torch._dynamo with the first optimiser.
PROCESSES.set_forkserver_preload(
    ["pytest", "torch._dynamo", "dagrec.cli", "dagrec.jobs.evaluate", "dagrec_service.app"]
)
PATIENCE = 300.0
"""Seconds after which a process or a condition has failed, however busy the machine is."""


@dataclass(frozen=True)
class Completed:
    """The exit status and output of a process. ``status`` is negative if it was killed.

    ``seconds`` is its processor time, which does not depend on other processes.
    """

    status: int
    out: str
    err: str
    seconds: float


class Job:
    """A running process that calls ``body``, and may be killed."""

    def __init__(
        self,
        body: Callable[..., None],
        arguments: Sequence[object],
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._outputs = Path(tempfile.mkdtemp(prefix="dagrec-outputs-"))
        self._process = PROCESSES.Process(
            target=_run_redirected,
            args=(body, arguments, folder, dict(environment or {}), self._outputs),
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, negative after a kill, or None while the process runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def join(self, seconds: float) -> None:
        """Wait until the process ends, for at most some seconds."""
        self._process.join(seconds)

    def wait(self, seconds: float = PATIENCE) -> Completed:
        """Wait until the process ends. It is killed if this takes too long."""
        self.join(seconds)
        self._process.kill()
        self._process.join()
        assert self.status is not None
        out, err, used = (
            file.read_bytes().decode() if file.exists() else ""
            for file in (self._outputs / name for name in ("1", "2", "seconds"))
        )
        shutil.rmtree(self._outputs)
        return Completed(self.status, out, err, float(used or 0))

    def wait_for_line(self, line: str) -> None:
        """Wait until the process has printed a line."""
        output = self._outputs / "1"
        wait_until(
            lambda: output.exists() and line in output.read_text(encoding="utf-8").splitlines(),
            f"the process prints {line!r}",
        )

    def kill(self) -> Completed:
        """Kill the process, and wait for its end."""
        self.send_signal(signal.SIGKILL)
        return self.wait()


def start(*arguments: str | Path, folder: Path | None = None, **environment: str) -> Job:
    """Start the command ``dagrec`` with arguments and environment variables."""
    return Job(run_command, [str(argument) for argument in arguments], folder, environment)


def command(*arguments: str | Path, folder: Path | None = None) -> Completed:
    """Run the command ``dagrec`` with arguments."""
    return start(*arguments, folder=folder).wait()


def python(code: str, folder: Path | None = None) -> Completed:
    """Run a Python script."""
    return Job(_run_script, [code], folder).wait()


def print_and_stop(line: object) -> NoReturn:
    """Print a line, and do nothing more until the process is killed."""
    print(line, flush=True)
    while True:
        signal.pause()


T = TypeVar("T")


def wait_until(condition: Callable[[], T], expectation: str, pause: float = 0.01) -> T:
    """Wait until a condition returns a true value, and return the value."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not true within {PATIENCE:g} s: {expectation}"
        time.sleep(pause)
    return value


def _run_redirected(
    body: Callable[..., None],
    arguments: Sequence[object],
    folder: Path | None,
    environment: Mapping[str, str],
    outputs: Path,
) -> None:
    os.environ.update(environment)
    os.chdir(folder or outputs)
    for descriptor in (1, 2):
        file = os.open(outputs / str(descriptor), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    start = time.process_time()
    try:
        body(*arguments)
    finally:
        with suppress(OSError):  # some tests limit the size of files
            (outputs / "seconds").write_text(str(time.process_time() - start))


def run_command(*arguments: str) -> None:
    """Run the command ``dagrec`` in this process."""
    sys.argv = ["dagrec", *arguments]
    cli.main()


def _run_script(code: str) -> None:
    exec(compile(code, "script", "exec"), {"__name__": "__main__"})
