"""Run commands and scripts in processes that are forked from one with all imports.

A fork takes milliseconds; starting an interpreter and importing torch takes three seconds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dagrec import cli

PROCESSES = multiprocessing.get_context("forkserver")
# torch imports torch._dynamo with the first optimiser.
PROCESSES.set_forkserver_preload(["pytest", "torch._dynamo", "dagrec.cli", "dagrec.jobs.evaluate"])


@dataclass(frozen=True)
class Completed:
    """The exit status and output of a process. ``status`` is negative if it was killed."""

    status: int | None
    out: str
    err: str
    seconds: float


def run_process(body: Callable[..., None], arguments: Sequence[object], folder: Path) -> Completed:
    """Call ``body`` in a new process in ``folder``. It is killed after a minute."""
    outputs = [folder / ".stdout", folder / ".stderr"]
    start = time.perf_counter()
    process = PROCESSES.Process(target=_run_redirected, args=(body, arguments, folder, outputs))
    process.start()
    process.join(60)
    process.kill()
    process.join()
    seconds = time.perf_counter() - start
    out, err = (file.read_bytes().decode() for file in outputs)
    return Completed(process.exitcode, out, err, seconds)


def command(*arguments: str | Path, folder: Path) -> Completed:
    """Run the command ``dagrec`` with arguments."""
    return run_process(_run_command, [str(argument) for argument in arguments], folder)


def python(code: str, folder: Path) -> Completed:
    """Run a Python script."""
    return run_process(_run_script, [code], folder)


def _run_redirected(
    body: Callable[..., None], arguments: Sequence[object], folder: Path, outputs: Sequence[Path]
) -> None:
    os.chdir(folder)
    for descriptor, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    body(*arguments)


def _run_command(*arguments: str) -> None:
    sys.argv = ["dagrec", *arguments]
    cli.main()


def _run_script(code: str) -> None:
    exec(compile(code, "script", "exec"), {"__name__": "__main__"})
