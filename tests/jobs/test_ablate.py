from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dagrec.data.formats import read
from dagrec.errors import ConfigError
from dagrec.jobs.ablate import ablate, load_study, table
from tests.processes import Job, start, wait_until

ROOT = Path(__file__).parents[2]
DATA = ROOT / "data" / "compositions.json"
STUDY = """
[plan]
repeats = {repeats}

[base]
mask = "observed"

[base.model]
recommender = "markov"
mu = 5.0

[variants."order 8"]

[variants."order 1"]
model.order = 1

[variants."no mask"]
mask = "none"
"""


def study_file(folder: Path, repeats: int = 3, text: str = STUDY) -> Path:
    file = folder / "study.toml"
    file.write_text(text.format(repeats=repeats), encoding="utf-8")
    return file


def start_study(study: Path, out: Path, processes: int = 1) -> Job:
    options = ("--config", study, "--out", out, "--processes", str(processes))
    return start("ablate", DATA, *options)


def run_study(study: Path, out: Path, processes: int = 1) -> None:
    done = start_study(study, out, processes).wait()
    assert done.status == 0, done.err


def without_seconds(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    for model in result["models"].values():
        del model["seconds"]
    return result


def test_variants_are_merged_into_base(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path))
    assert {name: run.models[name] for name, run in study.runs.items()} == {
        "order 8": {"recommender": "markov", "mu": 5.0},
        "order 1": {"recommender": "markov", "mu": 5.0, "order": 1},
        "no mask": {"recommender": "markov", "mu": 5.0},
    }
    assert [run.mask.value for run in study.runs.values()] == ["observed", "observed", "none"]


def test_variants_are_evaluated_on_same_splits(tmp_path: Path) -> None:
    result = ablate(read(DATA), load_study(study_file(tmp_path)), tmp_path / "out")
    again = ablate(read(DATA), load_study(study_file(tmp_path)), tmp_path / "other")
    assert result["splits"] == again["splits"]
    assert len(set(result["splits"])) == 3
    values = [result["models"][name]["metrics"]["accuracy"]["values"] for name in result["models"]]
    assert values[0] != values[1]
    assert result["models"]["no mask"]["metrics"]["ceiling"]["mean"] > 0.95


def test_result_does_not_depend_on_processes(tmp_path: Path) -> None:
    study = study_file(tmp_path)
    for processes in (1, 2):
        run_study(study, tmp_path / str(processes), processes)
    assert without_seconds(tmp_path / "1") == without_seconds(tmp_path / "2")


@pytest.mark.parametrize(
    "moment", [0.0, *(pytest.param(t / 10, marks=pytest.mark.slow) for t in range(1, 11))]
)
def test_killed_study_is_resumed_with_same_result(tmp_path: Path, moment: float) -> None:
    study = study_file(tmp_path, repeats=10 if moment else 3)
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    run_study(study, uninterrupted)
    job, runs = start_study(study, killed), killed / "runs"
    wait_until(lambda: list(runs.glob("*.json")), "a run is finished")
    job.join(moment)
    job.kill()
    finished = {file: file.stat().st_mtime_ns for file in runs.glob("*.json")}
    assert finished
    run_study(study, killed)
    assert without_seconds(killed) == without_seconds(uninterrupted)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished, "runs were repeated"


def test_damaged_run_is_repeated(tmp_path: Path) -> None:
    study = load_study(study_file(tmp_path))
    first = ablate(read(DATA), study, tmp_path / "out")
    run = next((tmp_path / "out" / "runs").glob("*.json"))
    run.write_bytes(run.read_bytes()[:50])
    second = ablate(read(DATA), study, tmp_path / "out")
    assert [m["metrics"] for m in first["models"].values()] == [
        m["metrics"] for m in second["models"].values()
    ]


def test_changed_plan_or_variant_does_not_reuse_runs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ablate(read(DATA), load_study(study_file(tmp_path)), out)
    first = len(list((out / "runs").glob("*.json")))
    ablate(read(DATA), load_study(study_file(tmp_path), ["plan.share=0.2"]), out)
    second = len(list((out / "runs").glob("*.json")))
    ablate(read(DATA), load_study(study_file(tmp_path), ["base.model.mu=2.0"]), out)
    assert (first, second, len(list((out / "runs").glob("*.json")))) == (9, 18, 27)


def test_results_tables_and_plots_are_written(tmp_path: Path) -> None:
    result = ablate(read(DATA), load_study(study_file(tmp_path)), tmp_path / "out")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"runs", "results.json", "table.md", "accuracy.png", "ndcg.png", "macro_f1.png"}
    assert (tmp_path / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    lines = table(result).splitlines()
    assert len(lines) == 2 + len(result["models"])
    mean = result["models"]["order 1"]["metrics"]["accuracy"]["mean"]
    assert re.search(rf"^\| order 1 \| {mean:.4f} \[", "\n".join(lines), re.MULTILINE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("base.model.colour=1", "colour"),
        ("base.model.recommender=unknown", "unknown"),
        ("plan.repeats=0", "repeats"),
        ("plan.protocol=guess", "protocol"),
        ("base.colour=1", "colour"),
        ("colour=1", "colour"),
    ],
)
def test_unknown_key_or_value_is_named(tmp_path: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(study_file(tmp_path), [change])


def test_variants_must_have_same_examples(tmp_path: Path) -> None:
    text = STUDY + '\n[variants."links"]\nexamples.form = "links"\n'
    with pytest.raises(ConfigError, match="same read, examples and seed"):
        load_study(study_file(tmp_path, text=text))


@pytest.mark.parametrize(
    "file", sorted((ROOT / "configs").glob("ablation-*.toml")), ids=lambda f: f.stem
)
def test_shipped_studies_load(file: Path) -> None:
    assert len(load_study(file).runs) > 1
