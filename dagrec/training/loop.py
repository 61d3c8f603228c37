"""Training of a network under the current runtime."""

from __future__ import annotations

import torch

# Otherwise it is imported with the first optimiser, and the training time includes the second it takes.
import torch._dynamo

from dagrec.errors import ConfigError
from dagrec.output.progress import EpochProgress, Progress
from dagrec.training.checkpoint import Checkpoint
from dagrec.training.data import TrainingData
from dagrec.training.distributed import connect_processes, local_device
from dagrec.training.log import write_line
from dagrec.training.network import Learner, Network
from dagrec.training.runtime import Epoch, current_runtime
from dagrec.training.seed import seeded
from dagrec.training.trainer import Trainer
from dagrec.types import Device

SEED_STEP = 7919
"""The difference between the seeds of two processes, so that their dropout differs."""


def train(learner: Learner, data: TrainingData) -> tuple[Network, list[Epoch]]:
    """Train the network of a learner. Returns it on the CPU in evaluation mode, and the history.

    The current :class:`~dagrec.training.runtime.Runtime` determines device, progress, log and
    checkpoints. If ``patience`` is set, a validation part of the data is held out, and the weights with
    the best value on it are restored. Raises :class:`NumericalError`, with the last good weights, if a
    loss, a gradient or a weight is not finite.
    """
    runtime = current_runtime()
    torch.set_num_threads(runtime.threads)
    device = choose_device(runtime.device)
    processes = connect_processes(device)
    with (
        seeded(learner.seed + SEED_STEP * processes.rank, device),
        Progress(enabled=runtime.progress == "auto" and processes.is_first) as bars,
    ):
        show_epoch = EpochProgress(bars) if runtime.progress == "auto" else runtime.progress
        checkpoint = None
        if runtime.checkpoints is not None:
            checkpoint = Checkpoint.of(
                runtime.checkpoints, learner, data, device, processes, runtime.checkpoint_seconds
            )
        trainer = Trainer(learner, data, device, processes, checkpoint)
        fingerprint = data.fingerprint if runtime.log else ""

        def report(epoch: Epoch, seconds: float) -> None:
            epochs = trainer.options.epochs
            if show_epoch is not None and processes.is_first:
                show_epoch(learner.name, epoch, epochs)
            if runtime.log and processes.is_first:
                write_line(runtime.log, learner, fingerprint, epoch, epochs, seconds)

        result = trainer.run(report)
    if checkpoint is not None and processes.is_first:
        runtime.finished.append(checkpoint.path)
    return result


def choose_device(device: Device) -> torch.device:
    """Return the torch device of a name. Raises :class:`ConfigError` for ``cuda`` without a GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda' needs a GPU that torch can use, found none; choose auto or cpu"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return local_device(torch.device(device))
