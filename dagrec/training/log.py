"""The training log: one line of JSON per epoch, for monitoring and for plots of learning curves."""

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
    """Append one epoch to the log.

    data: fingerprint of the training data; epochs: the largest number of epochs; seconds: the duration
    of the epoch. The field ``training`` identifies the training, by a hash of data, configuration and
    seed. Raises :class:`DagrecError` if the file cannot be written.
    """
    identity = [data, learner.name, learner.config.model_dump_json(), learner.seed]
    line = {
        "time": time.time(),
        "training": hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12],
        "model": learner.name,
        "seed": learner.seed,
        "epochs": epochs,
        "metric": learner.config.validation_metric,
        "seconds": seconds,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | asdict(epoch)) + "\n")
    except OSError as error:
        raise DagrecError(
            f"{path}: the log must be written, found {error.strerror}; choose another --log"
        ) from None
