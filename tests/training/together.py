"""Trainings on several processes: ``torchrun --nproc-per-node 2 -m tests.training.together WHAT OUT``.

Each process writes what it found into a folder OUT/<rank>.
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
from tests.training.learners import RANK, STILL, gru, on_cpu, spoiled, table
from tests.worlds import chain, everything

FULL = {"epochs": 60, "learning_rate": 0.02, "batch_size": 1000}
TRAININGS: dict[str, dict[str, Any]] = {
    "full batches": {**FULL, **STILL},
    "masked": {**FULL, **STILL, "mask_training": True, "label_smoothing": 0.1},
    "adamw": {**FULL, **STILL, "optimiser": "adamw", "weight_decay": 0.1},
    "uneven batches": {"epochs": 4, "batch_size": 5, **STILL},
    "dropout": {"epochs": 4, "batch_size": 4},
    "negatives": {"epochs": 4, "batch_size": 4, "loss": "bpr-max", "sampling": "batch", "negatives": 9},
    "augmented": {"epochs": 4, "batch_size": 4, "augmentation": {"crop": 0.5, "node_mask": 0.2}},
    "stopped early": {"epochs": 60, "patience": 3, "learning_rate": 0.1},
}


def keep(out: Path, name: str, learner: NetworkRecommender, error: Exception | None = None) -> None:
    """Weights, history and error, for the test to read."""
    folder = out / str(RANK)
    folder.mkdir(parents=True, exist_ok=True)
    state = learner.state() if learner.history else {}
    np.savez(folder / f"{name}.npz", **state)
    about = {
        "history": [astuple(epoch) for epoch in learner.history],
        "error": None if error is None else str(error),
        "seed": getattr(learner, "seed_inside", None),
    }
    (folder / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")


def attempt(out: Path, name: str, learner: NetworkRecommender, data: TrainingData) -> None:
    try:
        learner.fit(data)
    except (DagrecError, RuntimeError) as error:
        keep(out, name, learner, error)
    else:
        keep(out, name, learner)


def facts(out: Path) -> None:
    """Many trainings in one process, one after the other; the processes do not arrive together."""
    data, told = everything().data, []

    def tell(_name: str, epoch: Epoch, _epochs: int) -> None:
        told.append(epoch.epoch)

    with on_cpu(progress=tell, log=out / f"log-{RANK}"):
        for number, (name, options) in enumerate(TRAININGS.items()):
            if number % 2 == RANK:
                time.sleep(0.1)
            attempt(out, name, gru(**options), data)
    (out / str(RANK) / "told.json").write_text(json.dumps(told), encoding="utf-8")

    options = {"epochs": 6, "batch_size": 4, "optimiser": "adamw", "weight_decay": 0.1}
    with on_cpu():
        attempt(out, "few units", gru(epochs=2), chain().data)
        attempt(out, "small batches", table(epochs=2, batch_size=1), data)
        failing = spoiled(7, "fill", ranks=(1,), epochs=9, batch_size=1000)
        attempt(out, "not finite", failing, data)
        attempt(out, "whole", spoiled(-1, "raise", **options), data)
    with on_cpu(checkpoints=out / "checkpoints", checkpoint_seconds=0):
        attempt(out, "interrupted", spoiled(10, "raise", **options), data)
        attempt(out, "gone on", spoiled(-1, "raise", **options), data)
    with on_cpu(checkpoints=out / f"checkpoints-{RANK}", checkpoint_seconds=0):
        attempt(out, "apart", spoiled(10, "raise", **options), data)
        attempt(out, "apart again", spoiled(-1, "raise", **options), data)


def fail(out: Path) -> None:
    """The network of the second process raises in its second epoch, and nobody catches that."""
    learner = spoiled(1, "raise", ranks=(1,), epochs=10**6, batch_size=1000)
    with on_cpu():
        learner.fit(everything().data)
    keep(out, "never", learner)


if __name__ == "__main__":
    {"facts": facts, "fail": fail}[sys.argv[1]](Path(sys.argv[2]))
