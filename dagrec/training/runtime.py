"""The runtime of training: device, threads, progress, log and checkpoints.

It does not influence what is learned, so none of this is a hyperparameter. ``Recommender.fit`` uses the
current runtime. The default one uses a GPU if one is available, and shows the progress.

>>> from dagrec.training.runtime import Runtime, use_runtime
>>> with use_runtime(Runtime(device="cpu", progress=None)):
...     pass  # recommenders that are fitted here are trained on the CPU, without showing the progress
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
    """One epoch of a training history.

    loss: mean over the examples; validation: the validation metric on the held-out part, None in an
    epoch without validation; gradient_norm: the largest norm of all steps, before clipping.
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
    """The environment in which recommenders are trained.

    ``threads`` is the number of torch threads; more than one does not speed up networks of this size.
    ``progress`` is called after every epoch; "auto" shows a progress bar on a terminal or in a
    notebook, and prints a line every half minute elsewhere; None shows nothing. ``log`` is a file to
    which a line of JSON is appended after every epoch. If ``checkpoints`` is a folder, an interrupted
    training is resumed (its state is written at most every ``checkpoint_seconds``), and a finished one
    is not repeated until :meth:`remove_checkpoints` is called.
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
        """Remove the checkpoints of finished trainings, once their results are stored elsewhere."""
        for path in self.finished:
            path.unlink(missing_ok=True)
        self.finished.clear()


_current: ContextVar[Runtime] = ContextVar("runtime", default=Runtime())  # noqa: B039 (frozen)


def current_runtime() -> Runtime:
    """Return the runtime of the innermost :func:`use_runtime`, or the default one."""
    return _current.get()


@contextmanager
def use_runtime(runtime: Runtime) -> Iterator[Runtime]:
    """Use this runtime inside the ``with`` block."""
    token = _current.set(runtime)
    try:
        yield runtime
    finally:
        _current.reset(token)


def is_first_process() -> bool:
    """Whether this process writes files and prints, which only the first one under torchrun does."""
    return os.environ.get("RANK", "0") == "0"
