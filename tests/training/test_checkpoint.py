from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.processes import Job
from tests.training import killable_job
from tests.training.interrupted import OPTIONS, SEED, equal, model, single_file, train
from tests.training.learners import NO_DROPOUT, faulty_gru, fitted, gru, on_cpu
from tests.worlds import everything

CONFIGS: dict[str, dict[str, Any]] = {
    "adam": NO_DROPOUT,
    "dropout": {"embedding_dropout": 0.3, "hidden_dropout": 0.3},
    "adamw": {"optimiser": "adamw", "weight_decay": 0.1},
    "negatives per pair": {"loss": "bpr", "negatives": 4},
    "shared negatives": {"loss": "sampled-softmax", "sampling": "shared"},
    "in batch": {"loss": "bpr-max", "sampling": "batch", "negatives": 3},
    "schedule": {"schedule": "warmup-cosine", "warmup_epochs": 2},
    "early stopping": {"patience": 2, "learning_rate": 1.0},
    "metric": {"patience": 4, "validation_metric": "mrr", "validate_every": 2},
    "augmentation": {"augmentation": {"node_mask": 0.3, "crop": 0.3}},
    "reordered": {"augmentation": {"reorder": 0.5}, "read": "upstream"},
    "more epochs": {"epochs": 2, "min_steps": 14, "schedule": "warmup-cosine"},
    "masked": {"mask_training": True, "loss": "bpr"},
}


# Resuming


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_resumed_training_has_same_result(options: dict[str, Any], tmp_path: Path) -> None:
    whole = fitted(model(**options), everything().data)
    for stop in range(1, len(whole.history) + 1):
        folder = tmp_path / str(stop)
        assert train(model(**options), folder, stop=stop) == list(range(1, stop + 1))
        resumed = model(**options)
        # The checkpoint does not include the epoch in which it was stopped.
        assert train(resumed, folder) == list(range(stop, len(whole.history) + 1))
        assert equal(resumed, whole)
        assert single_file(folder).suffix == ".safetensors"


@pytest.mark.parametrize("options", [CONFIGS["adamw"], CONFIGS["early stopping"]], ids=str)
def test_training_can_be_resumed_many_times(options: dict[str, Any], tmp_path: Path) -> None:
    whole = fitted(model(**options), everything().data)
    for stop in range(1, len(whole.history) + 1):
        train(model(**options), tmp_path, stop=stop)
    resumed = model(**options)
    assert train(resumed, tmp_path) == [len(whole.history)]
    assert equal(resumed, whole)


def test_training_that_fails_within_epoch_repeats_epoch(tmp_path: Path) -> None:
    """There are three batches per epoch, so pass number 8 is the last of the third epoch."""
    whole = fitted(model(), everything().data)
    failure = pytest.raises(RuntimeError, match="broken")
    with failure, on_cpu(checkpoints=tmp_path, checkpoint_seconds=0):
        faulty_gru(8, "raise", seed=SEED, **OPTIONS).fit(everything().data)
    resumed = model()
    assert train(resumed, tmp_path) == [3, 4, 5]
    assert equal(resumed, whole)


def test_checkpoints_do_not_change_result(tmp_path: Path) -> None:
    learner = model()
    train(learner, tmp_path)
    assert equal(learner, fitted(model(), everything().data))


# Killed processes


def run(folder: Path, stop: int) -> tuple[list[int], int]:
    """Run the job, and kill it in epoch ``stop`` unless that is 0.

    Returns the epochs that it printed, and its exit status.
    """
    job = Job(killable_job.train, (folder / "checkpoints", folder / "out", stop))
    if stop:
        job.wait_for_line(str(stop))
        done = job.kill()
    else:
        done = job.wait()
    return [int(line) for line in done.out.splitlines()], done.status


@pytest.mark.parametrize(
    "stops",
    [[5], pytest.param([1, 2, 3, 3, 4, 6, 7, 9, 11, 12], marks=pytest.mark.slow)],
    ids=["once", "many times"],
)
def test_killed_process_is_resumed(stops: Sequence[int], tmp_path: Path) -> None:
    first = 1
    for stop in stops:
        # The epoch in which the previous process was killed is repeated.
        assert run(tmp_path, stop) == (list(range(first, stop + 1)), -9)
        first = stop
    assert run(tmp_path, 0) == (list(range(first, killable_job.OPTIONS["epochs"] + 1)), 0)
    data = everything().data
    whole = fitted(gru(seed=6, **killable_job.OPTIONS), data)
    about = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    loaded = type(whole).load(tmp_path / "out", about, data.vocabulary, data.graph)
    assert equal(loaded, whole)
    assert single_file(tmp_path / "checkpoints").suffix == ".safetensors"
