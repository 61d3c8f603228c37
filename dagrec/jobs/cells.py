"""The cells of an experiment: each (model, repeat, seed) measured once, kept, and never run again.

A cell is kept in a file that is named by a hash of everything that decides its value: data, protocol,
configuration, repeat and seed. A changed configuration therefore never meets old cells, and a run that
was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dagrec.config import RunConfig
from dagrec.errors import DagrecError
from dagrec.evaluation.evaluator import run_cell
from dagrec.evaluation.metrics import METRICS
from dagrec.evaluation.report import Grid, Measured
from dagrec.jobs.experiment import Experiment, Plan, load_experiment
from dagrec.jobs.processes import first_process
from dagrec.models.base import Epoch, Trainer
from dagrec.models.registry import family
from dagrec.types import Device

Advance = Callable[[str], None]
"""Told the label of each cell that is done."""
Progress = Callable[[str, Epoch, int], None]
"""Told (recommender, epoch, epochs at most) after every epoch."""
MakeTrainer = Callable[[], Trainer | None]
"""Makes what trains networks; called in the process that needs it, so it must be picklable there."""


@dataclass(frozen=True)
class Run:
    """What one process needs to measure any cell."""

    data: Path
    test: Path | None
    plan: Plan
    configs: Mapping[str, RunConfig]
    """Label -> a run whose one model has that label; all read the data in the same way."""
    make_trainer: MakeTrainer
    keep: Path | None = None


@dataclass(frozen=True, order=True)
class Task:
    """One cell to measure. Tasks in order use each split once before the next is made."""

    repeat: int
    label: str = field(compare=False)
    seed: int = 0


def network_trainer(
    device: Device,
    threads: int,
    needed: bool,
    log: Path | None = None,
    checkpoints: Path | None = None,
    progress: Progress | None = None,
) -> Trainer | None:
    """What trains networks in this process; None, and no torch, where nothing needs it."""
    if not needed:
        return None
    from dagrec.training.loop import NetworkTrainer, use_threads

    use_threads(threads)
    return NetworkTrainer(device, progress, log, checkpoints)


def needs_trainer(configs: Iterable[RunConfig]) -> bool:
    """Whether any model of these runs is trained by gradient, or has one within that is."""
    return any(c.recommender(label).needs_trainer for c in configs for label in c.models)


def measure(
    run: Run, experiment: Experiment, processes: int, advance: Advance | None
) -> dict[str, Grid]:
    """All cells of a run: label -> a row a repeat, a column a seed.

    With more than one process they are computed side by side; the values are the same.
    """
    plan = run.plan
    tasks = [
        Task(repeat, label, seed)
        for repeat in range(plan.repeats)
        for label in run.configs
        for seed in range(plan.seeds)
    ]
    found: dict[tuple[str, int, int], Measured] = {}
    for task, cell in _all(run, experiment, tasks, processes):
        found[task.label, task.repeat, task.seed] = cell
        if advance:
            advance(task.label)
    return {
        label: [[found[label, r, s] for s in range(plan.seeds)] for r in range(plan.repeats)]
        for label in run.configs
    }


def _all(
    run: Run, experiment: Experiment, tasks: Sequence[Task], processes: int
) -> Iterator[tuple[Task, Measured]]:
    missing = []
    for task in tasks:
        kept = _read(_file(run, experiment, task))
        if kept is None:
            missing.append(task)
        else:
            yield task, kept
    if processes == 1 or len(missing) < 2:
        trainer = run.make_trainer() if missing else None
        for task in missing:
            yield task, _compute(run, experiment, task, trainer)
        return
    # Spawned and not forked: a fork of a process in which torch has run can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, initializer=_start, initargs=(run,)) as pool:
        waiting: dict[Future[Measured], Task] = {pool.submit(_work, task): task for task in missing}
        try:
            for done in as_completed(waiting):
                yield waiting[done], done.result()
        except BrokenProcessPool:
            raise DagrecError(
                "a measuring process was ended from outside (out of memory?); what was finished is "
                "kept: start the same command again, with fewer --processes"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_process: tuple[Run, Experiment, Trainer | None] | None = None
"""What a spawned process works with; set once when it starts."""


def _start(run: Run) -> None:
    global _process
    config = next(iter(run.configs.values()))
    _process = run, load_experiment(run.data, run.test, config, run.plan), run.make_trainer()


def _work(task: Task) -> Measured:
    assert _process is not None
    run, experiment, trainer = _process
    return _compute(run, experiment, task, trainer)


def _compute(run: Run, experiment: Experiment, task: Task, trainer: Trainer | None) -> Measured:
    config = run.configs[task.label]
    plan = run.plan
    # Repeats of a single split differ by the seed of training alone.
    seed = config.seed + task.repeat * plan.seeds + task.seed
    counting = family(config.recommender(task.label).name) == "counting"
    every = plan.every_counting if counting else plan.every
    exam = experiment.exam(task.repeat, config.mask, every=every)
    cell = run_cell(
        lambda: config.recommender(task.label, seed=seed), exam, trainer, calibrate=config.calibrate
    )
    bootstrap = plan.weight if plan.single else None
    measured = Measured.of(cell, exam.fingerprint, bootstrap, config.seed)
    if (file := _file(run, experiment, task)) is not None and first_process():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f".{file.name}-{os.getpid()}")
        draft.write_text(measured.model_dump_json(), encoding="utf-8")
        draft.replace(file)
        if trainer is not None:
            trainer.forget()  # the cell is kept, and holds what its trainings led to
    return measured


def _file(run: Run, experiment: Experiment, task: Task) -> Path | None:
    if run.keep is None:
        return None
    config = run.configs[task.label]
    decides: dict[str, Any] = {
        "data": experiment.about,
        "plan": run.plan.model_dump(mode="json", exclude={"repeats"}),
        "config": config.model_dump(mode="json"),
        # With its defaults, which another version may have changed.
        "model": config.recommender(task.label).config.model_dump(mode="json"),
        "single": run.plan.single,
        "repeat": task.repeat,
        "seed": task.seed,
    }
    name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
    return run.keep / f"{name}.json"


def _read(file: Path | None) -> Measured | None:
    if file is None or not file.is_file():
        return None
    try:
        found = Measured.model_validate_json(file.read_bytes())
    except (ValidationError, OSError):
        return None  # of another version, or damaged: measured again
    whole = all(METRICS.keys() <= values.keys() for values in found.values.values())
    return found if whole else None


__all__ = ["Advance", "MakeTrainer", "Run", "measure"]
