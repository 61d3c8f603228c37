"""Real processes at little cost: they are forked from one that has imported everything already.

Starting an interpreter with dagrec takes a second, with torch three; a fork takes milliseconds.
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
# torch._dynamo, too: torch imports it when the first optimiser is made.
PROCESSES.set_forkserver_preload(["pytest", "torch._dynamo", "dagrec.cli", "dagrec.jobs.evaluate"])


@dataclass(frozen=True)
class Done:
    """What a finished process left; ``status`` is negative where it had to be killed."""

    status: int | None
    out: str
    err: str
    seconds: float


def run_process(body: Callable[..., None], arguments: Sequence[object], folder: Path) -> Done:
    """Call ``body`` in a process of its own, working in ``folder``; it may take a minute."""
    outputs = [folder / ".stdout", folder / ".stderr"]
    start = time.perf_counter()
    process = PROCESSES.Process(target=_redirected, args=(body, arguments, folder, outputs))
    process.start()
    process.join(60)
    process.kill()
    process.join()
    seconds = time.perf_counter() - start
    out, err = (file.read_bytes().decode() for file in outputs)
    return Done(process.exitcode, out, err, seconds)


def command(*arguments: str | Path, folder: Path) -> Done:
    """The console command."""
    return run_process(_command, [str(argument) for argument in arguments], folder)


def python(code: str, folder: Path) -> Done:
    """A script."""
    return run_process(_python, [code], folder)


def _redirected(
    body: Callable[..., None], arguments: Sequence[object], folder: Path, outputs: Sequence[Path]
) -> None:
    os.chdir(folder)
    for descriptor, file in enumerate(outputs, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    body(*arguments)


def _command(*arguments: str) -> None:
    sys.argv = ["dagrec", *arguments]
    cli.main()


def _python(code: str) -> None:
    exec(compile(code, "script", "exec"), {"__name__": "__main__"})
