"""A training to be killed: ``python -m tests.training.killable_job CHECKPOINTS OUT STOP``.

It prints the number of every epoch. After epoch STOP it waits until it is killed or its input ends; the
checkpoint of the previous epoch is written by then. If it is not killed, it saves the recommender in
OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dagrec.training.runtime import Epoch
from tests.training.learners import gru, on_cpu
from tests.worlds import everything

OPTIONS = {
    "epochs": 12,
    "patience": 11,
    "validation_metric": "mrr",
    "batch_size": 5,
    "loss": "bpr-max",
    "negatives": 20,
    "optimiser": "adamw",
    "weight_decay": 0.1,
    "schedule": "warmup-cosine",
    "augmentation": {"crop": 0.3, "node_mask": 0.1},
}


def main(checkpoints: Path, out: Path, stop: int) -> None:
    def print_epoch(_name: str, epoch: Epoch, _epochs: int) -> None:
        print(epoch.epoch, flush=True)
        if epoch.epoch == stop:
            sys.stdin.read()
            sys.exit(f"not killed in epoch {stop}")

    data = everything().data
    with on_cpu(progress=print_epoch, checkpoints=checkpoints, checkpoint_seconds=0):
        gru(seed=6, **OPTIONS).fit(data).save(out, data.vocabulary)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
