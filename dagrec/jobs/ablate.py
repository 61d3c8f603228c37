"""The component study: variants of one configuration, measured on the same splits.

A TOML file has three tables. ``[plan]`` says how to measure; ``[base]`` is one run with one model
under ``[base.model]``; each ``[variants."NAME"]`` holds what differs from the base, in the same form.
An empty variant is the base itself.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dagrec.config import RunConfig, merge, override, read_toml
from dagrec.data.dataset import Dataset
from dagrec.errors import ConfigError, DagrecError
from dagrec.evaluation.plots import intervals
from dagrec.jobs.evaluate import result_of
from dagrec.jobs.experiment import Experiment, Plan
from dagrec.jobs.runs import Advance, Measurement
from dagrec.training.runtime import is_first_process
from dagrec.types import validation_message

MODEL = "model"
METRICS = ("accuracy", "mrr", "ndcg", "macro_f1", "nll")


@dataclass(frozen=True)
class Study:
    """A component study: its plan, and a run for each variant."""

    plan: Plan
    runs: dict[str, RunConfig]
    source: dict[str, Any]
    """The file's content after overrides, for the result."""


def load_study(file: Path, overrides: Iterable[str] = ()) -> Study:
    """Read and check a study. Raises :class:`ConfigError` naming the variant and the key."""
    source = read_toml(file)
    for text in overrides:
        override(source, text)
    unknown = set(source) - {"plan", "base", "variants"}
    if unknown or MODEL not in source.get("base", {}) or not source.get("variants"):
        raise ConfigError(
            f"{file}: a study has the tables plan, base (with base.model) and variants, "
            f"found {', '.join(source)}; see configs/ablation-gru4rec.toml"
        )
    try:
        plan = Plan.model_validate(source.get("plan", {}))
    except ValidationError as error:
        raise ConfigError(f"{file}: plan: {validation_message(error)}") from None
    runs = {}
    for name, changes in source["variants"].items():
        values = copy.deepcopy(source["base"])
        merge(values, changes)
        model = values.pop(MODEL)
        try:
            runs[name] = RunConfig.model_validate(values | {"models": {name: model}}).check()
        except ValidationError as error:
            raise ConfigError(f"{file}: variant {name!r}: {validation_message(error)}") from None
    shared = {(run.read, run.examples, run.seed) for run in runs.values()}
    if len(shared) > 1:
        raise ConfigError(
            f"{file}: variants must read the same examples with the same seed, found different read, "
            "examples or seed; put these into [base]"
        )
    return Study(plan, runs, source)


def ablate(
    data: Dataset,
    study: Study,
    folder: Path,
    *,
    processes: int = 1,
    advance: Advance | None = None,
) -> dict[str, Any]:
    """Measure a study; writes results.json, table.md and PNGs into ``folder``, and returns the result.

    Finished runs are kept in ``folder/runs``.
    """
    first = next(iter(study.runs.values()))
    experiment = Experiment.of(data, first, study.plan)
    measurement = Measurement(experiment, study.runs, folder / "runs")
    try:
        grids = measurement.grids(processes, advance)
        masks = {name: config.mask.value for name, config in study.runs.items()}
        result = {"mask": masks} | result_of(experiment, first.mask, grids, study.source)
        if not is_first_process():
            return result
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (folder / "table.md").write_text(table(result), encoding="utf-8")
        for metric in ("accuracy", "ndcg", "macro_f1"):
            (folder / f"{metric}.png").write_bytes(intervals(result, metric))
    except OSError as error:
        raise DagrecError(
            f"{folder}: results cannot be written there: {error.strerror}; choose another --out"
        ) from None
    return result


def table(result: Mapping[str, Any]) -> str:
    """A Markdown table of the variants, each with its difference to the first."""
    names = list(result["models"])
    lines = [
        f"| variant | {' | '.join(METRICS)} | accuracy against the first |",
        f"|---|{'---|' * (len(METRICS) + 1)}",
    ]
    against = {
        row["b"]: f"{-row['difference']:+.4f}, p {row['p_holm']:.3f}"
        for row in result["comparisons"]
        if row["metric"] == "accuracy" and row["a"] == names[0]
    }
    for name in names:
        found = [result["models"][name]["metrics"][metric] for metric in METRICS]
        cells = [f"{m['mean']:.4f} [{m['low']:.3f}, {m['high']:.3f}]" for m in found]
        lines.append(f"| {name} | {' | '.join(cells)} | {against.get(name, '')} |")
    return "\n".join(lines) + "\n"
