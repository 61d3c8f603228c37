"""Helpers for tests of interrupted trainings."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dagrec.models.network import NetworkRecommender
from dagrec.training.data import TrainingData
from dagrec.training.runtime import Epoch
from tests.training.learners import gru, on_cpu
from tests.worlds import everything

SEED = 7
OPTIONS: dict[str, Any] = {"epochs": 5, "batch_size": 5, "learning_rate": 0.02}


class StopError(Exception):
    """The training is interrupted."""


def model(**options: Any) -> NetworkRecommender:
    return gru(seed=SEED, **{**OPTIONS, **options})


def train(
    learner: NetworkRecommender,
    folder: Path,
    data: TrainingData | None = None,
    *,
    stop: int | None = None,
    seconds: float = 0.0,
) -> list[int]:
    """Fit a learner, or interrupt it in epoch ``stop``. Returns the epochs that were run."""
    epochs: list[int] = []

    def record(_name: str, epoch: Epoch, _epochs: int) -> None:
        epochs.append(epoch.epoch)
        if epoch.epoch == stop:
            raise StopError

    interruption = nullcontext() if stop is None else pytest.raises(StopError)
    with interruption, on_cpu(progress=record, checkpoints=folder, checkpoint_seconds=seconds):
        learner.fit(data or everything().data)
    return epochs


def equal(a: NetworkRecommender, b: NetworkRecommender) -> bool:
    """Check that weights and history are exactly equal."""
    assert a.history == b.history
    assert a.state().keys() == b.state().keys()
    assert all(np.array_equal(array, b.state()[name]) for name, array in a.state().items())
    return True


def single_file(folder: Path) -> Path:
    """The only file of a folder."""
    (file,) = folder.iterdir()
    return file
