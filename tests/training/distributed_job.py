"""Trainings in two processes, the last of which fails.

Usage: ``torchrun --nproc-per-node 2 -m tests.training.distributed_job OUT``. Each process writes its
results to the folder OUT/<rank>.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from dagrec.errors import DagrecError
from dagrec.models.network import NetworkRecommender
from dagrec.training.data import TrainingData
from dagrec.training.runtime import Epoch
from tests.training.learners import NO_DROPOUT, RANK, faulty_gru, gru, on_cpu, table
from tests.worlds import chain, everything

FULL = {"epochs": 60, "learning_rate": 0.02, "batch_size": 1000}
TRAININGS: dict[str, dict[str, Any]] = {
    "full batches": {**FULL, **NO_DROPOUT},
    "masked": {**FULL, **NO_DROPOUT, "mask_training": True, "label_smoothing": 0.1},
    "adamw": {**FULL, **NO_DROPOUT, "optimiser": "adamw", "weight_decay": 0.1},
    "uneven batches": {"epochs": 4, "batch_size": 5, **NO_DROPOUT},
    "dropout": {"epochs": 4, "batch_size": 4},
    "negatives": {"epochs": 4, "batch_size": 4, "loss": "bpr-max", "sampling": "batch", "negatives": 9},
    "augmented": {"epochs": 4, "batch_size": 4, "augmentation": {"crop": 0.5, "node_mask": 0.2}},
    "stopped early": {"epochs": 60, "patience": 3, "learning_rate": 0.1},
}


def write_result(
    out: Path, name: str, learner: NetworkRecommender, error: Exception | None = None
) -> None:
    """Write weights, history and error for the test."""
    folder = out / str(RANK)
    folder.mkdir(parents=True, exist_ok=True)
    state = learner.state() if learner.history else {}
    np.savez(folder / f"{name}.npz", **state)
    about = {
        "history": [astuple(epoch) for epoch in learner.history],
        "error": None if error is None else str(error),
        "seed": getattr(learner, "build_seed", None),
    }
    (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")


def fit(out: Path, name: str, learner: NetworkRecommender, data: TrainingData) -> None:
    try:
        learner.fit(data)
    except (DagrecError, RuntimeError) as error:
        write_result(out, name, learner, error)
    else:
        write_result(out, name, learner)


def succeed(out: Path) -> None:
    """Run many trainings one after the other. The processes do not start them at the same time."""
    data, epochs = everything().data, []

    def record(_name: str, epoch: Epoch, _epochs: int) -> None:
        epochs.append(epoch.epoch)

    with on_cpu(progress=record, log=out / f"log-{RANK}"):
        for number, (name, options) in enumerate(TRAININGS.items()):
            if number % 2 == RANK:
                time.sleep(0.1)
            fit(out, name, gru(**options), data)
    (out / str(RANK) / "epochs.json").write_text(json.dumps(epochs), encoding="utf-8")

    options = {"epochs": 6, "batch_size": 4, "optimiser": "adamw", "weight_decay": 0.1}
    with on_cpu():
        fit(out, "few units", gru(epochs=2), chain().data)
        fit(out, "small batches", table(epochs=2, batch_size=1), data)
        failing = faulty_gru(7, "fill", ranks=(1,), epochs=9, batch_size=1000)
        fit(out, "not finite", failing, data)
        fit(out, "whole", faulty_gru(-1, "raise", **options), data)
    with on_cpu(checkpoints=out / "checkpoints", checkpoint_seconds=0):
        fit(out, "interrupted", faulty_gru(10, "raise", **options), data)
        fit(out, "resumed", faulty_gru(-1, "raise", **options), data)
    with on_cpu(checkpoints=out / f"checkpoints-{RANK}", checkpoint_seconds=0):
        fit(out, "separate", faulty_gru(10, "raise", **options), data)
        fit(out, "separate, resumed", faulty_gru(-1, "raise", **options), data)
    (out / str(RANK) / "finished").touch()


def fail(out: Path) -> None:
    """The network of the second process raises in its second epoch."""
    learner = faulty_gru(1, "raise", ranks=(1,), epochs=10**6, batch_size=1000)
    with on_cpu():
        learner.fit(everything().data)
    write_result(out, "unreachable", learner)


if __name__ == "__main__":
    succeed(Path(sys.argv[1]))
    fail(Path(sys.argv[1]))
