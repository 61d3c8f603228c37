"""The command line around training: logs, curves, checkpoints, attention, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import DATA, ROOT, Run

QUICK = ("--measure", "0", "--set", "sasrec.epochs=4", "--set", "gru4rec.epochs=4")


@pytest.fixture(scope="module")
def trained(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and the log of its trainings."""
    folder = tmp_path_factory.mktemp("trained")
    models = ("--model", "markov", "--model", "gru4rec", "--model", "sasrec")
    places = ("--store", folder / "store", "--log", folder / "log.jsonl")
    done = run("train", DATA, *models, *places, *QUICK)
    assert done.status == 0, done.err
    return folder


def test_a_log_has_a_line_for_every_epoch(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [(line["model"], line["epoch"]) for line in lines] == [
        (model, epoch) for model in ("gru4rec", "sasrec") for epoch in range(1, 5)
    ]
    assert len({line["training"] for line in lines}) == 2


def test_curves_are_shown_and_drawn(trained: Path, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "curves.png"
    done = run("curves", trained / "log.jsonl", "--plot", picture, "--json", "-")
    assert done.status == 0, done.err
    found = json.loads(done.out)
    assert [training["epochs"] for training in found] == [4, 4]
    assert all(training["last_loss"] < training["first_loss"] for training in found)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "why"),
    [('{"epoch": 1}', "line 1"), ("no JSON", "line 1"), ("", "at least one epoch"), (None, "read")],
)
def test_what_is_no_log_is_refused(text: str | None, why: str, run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    if text is not None:
        log.write_text(text)
    done = run("curves", log)
    assert done.status == 1
    assert why in done.err


def test_nothing_is_left_of_checkpoints_once_all_is_published(trained: Path) -> None:
    assert not list((trained / "store").rglob("*.safetensors*checkpoint*"))
    assert not list((trained / "store" / "checkpoints").glob("*"))


def test_explain_shows_what_the_frontier_looked_at(trained: Path, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "attention.png"
    path = "table_1000000,service_301,service_303"
    options = ("--model", "sasrec", "--path", path, "--plot", picture, "--json", "-")
    done = run("explain", "--store", trained / "store", *options)
    assert done.status == 0, done.err
    answer = json.loads(done.out)
    found = answer["attention"]
    assert found["nodes"][found["frontier"]] == "service_303"
    assert sum(found["focus"]) == pytest.approx(1, abs=1e-5)
    weights = [weight["weight"] for weight in answer["explanation"]["weights"]]
    assert weights == found["focus"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = run("explain", "--store", trained / "store", "--model", "sasrec", "--path", path)
    for title in ("made the step", "nearest contexts of training", "what the model weighed"):
        assert title in table.out


def test_explain_draws_nothing_where_there_is_no_attention(
    trained: Path, run: Run, tmp_path: Path
) -> None:
    options = ("--model", "markov", "--path", "table_1000000")
    done = run("explain", "--store", trained / "store", *options)
    assert done.status == 0, done.err
    assert "made the step" in done.out
    assert "weighed" not in done.out
    refused = run("explain", "--store", trained / "store", *options, "--plot", tmp_path / "no.png")
    assert (refused.status, refused.out) == (1, "")
    assert "only attention can be drawn" in refused.err


@pytest.mark.parametrize(
    ("options", "status", "why"),
    [
        (("--model", "nobody", "--path", "a"), 1, "found 'nobody'"),
        ((), 2, "--path and --composition"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    options: tuple[str, ...], status: int, why: str, trained: Path, run: Run
) -> None:
    done = run("explain", "--store", trained / "store", *options)
    assert done.status == status
    assert why in done.err


def torchrun(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *launcher, "-m", "dagrec.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow  # tests/training/test_distributed.py has the same within a process
def test_two_processes_publish_one_bundle(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = torchrun("train", DATA, "--store", store, "--model", "gru4rec", *QUICK[:2], *QUICK[4:])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("published") == 1
    assert len(list((store / "bundles").iterdir())) == 1
    answer = run("predict", "--store", store, "--path", "table_1000000", "--json", "-")
    assert json.loads(answer.out)["model"] == "gru4rec"


@pytest.mark.slow
def test_a_job_of_two_processes_that_fails_ends_with_its_error(tmp_path: Path) -> None:
    rate = ("--set", "gru4rec.learning_rate=1e37", "--set", "gru4rec.epochs=20")
    done = torchrun("train", DATA, "--store", tmp_path, "--model", "gru4rec", "--measure", "0", *rate)
    assert done.returncode != 0
    assert "lower learning_rate" in done.stderr
    assert not (tmp_path / "current").exists()
