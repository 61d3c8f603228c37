from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.training import killed
from tests.training.interrupted import OPTIONS, SEED, model, only, same, train
from tests.training.learners import STILL, fitted, gru, on_cpu, spoiled
from tests.worlds import everything

ROOT = Path(__file__).parents[2]
CONFIGS: dict[str, dict[str, Any]] = {
    "adam": STILL,
    "dropout": {"embedding_dropout": 0.3, "hidden_dropout": 0.3},
    "adamw": {"optimiser": "adamw", "weight_decay": 0.1},
    "drawn for each": {"loss": "bpr", "negatives": 4},
    "drawn once": {"loss": "sampled-softmax", "sampling": "shared"},
    "in batch": {"loss": "bpr-max", "sampling": "batch", "negatives": 3},
    "schedule": {"schedule": "warmup-cosine", "warmup_epochs": 2},
    "early stopping": {"patience": 2, "learning_rate": 1.0},
    "metric": {"patience": 4, "validation_metric": "mrr", "validate_every": 2},
    "augmentation": {"augmentation": {"node_mask": 0.3, "crop": 0.3}},
    "reordered": {"augmentation": {"reorder": 0.5}, "read": "upstream"},
    "more epochs": {"epochs": 2, "min_steps": 14, "schedule": "warmup-cosine"},
    "masked": {"mask_training": True, "loss": "bpr"},
}


# Going on


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_a_training_goes_on_as_if_it_had_never_stopped(options: dict[str, Any], tmp_path: Path) -> None:
    whole = fitted(model(**options), everything().data)
    for stop in range(1, len(whole.history) + 1):
        folder = tmp_path / str(stop)
        assert train(model(**options), folder, stop=stop) == list(range(1, stop + 1))
        again = model(**options)
        # The epoch in which it was stopped is not yet in the file.
        assert train(again, folder) == list(range(stop, len(whole.history) + 1))
        assert same(again, whole)
        assert only(folder).suffix == ".safetensors"


@pytest.mark.parametrize("options", [CONFIGS["adamw"], CONFIGS["early stopping"]], ids=str)
def test_a_training_can_be_stopped_many_times(options: dict[str, Any], tmp_path: Path) -> None:
    whole = fitted(model(**options), everything().data)
    for stop in range(1, len(whole.history) + 1):
        train(model(**options), tmp_path, stop=stop)
    again = model(**options)
    assert train(again, tmp_path) == [len(whole.history)]
    assert same(again, whole)


def test_a_training_that_breaks_off_within_an_epoch_repeats_that_epoch(tmp_path: Path) -> None:
    """It has three batches an epoch: its pass number 8 is the last of the third."""
    whole = fitted(model(), everything().data)
    broken = pytest.raises(RuntimeError, match="broken")
    with broken, on_cpu(checkpoints=tmp_path, checkpoint_seconds=0):
        spoiled(8, "raise", seed=SEED, **OPTIONS).fit(everything().data)
    again = model()
    assert train(again, tmp_path) == [3, 4, 5]
    assert same(again, whole)


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    learner = model()
    train(learner, tmp_path)
    assert same(learner, fitted(model(), everything().data))


# Killed


def run(folder: Path, stop: int) -> tuple[list[int], int]:
    """The epochs that the script told until it was killed in epoch ``stop``, and its exit status.

    It is killed where it waits for that; with 0 it waits nowhere.
    """
    command = [sys.executable, "-m", "tests.training.killed"]
    command += [str(folder / "checkpoints"), str(folder / "out"), str(stop)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        told = []
        for line in process.stdout:
            told.append(int(line))
            if told[-1] == stop:
                process.kill()
    return told, process.returncode


@pytest.mark.parametrize(
    "stops",
    [[5], pytest.param([1, 2, 3, 3, 4, 6, 7, 9, 11, 12], marks=pytest.mark.slow)],
    ids=["once", "many times"],
)
def test_a_killed_process_goes_on_where_it_was(stops: Sequence[int], tmp_path: Path) -> None:
    first = 1
    for stop in stops:
        # Each starts behind the checkpoint: the epoch in which the last one was killed is done again.
        assert run(tmp_path, stop) == (list(range(first, stop + 1)), -9)
        first = stop
    assert run(tmp_path, 0) == (list(range(first, killed.OPTIONS["epochs"] + 1)), 0)
    data = everything().data
    whole = fitted(gru(seed=6, **killed.OPTIONS), data)
    about = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    found = type(whole).load(tmp_path / "out", about, data.vocabulary, data.graph)
    assert same(found, whole)
    assert only(tmp_path / "checkpoints").suffix == ".safetensors"
