"""Ablation studies: variants of a configuration, evaluated on the same splits.

The TOML file of a study has three tables: ``[plan]`` is the :class:`~dagrec.jobs.experiment.Plan`,
``[base]`` a configuration with one model in ``[base.model]``, and each ``[variants."NAME"]`` contains
the values that differ from the base. An empty variant is the base itself.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dagrec.data.dataset import Dataset
from dagrec.errors import ConfigError, DagrecError
from dagrec.evaluation.plots import intervals
from dagrec.jobs.config import RunConfig, merge, override, read_toml
from dagrec.jobs.evaluate import result_of
from dagrec.jobs.experiment import Experiment, Plan
from dagrec.jobs.runs import Advance, Measurement
from dagrec.training.runtime import is_first_process
from dagrec.types import validation_message

MODEL = "model"
METRICS = ("accuracy", "mrr", "ndcg", "macro_f1", "nll")


@dataclass(frozen=True)
class Study:
    """An ablation study: its plan, the configuration of each variant, and the content of its file."""

    plan: Plan
    runs: dict[str, RunConfig]
    source: dict[str, Any]


def load_study(file: Path, overrides: Iterable[str] = ()) -> Study:
    """Read and check a study. Raises :class:`ConfigError` with the variant and the key."""
    source = read_toml(file)
    for text in overrides:
        override(source, text)
    unknown = set(source) - {"plan", "base", "variants"}
    if unknown or MODEL not in source.get("base", {}) or not source.get("variants"):
        raise ConfigError(
            f"{file}: a study must have the tables plan, base (with base.model) and variants, "
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
            f"{file}: variants must have the same read, examples and seed, found different ones; "
            "move them to [base]"
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
    """Evaluate a study, write results.json, table.md and plots to ``folder``, and return the result.

    Finished runs are stored in ``folder/runs``.
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
            f"{folder}: results cannot be written: {error.strerror}; choose another --out"
        ) from None
    return result


def table(result: Mapping[str, Any]) -> str:
    """A Markdown table of the variants, with their differences in accuracy to the first one."""
    names = list(result["models"])
    lines = [
        f"| variant | {' | '.join(METRICS)} | accuracy vs. first |",
        f"|---|{'---|' * (len(METRICS) + 1)}",
    ]
    differences = {
        row["b"]: f"{-row['difference']:+.4f}, p {row['p_holm']:.3f}"
        for row in result["comparisons"]
        if row["metric"] == "accuracy" and row["a"] == names[0]
    }
    for name in names:
        values = [result["models"][name]["metrics"][metric] for metric in METRICS]
        cells = [f"{v['mean']:.4f} [{v['low']:.3f}, {v['high']:.3f}]" for v in values]
        lines.append(f"| {name} | {' | '.join(cells)} | {differences.get(name, '')} |")
    return "\n".join(lines) + "\n"
