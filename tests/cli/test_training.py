"""Training logs, curves, checkpoints, attention and distributed training on the command line."""

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
    """A folder with a store and its training log."""
    folder = tmp_path_factory.mktemp("trained")
    models = ("--model", "markov", "--model", "gru4rec", "--model", "sasrec")
    paths = ("--store", folder / "store", "--log", folder / "log.jsonl")
    completed = run("train", DATA, *models, *paths, *QUICK)
    assert completed.status == 0, completed.err
    return folder


def test_log_has_one_line_per_epoch(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [(line["model"], line["epoch"]) for line in lines] == [
        (model, epoch) for model in ("gru4rec", "sasrec") for epoch in range(1, 5)
    ]
    assert len({line["training"] for line in lines}) == 2


def test_curves_prints_json_and_draws_plot(trained: Path, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "curves.png"
    completed = run("curves", trained / "log.jsonl", "--plot", picture, "--json", "-")
    assert completed.status == 0, completed.err
    trainings = json.loads(completed.out)
    assert [training["epochs"] for training in trainings] == [4, 4]
    assert all(training["last_loss"] < training["first_loss"] for training in trainings)
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"epoch": 1}', "line 1"), ("no JSON", "line 1"), ("", "at least one epoch"), (None, "read")],
)
def test_invalid_log_fails(text: str | None, message: str, run: Run, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    if text is not None:
        log.write_text(text)
    completed = run("curves", log)
    assert completed.status == 1
    assert message in completed.err


def test_checkpoints_are_removed_after_publication(trained: Path) -> None:
    assert not list((trained / "store").rglob("*.safetensors*checkpoint*"))
    assert not list((trained / "store" / "checkpoints").glob("*"))


def test_explain_has_attention_of_frontier(trained: Path, run: Run, tmp_path: Path) -> None:
    picture = tmp_path / "attention.png"
    path = "table_1000000,service_301,service_303"
    options = ("--model", "sasrec", "--path", path, "--plot", picture, "--json", "-")
    completed = run("explain", "--store", trained / "store", *options)
    assert completed.status == 0, completed.err
    answer = json.loads(completed.out)
    attention = answer["attention"]
    assert attention["nodes"][attention["frontier"]] == "service_303"
    assert sum(attention["focus"]) == pytest.approx(1, abs=1e-5)
    weights = [weight["weight"] for weight in answer["explanation"]["weights"]]
    assert weights == attention["focus"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    table = run("explain", "--store", trained / "store", "--model", "sasrec", "--path", path)
    for title in ("with the same step", "most similar training contexts", "weights of the model"):
        assert title in table.out


def test_explain_plot_needs_attention(trained: Path, run: Run, tmp_path: Path) -> None:
    options = ("--model", "markov", "--path", "table_1000000")
    completed = run("explain", "--store", trained / "store", *options)
    assert completed.status == 0, completed.err
    assert "with the same step" in completed.out
    assert "weights of the model" not in completed.out
    failed = run("explain", "--store", trained / "store", *options, "--plot", tmp_path / "no.png")
    assert (failed.status, failed.out) == (1, "")
    assert "the model must have attention" in failed.err


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--model", "unknown", "--path", "a"), 1, "found 'unknown'"),
        ((), 2, "--path and --composition"),
    ],
)
def test_invalid_explain_options_fail(
    options: tuple[str, ...], status: int, message: str, trained: Path, run: Run
) -> None:
    completed = run("explain", "--store", trained / "store", *options)
    assert completed.status == status
    assert message in completed.err


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


@pytest.mark.slow  # tests/training/test_distributed.py tests this without torchrun
def test_distributed_training_publishes_one_bundle(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    completed = torchrun("train", DATA, "--store", store, "--model", "gru4rec", *QUICK[:2], *QUICK[4:])
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.count("published") == 1
    assert len(list((store / "bundles").iterdir())) == 1
    answer = run("predict", "--store", store, "--path", "table_1000000", "--json", "-")
    assert json.loads(answer.out)["model"] == "gru4rec"


@pytest.mark.slow
def test_failed_distributed_training_reports_error(tmp_path: Path) -> None:
    rate = ("--set", "gru4rec.learning_rate=1e37", "--set", "gru4rec.epochs=20")
    completed = torchrun(
        "train", DATA, "--store", tmp_path, "--model", "gru4rec", "--measure", "0", *rate
    )
    assert completed.returncode != 0
    assert "lower learning_rate" in completed.stderr
    assert not (tmp_path / "current").exists()
