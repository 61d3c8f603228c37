"""Progress of long tasks: bars on a terminal or in a notebook, a line every half minute elsewhere.

Everything is written to standard error. Tasks that take less than a second are not shown.

>>> with Progress(enabled=False) as progress:
...     task = progress.add("fitting", total=2)
...     progress.update(task, advance=1, description="fitted markov")
"""

from __future__ import annotations

import html
import sys
import time
from dataclasses import dataclass
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

DELAY = 1.0
"""Seconds before anything is shown."""
LINE_INTERVAL = 30.0
"""Seconds between two lines if there is neither a terminal nor a notebook."""
NOTEBOOK_INTERVAL = 0.25


@dataclass(eq=False)
class Task:
    """A task with its total number of steps and the number of completed ones."""

    description: str
    total: int | None
    completed: int = 0
    visible: bool = True

    def text(self) -> str:
        done = f"{self.completed:,}" + (f" of {self.total:,}" if self.total else "")
        return f"{self.description.strip()}: {done}"


class Progress:
    """Shows tasks while its block runs. The tasks of nested blocks are shown by the outermost one."""

    _outermost: Progress | None = None
    _last_line: float | None = None

    def __init__(self, *, enabled: bool = True) -> None:
        self._enabled = enabled
        self._tasks: list[Task] = []
        self._display: _Display | None = None
        self._parent: Progress | None = None
        self._start = 0.0

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        if self._enabled:
            self._parent = Progress._outermost
            if self._parent is None:
                Progress._outermost = self
        return self

    def __exit__(self, *_: object) -> None:
        if self._display is not None:
            self._display.stop()
        if self._parent is not None:
            for task in self._tasks:
                self._parent._remove(task)
        if Progress._outermost is self:
            Progress._outermost = None

    def add(self, description: str, total: int | None = None, *, visible: bool = True) -> Task:
        """Add a task. ``total`` is None if the number of steps is unknown."""
        task = Task(description, total, visible=visible)
        self._tasks.append(task)
        if self._parent is not None:
            self._parent._tasks.append(task)
        return task

    def update(
        self,
        task: Task,
        *,
        advance: int = 0,
        completed: int | None = None,
        total: int | None = None,
        description: str | None = None,
        visible: bool | None = None,
    ) -> None:
        """Update a task, and show it."""
        task.completed = task.completed + advance if completed is None else completed
        task.total = task.total if total is None else total
        task.description = task.description if description is None else description
        task.visible = task.visible if visible is None else visible
        if self._enabled:
            (self._parent or self)._show()

    def _show(self) -> None:
        if self._display is None:
            if time.monotonic() - self._start < DELAY:
                return
            self._display = _new_display()
        self._display.show([task for task in self._tasks if task.visible])

    def _remove(self, task: Task) -> None:
        self._tasks.remove(task)
        if self._display is not None:
            self._display.show([task for task in self._tasks if task.visible])


class EpochProgress:
    """Shows the epochs of training as one task; an object for ``Runtime.progress``."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: Task | None = None

    def __call__(self, name: str, epoch: Any, epochs: int) -> None:
        """``epoch`` is a :class:`dagrec.training.runtime.Epoch`."""
        if self._task is None:
            self._task = self._progress.add("epochs", visible=False)
        text = f"  {name}: loss {epoch.loss:.3f}"
        if epoch.validation is not None:
            text += f", validation {epoch.validation:.3f}"
        self._progress.update(
            self._task,
            completed=epoch.epoch,
            total=epochs,
            description=f"{text}, epoch",
            visible=epoch.epoch < epochs,
        )


class _Display:
    """A way to show tasks."""

    def show(self, tasks: list[Task]) -> None: ...

    def stop(self) -> None: ...


def _new_display() -> _Display:
    console = Console(stderr=True, highlight=False)
    if console.is_interactive:  # a terminal that can move its cursor
        return _Bars(console)
    if "ipykernel" in sys.modules:
        return _NotebookBars()
    return _Lines(console)


class _Bars(_Display):
    """Bars of rich on a terminal, which are removed at the end."""

    def __init__(self, console: Console) -> None:
        self._rich = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._ids: dict[int, Any] = {}
        self._rich.start()

    def show(self, tasks: list[Task]) -> None:
        for task in tasks:
            if id(task) not in self._ids:
                self._ids[id(task)] = self._rich.add_task(task.description, total=task.total)
            self._rich.update(
                self._ids[id(task)],
                completed=task.completed,
                total=task.total,
                description=task.description,
            )
        for key in self._ids.keys() - {id(task) for task in tasks}:
            self._rich.remove_task(self._ids.pop(key))

    def stop(self) -> None:
        self._rich.stop()


class _NotebookBars(_Display):
    """HTML progress elements in a notebook, updated in place."""

    def __init__(self) -> None:
        from IPython.display import HTML, display

        self._html = HTML
        self._handle = display(HTML(""), display_id=True)
        self._shown = 0.0

    def show(self, tasks: list[Task]) -> None:
        if time.monotonic() - self._shown >= NOTEBOOK_INTERVAL:
            self._shown = time.monotonic()
            bars = [
                f'<div><progress max="{task.total or 1}" value="{task.completed}"></progress> '
                f"{html.escape(task.text())}</div>"
                for task in tasks
            ]
            self._handle.update(self._html("".join(bars)))

    def stop(self) -> None:
        self._handle.update(self._html(""))


class _Lines(_Display):
    """A line every half minute, across consecutive progress blocks."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, tasks: list[Task]) -> None:
        now = time.monotonic()
        if Progress._last_line is None:
            Progress._last_line = now
        if tasks and now - Progress._last_line >= LINE_INTERVAL:
            Progress._last_line = now
            text = "; ".join(task.text() for task in tasks)
            self._console.print(f"dagrec: {text}", markup=False, soft_wrap=True)
