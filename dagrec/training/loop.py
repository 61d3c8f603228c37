"""What trains every gradient-trained recommender: devices, processes, checkpoints and who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

# The first optimiser of a process would import it: more than a second of set-up, timed as training.
import torch._dynamo

from dagrec.errors import ConfigError
from dagrec.models.base import Epoch
from dagrec.models.network import Network, NetworkRecommender
from dagrec.models.training_data import TrainingData
from dagrec.training.checkpoint import Checkpoint
from dagrec.training.descent import Descent
from dagrec.training.distributed import joined, local_device
from dagrec.training.log import write_line
from dagrec.training.seed import seeded
from dagrec.types import Device

SEED_STEP = 7919
"""From the seed of one process to that of the next, so that they do not drop the same."""


def choose_device(device: Device) -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one. Raises :class:`ConfigError`."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda' needs a GPU that torch can use, found none; choose auto or cpu"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return local_device(torch.device(device))


def use_threads(threads: int) -> None:
    """How many threads torch takes for one operation, in this process."""
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class NetworkTrainer:
    """Descends gradients, on several processes and from checkpoints where there are such.

    ``progress`` is told (name, epoch, epochs at most) after every epoch; ``log`` is a file that gets a
    line for each. With a folder for ``checkpoints``, a training that was ended goes on where it was
    (written every ``checkpoint_seconds`` at most), and one that had finished is not done again until
    :meth:`forget`.
    """

    device: Device = "auto"
    progress: Callable[[str, Epoch, int], None] | None = None
    log: Path | None = None
    checkpoints: Path | None = None
    checkpoint_seconds: float = 30.0
    _files: list[Path] = field(default_factory=list, repr=False)

    def train(self, learner: NetworkRecommender, data: TrainingData) -> tuple[Network, list[Epoch]]:
        """The trained network, on the CPU and in evaluation mode, and the history.

        With ``patience`` set, a validation part is held out of the data, and the weights of the epoch
        with the best value on it are restored. Raises :class:`NumericalError`, with the last good
        weights, when a loss, a gradient or a weight is not finite.
        """
        device = choose_device(self.device)
        _check_precision(learner, device)
        processes = joined(device)
        with seeded(learner.seed + SEED_STEP * processes.rank, device):
            checkpoint = None
            if self.checkpoints is not None:
                checkpoint = Checkpoint.of(
                    self.checkpoints, learner, data, device, processes, self.checkpoint_seconds
                )

            descent = Descent(learner, data, device, processes, checkpoint)
            training = data.fingerprint if self.log else ""

            def tell(epoch: Epoch, seconds: float) -> None:
                epochs = descent.options.epochs
                if self.progress and processes.first:
                    self.progress(learner.name, epoch, epochs)
                if self.log and processes.first:
                    write_line(self.log, learner, training, epoch, epochs, seconds)

            result = descent.run(tell)
        if checkpoint is not None and processes.first:
            self._files.append(checkpoint.path)
        return result

    def forget(self) -> None:
        """Remove the checkpoints of trainings that this trainer has finished."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()


def _check_precision(learner: NetworkRecommender, device: torch.device) -> None:
    if (
        learner.config.precision == "bf16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported()
    ):
        raise ConfigError(
            f"{learner.name}: precision 'bf16' needs a device that computes in bfloat16, found "
            f"{torch.cuda.get_device_name(device)}; choose fp32"
        )
