"""Where trainings run and who follows them: device, threads, progress, log and checkpoints.

Nothing here changes what is learned, so none of it is a hyperparameter. ``Recommender.fit`` uses the
current runtime; the default one trains on a GPU where there is one and shows its progress.

>>> from dagrec.training.runtime import Runtime, use_runtime
>>> with use_runtime(Runtime(device="cpu", progress=None)):
...     pass  # what is fitted here trains on the CPU, without showing its progress
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dagrec.types import Device


@dataclass(frozen=True)
class Epoch:
    """One line of a training history.

    loss and validation are means over examples; ``validation`` is the chosen metric on the held-out
    part, None in an epoch without validation; gradient_norm is the largest of all steps, unclipped.
    """

    epoch: int
    loss: float
    validation: float | None
    learning_rate: float
    gradient_norm: float


ShowEpoch = Callable[[str, Epoch, int], None]
"""Called after each epoch with the recommender's name, the epoch, and the largest number of epochs."""


@dataclass(frozen=True)
class Runtime:
    """How trainings run.

    ``threads`` is how many torch uses: networks of this size gain nothing from more than one.
    ``progress`` is called after every epoch; "auto" shows a bar on a terminal or in a notebook, and a
    line every half minute elsewhere; None shows nothing. ``log`` is a file that gets a line of JSON per
    epoch. With a folder for ``checkpoints``, an interrupted training is resumed (its state is written
    every ``checkpoint_seconds`` at most), and a finished one is not repeated until
    :meth:`remove_checkpoints`.
    """

    device: Device = "auto"
    threads: int = 1
    progress: ShowEpoch | Literal["auto"] | None = "auto"
    log: Path | None = None
    checkpoints: Path | None = None
    checkpoint_seconds: float = 30.0
    finished: list[Path] = field(default_factory=list, repr=False, compare=False)
    """Checkpoints of finished trainings."""

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of finished trainings, whose results are stored elsewhere now."""
        for path in self.finished:
            path.unlink(missing_ok=True)
        self.finished.clear()


_current: ContextVar[Runtime] = ContextVar("runtime", default=Runtime())  # noqa: B039 (frozen)


def current_runtime() -> Runtime:
    """The runtime of the innermost :func:`use_runtime`, or the default one."""
    return _current.get()


@contextmanager
def use_runtime(runtime: Runtime) -> Iterator[Runtime]:
    """Train with this runtime inside the block."""
    token = _current.set(runtime)
    try:
        yield runtime
    finally:
        _current.reset(token)


def is_first_process() -> bool:
    """Whether this process writes and prints; of several under torchrun only the first does."""
    return os.environ.get("RANK", "0") == "0"
