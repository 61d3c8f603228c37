"""The runs of an experiment: each (model, repeat, seed) measured once, kept, and never measured again.

The metrics of a run are kept in a file that is named by a hash of everything that decides them: data,
protocol, configuration, repeat and seed. A changed configuration therefore never meets old results, and
an interrupted measurement is resumed.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dagrec.config import RunConfig
from dagrec.errors import DagrecError
from dagrec.evaluation.evaluator import evaluate_run
from dagrec.evaluation.report import Grid, RunMetrics
from dagrec.files import replace_file
from dagrec.jobs.experiment import Experiment
from dagrec.metrics.ranking import METRICS
from dagrec.models.registry import family
from dagrec.training.runtime import Runtime, current_runtime, is_first_process, use_runtime

Advance = Callable[[str], None]
"""Called with the label of each model that is done."""


@dataclass(frozen=True, order=True)
class Run:
    """One model to measure on one split. In their order, runs need each split once."""

    repeat: int
    label: str = field(compare=False)
    seed: int = 0


@dataclass(frozen=True)
class Measurement:
    """An experiment, and the models that are measured in it.

    configs: label -> a configuration whose one model has that label; all read the same examples.
    ``keep`` is a folder for the metrics of finished runs.
    """

    experiment: Experiment
    configs: Mapping[str, RunConfig]
    keep: Path | None = None

    def grids(self, processes: int = 1, advance: Advance | None = None) -> dict[str, Grid]:
        """The metrics of all runs: label -> a row per repeat, a column per seed.

        With more than one process they are computed side by side; the values are the same.
        """
        plan = self.experiment.plan
        runs = [
            Run(repeat, label, seed)
            for repeat in range(plan.repeats)
            for label in self.configs
            for seed in range(plan.seeds)
        ]
        metrics: dict[tuple[str, int, int], RunMetrics] = {}
        for run, measured in self._all(runs, processes):
            metrics[run.label, run.repeat, run.seed] = measured
            if advance:
                advance(run.label)
        return {
            label: [[metrics[label, r, s] for s in range(plan.seeds)] for r in range(plan.repeats)]
            for label in self.configs
        }

    def _all(self, runs: Sequence[Run], processes: int) -> Iterator[tuple[Run, RunMetrics]]:
        missing = []
        for run in runs:
            kept = _read(self._file(run))
            if kept is None:
                missing.append(run)
            else:
                yield run, kept
        if processes == 1 or len(missing) < 2:
            for run in missing:
                yield run, self.measure(run)
            return
        # Spawned and not forked: a fork of a process in which torch has run can hang.
        context = multiprocessing.get_context("spawn")
        runtime = replace(current_runtime(), progress=None)
        with ProcessPoolExecutor(processes, context, _start, (self, runtime)) as pool:
            waiting: dict[Future[RunMetrics], Run] = {pool.submit(_measure, r): r for r in missing}
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

    def measure(self, run: Run) -> RunMetrics:
        """Fit and test one model; its metrics are kept where there is a folder for them."""
        config, plan = self.configs[run.label], self.experiment.plan
        # Repeats of a single split differ by the seed of training alone.
        seed = config.seed + run.repeat * plan.seeds + run.seed
        counting = family(config.recommender(run.label).name) == "counting"
        every = plan.every_counting if counting else plan.every
        split = self.experiment.split(run.repeat, config.mask, every=every)
        result = evaluate_run(
            lambda: config.recommender(run.label, seed=seed), split, calibrate=config.calibrate
        )
        bootstrap = plan.weight if plan.single_split else None
        metrics = RunMetrics.of(result, split.fingerprint, bootstrap, config.seed)
        if (file := self._file(run)) is not None and is_first_process():
            replace_file(file, metrics.model_dump_json())
            current_runtime().remove_checkpoints()  # the metrics of their trainings are kept now
        return metrics

    def _file(self, run: Run) -> Path | None:
        if self.keep is None:
            return None
        config, plan = self.configs[run.label], self.experiment.plan
        decides: dict[str, Any] = {
            "data": self.experiment.about,
            "plan": plan.model_dump(mode="json", exclude={"repeats"}),
            "config": config.model_dump(mode="json"),
            # With its defaults, which another version may have changed.
            "model": config.recommender(run.label).config.model_dump(mode="json"),
            "single": plan.single_split,
            "repeat": run.repeat,
            "seed": run.seed,
        }
        name = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
        return self.keep / f"{name}.json"


_process: tuple[Measurement, Runtime] | None = None
"""What a spawned process works with; set once when it starts."""


def _start(measurement: Measurement, runtime: Runtime) -> None:
    global _process
    _process = measurement, runtime


def _measure(run: Run) -> RunMetrics:
    assert _process is not None
    measurement, runtime = _process
    with use_runtime(runtime):
        return measurement.measure(run)


def _read(file: Path | None) -> RunMetrics | None:
    if file is None or not file.is_file():
        return None
    try:
        metrics = RunMetrics.model_validate_json(file.read_bytes())
    except (ValidationError, OSError):
        return None  # of another version, or damaged: measured again
    whole = all(METRICS.keys() <= values.keys() for values in metrics.values.values())
    return metrics if whole else None
