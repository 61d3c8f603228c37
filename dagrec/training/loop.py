"""The training loop of every gradient-trained recommender."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

# The first optimiser of a process would import it: more than a second of set-up, timed as training.
import torch._dynamo
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dagrec.errors import ConfigError, DagrecError, NumericalError
from dagrec.evaluation.metrics import METRICS, Outcome
from dagrec.models.base import Epoch
from dagrec.models.network import Network, NetworkRecommender
from dagrec.models.training_data import TrainingData
from dagrec.training.batches import Batch, Batches
from dagrec.training.checkpoint import Checkpoint, Course, Weights
from dagrec.training.distributed import Processes, joined, local_device
from dagrec.training.log import write_line
from dagrec.training.objective import Objective
from dagrec.training.optimisers import make_optimiser
from dagrec.training.sampling import Sampler
from dagrec.training.schedule import hard_share, learning_rate
from dagrec.training.seed import seeded
from dagrec.types import Device

VALIDATION_UNITS = 1024
LESS_IS_BETTER = ("loss", "nll")


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
    """Descends gradients: optimiser, schedule, clipping, early stopping, checkpoints, several processes.

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

    def train(
        self, learner: NetworkRecommender, data: TrainingData
    ) -> tuple[Network, list[Epoch]]:
        """The trained network, on the CPU and in evaluation mode, and the history.

        With ``patience`` set, a validation part is held out of the data, and the weights of the epoch
        with the best value on it are restored. Raises :class:`NumericalError`, with the last good
        weights, when a loss, a gradient or a weight is not finite.
        """
        device = choose_device(self.device)
        _check_precision(learner, device)
        with joined(device) as processes, seeded(learner.seed + 7919 * processes.rank, device):
            return _Training(self, learner, data, device, processes).run()

    def forget(self) -> None:
        """Remove the checkpoints of trainings that this trainer has finished."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()


class _Training:
    """One training, from the first weights or from a checkpoint to the end."""

    def __init__(
        self,
        trainer: NetworkTrainer,
        learner: NetworkRecommender,
        data: TrainingData,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.trainer = trainer
        self.learner = learner
        self.options = learner.config
        self.device = device
        self.processes = processes
        self.checkpoint: Checkpoint | None = None
        if trainer.checkpoints is not None:
            self.checkpoint = Checkpoint.of(
                trainer.checkpoints, learner, data, processes, trainer.checkpoint_seconds
            )
        self.held_out: Batches | None = None
        if self.options.patience is not None:
            data, held_out = data.hold_out(self.options.validation_share, learner.seed)
            self.held_out = Batches.of(learner, held_out)
        self.batches = Batches.of(learner, data)
        self.network = learner.build(data.vocabulary, data).to(device)
        with torch.no_grad():
            for parameter in self.network.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(self.options.init_scale)
        # Vocabulary and graph are those of all training data, so every held-out target has a count.
        self.sampler = Sampler.of(
            torch.from_numpy(data.graph.popularity).to(device),
            self.options.sample_alpha,
            method=self.options.sampler,
            replacement=self.options.replacement,
        )
        self.objective = Objective(self.network, self.options, self.sampler)
        self.shared: nn.Module = self.objective
        if processes.count > 1:
            self.shared = DistributedDataParallel(self.objective)
        self.optimiser = make_optimiser(self.network.parameters(), self.options)
        self.course = Course()

    def run(self) -> tuple[Network, list[Epoch]]:
        self._go_on()
        good = _copy(self.network)
        while not self.course.done:
            number = len(self.course.history)
            start = time.perf_counter()
            try:
                epoch = self._epoch(number)
            except NumericalError as error:
                error.last_good = self._result(self.course.best or good) if number else None
                raise
            self.course.history.append(epoch)
            self.course.done = self._finished(epoch)
            good = _copy(self.network)
            if self.processes.first:
                if self.trainer.progress:
                    self.trainer.progress(self.learner.name, epoch, self.options.epochs)
                if self.trainer.log:
                    write_line(self.trainer.log, self.learner, epoch, time.perf_counter() - start)
            self._save(good)
        if self.checkpoint is not None and self.processes.first:
            self.trainer._files.append(self.checkpoint.path)
        return self._result(self.course.best or good)

    def _result(self, weights: Weights) -> tuple[Network, list[Epoch]]:
        self.network.load_state_dict(weights)
        network = self.network.to("cpu").eval()
        self.learner.settle(network)
        return network, self.course.history

    def _epoch(self, number: int) -> Epoch:
        """One pass in random order."""
        rate = learning_rate(self.options, number)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.objective.hard_share = hard_share(self.options, number)
        self.network.train()
        where = f"{self.learner.name}, epoch {number + 1}"
        totals = torch.zeros(2, device=self.device)
        largest = torch.zeros((), device=self.device)
        for batch in self.batches.epoch(number, self.learner.seed, self.processes):
            loss, examples = self.shared(batch.to(self.device))
            # DDP takes the mean over processes; the loss is that over the examples of all of them.
            size = self.processes.sum(examples.detach().clone()) / self.processes.count
            self.optimiser.zero_grad(set_to_none=True)
            (loss / size).backward()
            self._check_reach(where)
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.options.clip_norm)
            # A loss can overflow while its gradient, a difference of probabilities, does not.
            if not torch.isfinite(norm + loss):
                raise NumericalError(f"{where}: {_not_finite(self.network, loss)}; lower learning_rate")
            self.optimiser.step()
            totals += torch.stack([loss.detach(), examples])
            largest = torch.maximum(largest, norm)
        self.processes.sum(totals)
        value = self._validate(number, where)
        return Epoch(number + 1, float(totals[0] / totals[1]), value, rate, float(largest))

    def _check_reach(self, where: str) -> None:
        for name, parameter in self.network.named_parameters():
            if parameter.grad is None:
                raise DagrecError(
                    f"{where}: the gradient must reach every parameter in every batch, found none at "
                    f"{name}; the network must compute its states from it"
                )

    def _validate(self, number: int, where: str) -> float | None:
        """The chosen metric on the held-out part, in the epochs that look at it."""
        last = number + 1 == self.options.epochs
        if self.held_out is None or ((number + 1) % self.options.validate_every and not last):
            return None
        value = validation_value(self.objective, self.held_out, self.device)
        value = self.processes.agree(value, self.device)
        if not math.isfinite(value):
            raise NumericalError(
                f"{where}: the validation {self.options.validation_metric} must be finite, "
                f"found {value}; lower learning_rate"
            )
        return value

    def _finished(self, epoch: Epoch) -> bool:
        """Note the best weights; whether this epoch was the last."""
        course, options = self.course, self.options
        if epoch.validation is not None:
            sign = 1 if options.validation_metric in LESS_IS_BETTER else -1
            if course.best_value is None or sign * epoch.validation < sign * course.best_value:
                course.best_value, course.best_epoch = epoch.validation, epoch.epoch
                course.best = _copy(self.network)
        patience = options.patience
        waited = patience is not None and epoch.validation is not None
        stopped = waited and epoch.epoch - course.best_epoch >= (patience or 0)
        return stopped or epoch.epoch == options.epochs

    def _go_on(self) -> None:
        """From where the checkpoint was written, if there is one."""
        found = None
        if self.checkpoint is not None:
            found = self.checkpoint.read(self.network, self.optimiser)
        if found is None:
            return
        self.course, generators = found
        mine = generators[self.processes.rank]
        size = len(torch.get_rng_state())
        torch.set_rng_state(mine[:size])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(mine[size:], self.device)

    def _save(self, weights: Weights) -> None:
        if self.checkpoint is None:
            return
        due = self.checkpoint.due(self.course.done)
        if not self.processes.agree(float(due), self.device):
            return
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        generators = self.processes.gather(torch.cat(states).to(self.device)).cpu()
        if self.processes.first:
            self.checkpoint.write(self.course, weights, self.optimiser, generators)


def validation_value(objective: Objective, part: Batches, device: torch.device) -> float:
    """The chosen metric of a part; drawn negatives are the same in every epoch, so that epochs compare."""
    objective.network.eval()
    metric = objective.options.validation_metric
    total = examples = 0.0
    with seeded(0, device), torch.inference_mode():
        for batch in part.in_order(VALIDATION_UNITS):
            batch = batch.to(device)
            if metric == "loss":
                loss, size = objective(batch)
                total += float(loss)
            else:
                size = batch.counts.sum()
                outcome = _outcome(objective.network, batch)
                total += METRICS[metric](outcome) * float(size)
            examples += float(size)
    return total / examples


def _outcome(network: Network, batch: Batch) -> Outcome:
    """The answers to the pairs of a batch, each weighing its count; under the mask of training, if any."""
    scores = network(batch.inputs).float()
    if batch.mask is not None:
        scores = scores.masked_fill(~batch.mask, -torch.inf)
    logs = torch.log_softmax(scores, dim=1)[batch.rows].cpu().numpy().astype(np.float64)
    weights = batch.counts.cpu().numpy().astype(np.float64)
    return Outcome(logs, batch.columns.cpu().numpy(), weights / weights.sum())


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


def _copy(network: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _not_finite(network: nn.Module, loss: Tensor) -> str:
    if not torch.isfinite(loss):
        return f"the loss must be finite, found {loss.item()}"
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name} must be finite, found NaN or infinity"
    return "the norm of the gradient must be finite, found an overflow"
