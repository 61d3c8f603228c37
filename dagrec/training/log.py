"""The training log: one line of JSON an epoch, to follow a training or to draw its curves."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

from dagrec.errors import DagrecError
from dagrec.models.base import Epoch
from dagrec.models.network import NetworkRecommender


def write_line(path: Path, learner: NetworkRecommender, epoch: Epoch, seconds: float) -> None:
    """Append an epoch. ``seconds`` is how long it took. Raises :class:`DagrecError`."""
    about = {
        "time": time.time(),
        "model": learner.name,
        "seed": learner.seed,
        "epochs": learner.config.epochs,
        "metric": learner.config.validation_metric,
        "seconds": seconds,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(about | asdict(epoch)) + "\n")
    except OSError as error:
        raise DagrecError(
            f"{path}: the log must be written, found {error.strerror}; choose another --log"
        ) from None
