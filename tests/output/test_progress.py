"""Progress on a terminal and in a pipe, and when nothing is shown."""

from __future__ import annotations

import os
import pty
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from threading import Thread
from types import SimpleNamespace

import pytest

from dagrec.output import progress as module
from dagrec.output.progress import DELAY, LINE_INTERVAL, EpochProgress, Progress
from dagrec.training.runtime import Epoch

ERASE = "\x1b[2K"
"""Erases a line of a terminal."""


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of progress, in a process that has shown nothing yet and is not a notebook."""
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(Progress, "_last_line", None)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return clock


def on_terminal(work: Callable[[], None]) -> str:
    """Everything that ``work`` writes to standard error, if that is a terminal."""
    master, slave = pty.openpty()
    shown = b""

    def read() -> None:
        nonlocal shown
        with suppress(OSError):  # once the other end is closed
            while content := os.read(master, 65536):
                shown += content

    reader = Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as file, redirect_stderr(file):
        work()
    reader.join(10)
    os.close(master)
    return shown.decode()


# In a pipe


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines written to standard error since the last call; standard output must be empty."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_pipe_gets_one_line_per_interval(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        task = progress.add("fitting", total=2000)
        clock.pass_time(DELAY)
        progress.update(task, advance=1)
        clock.pass_time(LINE_INTERVAL - 1)
        progress.update(task, advance=1)
        assert lines(capsys) == []
        clock.pass_time(1)
        progress.update(task, advance=1199)
        assert lines(capsys) == ["dagrec: fitting: 1,201 of 2,000"]
        progress.update(task, advance=1)
        clock.pass_time(LINE_INTERVAL - 1)
        progress.update(task, advance=1)
        assert lines(capsys) == []
        clock.pass_time(1)
        progress.update(task, completed=2000, description="fitted [/b]")
        assert lines(capsys) == ["dagrec: fitted [/b]: 2,000 of 2,000"]
    assert lines(capsys) == []


def test_line_interval_is_half_a_minute_and_can_be_shortened(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LINE_INTERVAL == 30
    monkeypatch.setattr(module, "LINE_INTERVAL", 2.0)
    with Progress() as progress:
        task = progress.add("reading compositions")
        for _ in range(8):
            clock.pass_time(1)
            progress.update(task, advance=1)
    # The interval starts after the first second, when progress may be shown.
    assert lines(capsys) == [f"dagrec: reading compositions: {count}" for count in (3, 5, 7)]


def test_line_interval_spans_consecutive_progress_blocks(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(1, 41):
        with Progress() as progress:
            task = progress.add(f"piece {number}", total=1)
            clock.pass_time(2)
            progress.update(task, advance=1)
    assert lines(capsys) == [f"dagrec: piece {number}: 1 of 1" for number in (16, 31)]


def test_invisible_tasks_are_not_shown(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress() as progress:
        task = progress.add("one", total=3)
        hidden = progress.add("two", total=3, visible=False)
        clock.pass_time(DELAY)
        progress.update(task, advance=1)
        clock.pass_time(LINE_INTERVAL)
        progress.update(hidden, advance=1)
        assert lines(capsys) == ["dagrec: one: 1 of 3"]
        clock.pass_time(LINE_INTERVAL)
        progress.update(hidden, visible=True)
        assert lines(capsys) == ["dagrec: one: 1 of 3; two: 1 of 3"]
        clock.pass_time(LINE_INTERVAL)
        progress.update(task, visible=False)
        assert lines(capsys) == ["dagrec: two: 1 of 3"]
        progress.update(hidden, visible=False)
        clock.pass_time(LINE_INTERVAL)
        progress.update(hidden, advance=1)
        assert lines(capsys) == []


def test_nested_progress_is_shown_by_outermost(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress() as outermost:
        outer = outermost.add("models", total=2)
        clock.pass_time(DELAY)
        outermost.update(outer, advance=1)
        with Progress() as middle, Progress() as innermost:
            first, second = middle.add("trials", total=4), innermost.add("runs", total=8)
            clock.pass_time(LINE_INTERVAL)
            innermost.update(second, advance=3)
            middle.update(first, advance=1)
            outermost.update(outer)
            assert lines(capsys) == ["dagrec: models: 1 of 2; trials: 0 of 4; runs: 3 of 8"]
        clock.pass_time(LINE_INTERVAL)
        outermost.update(outer, advance=1)
        assert lines(capsys) == ["dagrec: models: 2 of 2"], "a finished nested task must be removed"
    with Progress() as another:
        task = another.add("afterwards")
        clock.pass_time(LINE_INTERVAL)
        another.update(task, advance=1)
    assert lines(capsys) == ["dagrec: afterwards: 1"], "a finished block must show nothing"


def test_progress_shows_nothing_after_an_error(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with Progress() as progress:
            progress.add("fails", total=2)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with Progress() as progress:
        task = progress.add("works", total=2)
        for _ in range(2):
            clock.pass_time(LINE_INTERVAL)
            progress.update(task, advance=1)
    assert lines(capsys) == ["dagrec: works: 2 of 2"]


def test_epoch_progress_is_one_task(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    def epoch(number: int, validation: float | None) -> Epoch:
        return Epoch(number, 0.5 / number, validation, learning_rate=0.01, gradient_norm=1.0)

    with Progress() as progress:
        show = EpochProgress(progress)
        clock.pass_time(DELAY)
        show("gru4rec", epoch(1, None), 3)
        clock.pass_time(LINE_INTERVAL)
        show("gru4rec", epoch(2, 0.125), 3)
        assert lines(capsys) == ["dagrec: gru4rec: loss 0.250, validation 0.125, epoch: 2 of 3"]
        clock.pass_time(LINE_INTERVAL)
        show("gru4rec", epoch(3, 0.125), 3)
        assert lines(capsys) == [], "the last epoch ends the task"
        clock.pass_time(LINE_INTERVAL)
        show("sasrec", epoch(1, None), 9)
        assert lines(capsys) == ["dagrec: sasrec: loss 0.500, epoch: 1 of 9"]


# On a terminal


def test_terminal_gets_bars_that_are_erased_at_the_end(clock: Clock) -> None:
    def work() -> None:
        with Progress() as progress:
            task = progress.add("fitting [/b]", total=3)
            clock.pass_time(DELAY)
            progress.update(task, advance=2)
            progress.update(progress.add("hidden", visible=False), advance=1)

    shown = on_terminal(work)
    assert "2/3" in shown
    assert "\u2501" in shown, "a bar"
    assert "hidden" not in shown
    assert "dagrec: " not in shown
    *_, last = shown.split("fitting [/b]")
    assert last.rstrip().endswith(ERASE)


def test_nested_bars_appear_below_outermost_and_disappear_first(clock: Clock) -> None:
    def work() -> None:
        with Progress() as outermost:
            outer = outermost.add("models", total=2)
            clock.pass_time(DELAY)
            outermost.update(outer, advance=1)
            with Progress() as innermost:
                innermost.update(innermost.add("runs", total=8), advance=3)
                time.sleep(0.3)  # bars are drawn ten times a second
            outermost.update(outer, advance=1)

    shown = on_terminal(work)
    assert shown.index("models") < shown.index("runs")
    assert "3/8" in shown
    assert "runs" not in shown[shown.index("2/2") :]


# Nothing is shown


def check_nothing_shown(clock: Clock, *, enabled: bool, seconds: float) -> None:
    """Run nested progress for so many seconds."""
    with Progress(enabled=enabled) as progress:
        task = progress.add("fitting", total=2)
        with Progress(enabled=enabled) as inner:
            inner.update(inner.add("epochs", total=5), advance=1)
            clock.pass_time(seconds)
            inner.update(inner.add("more epochs"), advance=1)
            progress.update(task, advance=1)
        progress.update(task, advance=1)
    assert task.completed == 2


CASES = pytest.mark.parametrize(
    ("enabled", "seconds"),
    [(True, 0.99 * DELAY), (False, 100 * LINE_INTERVAL)],
    ids=["short", "disabled"],
)


@CASES
def test_pipe_gets_nothing_of_short_or_disabled_progress(
    enabled: bool, seconds: float, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    check_nothing_shown(clock, enabled=enabled, seconds=seconds)
    assert lines(capsys) == []


@CASES
def test_terminal_gets_nothing_of_short_or_disabled_progress(
    enabled: bool, seconds: float, clock: Clock
) -> None:
    shown = on_terminal(lambda: check_nothing_shown(clock, enabled=enabled, seconds=seconds))
    assert shown == ""


def test_delay_is_one_second() -> None:
    assert DELAY == 1


def test_progress_within_disabled_progress_is_shown(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress(enabled=False) as quiet, Progress() as loud:
        hidden, shown = quiet.add("hidden"), loud.add("shown")
        for _ in range(2):
            clock.pass_time(LINE_INTERVAL)
            quiet.update(hidden, advance=1)
            loud.update(shown, advance=1)
    assert lines(capsys) == ["dagrec: shown: 2"]
