"""A training that somebody may kill: ``python -m tests.training.killed CHECKPOINTS OUT``.

It prints the number of every epoch, and leaves the trained recommender in OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dagrec.training.loop import NetworkTrainer
from dagrec.training.runtime import Epoch
from tests.training.learners import gru
from tests.worlds import everything

OPTIONS = {
    "epochs": 150,
    "patience": 149,
    "validation_metric": "mrr",
    "batch_size": 5,
    "loss": "bpr-max",
    "negatives": 20,
    "optimiser": "adagrad",
    "momentum": 0.2,
    "schedule": "warmup-cosine",
    "augmentation": {"crop": 0.3, "node_mask": 0.1},
}


def tell(_name: str, epoch: Epoch, _epochs: int) -> None:
    print(epoch.epoch, flush=True)


def main(checkpoints: Path, out: Path) -> None:
    data = everything().data
    trainer = NetworkTrainer("cpu", tell, checkpoints=checkpoints, checkpoint_seconds=0)
    gru(seed=6, **OPTIONS).fit(data).save(out, data.vocabulary)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
