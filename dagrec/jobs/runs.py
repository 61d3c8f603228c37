"""The runs of an experiment: each is one model on one split with one seed.

The metrics of a run are stored in a file whose name is a hash of everything that determines them: data,
protocol, configuration, repeat and seed. Thus an interrupted measurement is resumed, and results of
another configuration are never used.
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

from dagrec.errors import DagrecError
from dagrec.evaluation.evaluator import evaluate_run
from dagrec.evaluation.report import Grid, RunMetrics
from dagrec.jobs.config import RunConfig
from dagrec.jobs.experiment import Experiment
from dagrec.metrics.ranking import METRICS
from dagrec.models.registry import family
from dagrec.output.files import replace_file
from dagrec.training.runtime import Runtime, current_runtime, is_first_process, use_runtime

Advance = Callable[[str], None]
"""Called with the label of the model after each run."""


@dataclass(frozen=True, order=True)
class Run:
    """One model on one split. Runs are sorted by split, so that each split is made only once."""

    repeat: int
    label: str = field(compare=False)
    seed: int = 0


@dataclass(frozen=True)
class Measurement:
    """An experiment, and the models that are measured in it.

    configs: label -> configuration with the one model of that label; all have the same examples;
    keep: folder for the metrics of finished runs, or None.
    """

    experiment: Experiment
    configs: Mapping[str, RunConfig]
    keep: Path | None = None

    def grids(self, processes: int = 1, advance: Advance | None = None) -> dict[str, Grid]:
        """The metrics of all runs: label -> one row per repeat, one column per seed.

        They do not depend on the number of processes.
        """
        plan = self.experiment.plan
        runs = [
            Run(repeat, label, seed)
            for repeat in range(plan.repeats)
            for label in self.configs
            for seed in range(plan.seeds)
        ]
        metrics: dict[tuple[str, int, int], RunMetrics] = {}
        for run, run_metrics in self._measure_all(runs, processes):
            metrics[run.label, run.repeat, run.seed] = run_metrics
            if advance:
                advance(run.label)
        return {
            label: [[metrics[label, r, s] for s in range(plan.seeds)] for r in range(plan.repeats)]
            for label in self.configs
        }

    def _measure_all(self, runs: Sequence[Run], processes: int) -> Iterator[tuple[Run, RunMetrics]]:
        missing = []
        for run in runs:
            stored = _read(self._file(run))
            if stored is None:
                missing.append(run)
            else:
                yield run, stored
        if processes == 1 or len(missing) < 2:
            for run in missing:
                yield run, self.measure(run)
            return
        # A forked process can hang if torch has been used before, so processes are spawned.
        context = multiprocessing.get_context("spawn")
        runtime = replace(current_runtime(), progress=None)
        with ProcessPoolExecutor(processes, context, _start, (self, runtime)) as pool:
            pending: dict[Future[RunMetrics], Run] = {pool.submit(_measure, r): r for r in missing}
            try:
                for future in as_completed(pending):
                    yield pending[future], future.result()
            except BrokenProcessPool:
                raise DagrecError(
                    "a worker process was killed, perhaps because memory ran out; run the same command "
                    "with fewer --processes to resume"
                ) from None
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def measure(self, run: Run) -> RunMetrics:
        """Fit and test a model, and store its metrics in the folder ``keep``, if there is one."""
        config, plan = self.configs[run.label], self.experiment.plan
        # Repeats of a single split only differ in the seed.
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
            current_runtime().remove_checkpoints()
        return metrics

    def _file(self, run: Run) -> Path | None:
        if self.keep is None:
            return None
        config, plan = self.configs[run.label], self.experiment.plan
        inputs: dict[str, Any] = {
            "data": self.experiment.about,
            "plan": plan.model_dump(mode="json", exclude={"repeats"}),
            "config": config.model_dump(mode="json"),
            # All hyperparameters, because defaults can change with the version of dagrec.
            "model": config.recommender(run.label).config.model_dump(mode="json"),
            "single": plan.single_split,
            "repeat": run.repeat,
            "seed": run.seed,
        }
        name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]
        return self.keep / f"{name}.json"


_worker: tuple[Measurement, Runtime] | None = None
"""The measurement and runtime of a worker process."""


def _start(measurement: Measurement, runtime: Runtime) -> None:
    global _worker
    _worker = measurement, runtime


def _measure(run: Run) -> RunMetrics:
    assert _worker is not None
    measurement, runtime = _worker
    with use_runtime(runtime):
        return measurement.measure(run)


def _read(file: Path | None) -> RunMetrics | None:
    if file is None or not file.is_file():
        return None
    try:
        metrics = RunMetrics.model_validate_json(file.read_bytes())
    except (ValidationError, OSError):
        return None  # damaged, or written by another version
    is_complete = all(METRICS.keys() <= values.keys() for values in metrics.values.values())
    return metrics if is_complete else None
