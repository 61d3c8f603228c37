"""Trainings that are interrupted, and what is left of them."""

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
    """Fit it, or until it is stopped in the epoch ``stop``. Returns the epochs that were told."""
    told: list[int] = []

    def tell(_name: str, epoch: Epoch, _epochs: int) -> None:
        told.append(epoch.epoch)
        if epoch.epoch == stop:
            raise StopError

    stopped = nullcontext() if stop is None else pytest.raises(StopError)
    with stopped, on_cpu(progress=tell, checkpoints=folder, checkpoint_seconds=seconds):
        learner.fit(data or everything().data)
    return told


def same(a: NetworkRecommender, b: NetworkRecommender) -> bool:
    """Equal to the last bit."""
    assert a.history == b.history
    assert a.state().keys() == b.state().keys()
    assert all(np.array_equal(array, b.state()[name]) for name, array in a.state().items())
    return True


def only(folder: Path) -> Path:
    """The one file of a folder."""
    (found,) = folder.iterdir()
    return found
