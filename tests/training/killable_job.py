"""A training to be killed."""

from __future__ import annotations

from pathlib import Path

from dagrec.training.runtime import Epoch
from tests.processes import print_and_stop
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


def train(checkpoints: Path, out: Path, stop: int) -> None:
    """Print the number of every epoch, and save the recommender in ``out``.

    After epoch ``stop`` the training waits until it is killed; the checkpoint of the previous epoch is
    written by then.
    """

    def print_epoch(_name: str, epoch: Epoch, _epochs: int) -> None:
        if epoch.epoch == stop:
            print_and_stop(epoch.epoch)
        print(epoch.epoch, flush=True)

    data = everything().data
    with on_cpu(progress=print_epoch, checkpoints=checkpoints, checkpoint_seconds=0):
        gru(seed=6, **OPTIONS).fit(data).save(out, data.vocabulary)
