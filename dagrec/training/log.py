"""The training log: one line of JSON an epoch, to follow a training or to draw its curves."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from pathlib import Path

from dagrec.errors import DagrecError
from dagrec.training.network import Learner
from dagrec.training.runtime import Epoch


def write_line(
    path: Path, learner: Learner, data: str, epoch: Epoch, epochs: int, seconds: float
) -> None:
    """Append an epoch of ``epochs`` at most. ``data``: fingerprint of the training data; ``seconds``:
    how long it took.

    ``training`` tells trainings apart that share a log: a hash of data, configuration and seed. Raises
    :class:`DagrecError`.
    """
    decides = [data, learner.name, learner.config.model_dump_json(), learner.seed]
    about = {
        "time": time.time(),
        "training": hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12],
        "model": learner.name,
        "seed": learner.seed,
        "epochs": epochs,
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
