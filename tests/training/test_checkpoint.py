from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dagrec.models.network import NetworkRecommender
from dagrec.training.loop import NetworkTrainer
from tests.training import killed
from tests.training.interrupted import OPTIONS, SEED, model, only, same, train
from tests.training.learners import STILL, fitted, gru, spoiled
from tests.worlds import everything

ROOT = Path(__file__).parents[2]
CONFIGS: dict[str, dict[str, Any]] = {
    "adam": STILL,
    "dropout": {"embedding_dropout": 0.3, "hidden_dropout": 0.3},
    "adamw": {"optimiser": "adamw", "weight_decay": 0.1},
    "adagrad": {"optimiser": "adagrad"},
    "momentum": {"optimiser": "adagrad", "momentum": 0.5},
    "drawn for each": {"loss": "bpr", "negatives": 4},
    "drawn once": {"loss": "sampled-softmax", "sampling": "shared", "replacement": False},
    "in batch": {"loss": "bpr-max", "sampling": "batch", "negatives": 3, "sampler": "alias"},
    "hardness": {"loss": "hinge", "curriculum": "hardness", "curriculum_epochs": 4},
    "length": {"curriculum": "length", "curriculum_epochs": 4},
    "schedule": {"schedule": "warmup-cosine", "warmup_epochs": 2},
    "early stopping": {"patience": 2, "validation_share": 0.3, "learning_rate": 0.5},
    "metric": {"patience": 4, "validation_metric": "mrr", "validate_every": 2},
    "augmentation": {"augmentation": {"node_mask": 0.3, "crop": 0.3}},
    "reordered": {"augmentation": {"reorder": 0.5}, "read": "upstream"},
    "bf16": {"precision": "bf16"},
    "more epochs": {"epochs": 2, "min_steps": 14, "schedule": "warmup-cosine"},
    "masked": {"mask_training": True, "exclude": "successors", "loss": "bpr"},
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


@pytest.mark.parametrize("options", [CONFIGS["momentum"], CONFIGS["early stopping"]], ids=str)
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
    trainer = NetworkTrainer("cpu", checkpoints=tmp_path, checkpoint_seconds=0)
    with pytest.raises(RuntimeError, match="broken"):
        spoiled(8, "raise", seed=SEED, **OPTIONS).fit(everything().data)
    again = model()
    assert train(again, tmp_path) == [3, 4, 5]
    assert same(again, whole)


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    learner = model()
    train(learner, tmp_path)
    assert same(learner, fitted(model(), everything().data))


# Killed


def reference() -> NetworkRecommender:
    return fitted(gru(seed=6, **killed.OPTIONS), everything().data)


def kill_until_done(folder: Path, kills: int, seed: int) -> None:
    """Start the script again and again, each time killed at a random moment after its first epoch."""
    rng = random.Random(seed)
    command = [sys.executable, "-m", "tests.training.killed", str(folder / "c"), str(folder / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    for number in range(kills + 1):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            first = int(process.stdout.readline())
            if number < kills:
                time.sleep(rng.uniform(0, 0.1))
                process.kill()
            told = [first, *map(int, process.stdout.read().split())]
        assert process.wait() == (0 if number == kills else -9), "it ended before it was killed"
        # It starts where the file was written last: what was told since may have to be done again.
        assert told == list(range(first, told[-1] + 1))
        assert (first > 1) is (number > 0)
    assert told[-1] == killed.OPTIONS["epochs"]


@pytest.mark.parametrize(
    "kills", [1, pytest.param(12, marks=pytest.mark.slow)], ids=["once", "many times"]
)
def test_a_killed_process_goes_on_where_it_was(kills: int, tmp_path: Path) -> None:
    kill_until_done(tmp_path, kills, seed=kills)
    whole = reference()
    data = everything().data
    about = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    found = type(whole).load(tmp_path / "out", about, data.vocabulary, data.graph)
    assert same(found, whole)
    assert only(tmp_path / "c").suffix == ".safetensors"
