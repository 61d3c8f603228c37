"""The training loop, from the initial weights or a checkpoint to the last epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dagrec.errors import DagrecError, NumericalError
from dagrec.metrics.ranking import METRICS, Outcome
from dagrec.training.batches import Batch, Batches
from dagrec.training.checkpoint import Checkpoint, TrainingState, Weights
from dagrec.training.data import TrainingData
from dagrec.training.distributed import Processes
from dagrec.training.network import Learner, Network
from dagrec.training.objective import Objective
from dagrec.training.options import LOWER_IS_BETTER, TrainingOptions
from dagrec.training.runtime import Epoch
from dagrec.training.sampling import Sampler
from dagrec.training.schedule import learning_rate
from dagrec.training.seed import seeded

VALIDATION_SHARE = 0.1
"""The share of the training compositions that are held out if ``patience`` is set."""
VALIDATION_UNITS = 1024
"""The number of units of the held-out part that are scored in one pass."""
Report = Callable[[Epoch, float], None]
"""Called after each epoch with its duration in seconds."""


class Trainer:
    """Trains the network of a learner on training data."""

    def __init__(
        self,
        learner: Learner,
        data: TrainingData,
        device: torch.device,
        processes: Processes,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.learner = learner
        self.options = learner.config
        self.device = device
        self.processes = processes
        self.checkpoint = checkpoint
        self.held_out: Batches | None = None
        if self.options.patience is not None:
            data, held_out = data.hold_out(VALIDATION_SHARE, learner.seed)
            self.held_out = Batches.of(learner, held_out)
        self.batches = Batches.of(learner, data)
        steps = math.ceil(len(self.batches) / self.options.batch_size)
        epochs = max(self.options.epochs, math.ceil(self.options.min_steps / steps))
        # Some recommenders allow 0 epochs, and then the initial weights are the result.
        self.options = self.options.model_copy(update={"epochs": self.options.epochs and epochs})
        self.network = learner.build(data.vocabulary, data).to(device)
        # The graph is that of all training data, so every held-out target has a positive count.
        popularity = torch.from_numpy(data.graph.popularity).to(device)
        sampler = Sampler.of(popularity, self.options.sample_alpha)
        self.objective = Objective(self.network, self.options, sampler)
        self.parallel: nn.Module = self.objective
        if processes.count > 1:
            self.parallel = DistributedDataParallel(self.objective)
        self.optimiser = make_optimiser(self.network, self.options)
        self.state = TrainingState(done=not self.options.epochs)
        self.last_good: tuple[Weights, int] | None = None
        """The last weights with a finite loss and gradient, and the number of epochs before them."""

    def run(self, report: Report) -> tuple[Network, list[Epoch]]:
        """Train the network. Returns it on the CPU in evaluation mode, and the history."""
        self._resume()
        self._validate_initial_weights()
        while not self.state.done:
            start = time.perf_counter()
            try:
                epoch = self._epoch(len(self.state.history))
            except NumericalError as error:
                error.last_good = self._last_good_result()
                raise
            self._record(epoch)
            report(epoch, time.perf_counter() - start)
            self._save()
        return self._result(self.state.best)

    def _result(self, weights: Weights | None) -> tuple[Network, list[Epoch]]:
        """The network with these weights, or its current ones, and the history."""
        if weights is not None:
            self.network.load_state_dict(weights)
        network = self.network.to("cpu").eval()
        self.learner.finish(network)
        return network, self.state.history

    def _last_good_result(self) -> tuple[Network, list[Epoch]] | None:
        """The result after a failure, with the best validated weights or the last good ones."""
        if self.state.best is not None and self.state.history:
            return self._result(self.state.best)
        weights, epochs = self.last_good or (None, 0)
        if not epochs:
            return None
        del self.state.history[epochs:]
        return self._result(weights)

    def _epoch(self, number: int) -> Epoch:
        """Run one epoch, a pass over all units in random order."""
        rate = learning_rate(self.options, number)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.network.train()
        self.network.begin_epoch(number)
        where = f"{self.learner.name}, epoch {number + 1}"
        totals = torch.zeros(2, device=self.device)
        largest_norm = torch.zeros((), device=self.device)
        first_batch = True
        for batch in self.batches.epoch(number, self.learner.seed, self.processes):
            loss, examples = self.parallel(batch.to(self.device))
            sums = self.processes.sum(torch.stack([loss.detach(), examples]))
            self.optimiser.zero_grad(set_to_none=True)
            # DDP averages gradients over processes, but the loss is the mean over all examples.
            (loss / (sums[1] / self.processes.count)).backward()
            norm = self._clip_gradient(sums[0], where)
            if first_batch:
                self.last_good, first_batch = (_copy(self.network), number), False
            self.optimiser.step()
            totals += sums
            largest_norm = torch.maximum(largest_norm, norm)
        for name, tensor in self.network.state_dict().items():
            if not torch.isfinite(tensor).all():
                raise NumericalError(
                    f"{where}: {name} must be finite, found NaN or infinity; lower learning_rate"
                )
        value = self._validate(number, where)
        return Epoch(number + 1, float(totals[0] / totals[1]), value, rate, float(largest_norm))

    def _clip_gradient(self, loss: Tensor, where: str) -> Tensor:
        """Clip the gradient, and return its norm before that."""
        gradients = {}
        for name, parameter in self.network.named_parameters():
            if parameter.grad is None:
                raise DagrecError(
                    f"{where}: every parameter must have a gradient in every batch, found none for "
                    f"{name}; the network must compute its states from it"
                )
            gradients[name] = parameter.grad
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients.values()]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        # The loss can overflow even if its gradient, a difference of probabilities, is finite.
        if not torch.isfinite(norm + loss):
            raise NumericalError(f"{where}: {_not_finite(gradients, loss)}; lower learning_rate")
        factor = (self.options.clip_norm / (norm + 1e-6)).clamp(max=1)
        for gradient in gradients.values():
            gradient.mul_(factor)
        return norm

    def _validate(self, number: int, where: str) -> float | None:
        """The validation metric on the held-out part, or None in an epoch without validation."""
        last = number + 1 == self.options.epochs
        if self.held_out is None or ((number + 1) % self.options.validate_every and not last):
            return None
        return self._value(self.held_out, where)

    def _validate_initial_weights(self) -> None:
        """Make prior weights the best ones so far, so that training must improve on them."""
        if self.held_out is None or not self.network.has_prior_weights or self.state.history:
            return
        self.state.best_value = self._value(self.held_out, f"{self.learner.name}, epoch 0")
        self.state.best = _copy(self.network)

    def _value(self, held_out: Batches, where: str) -> float:
        value = validation_value(self.objective, held_out, self.device)
        value = self.processes.broadcast(value, self.device)
        if not math.isfinite(value):
            raise NumericalError(
                f"{where}: the validation {self.options.validation_metric} must be finite, "
                f"found {value}; lower learning_rate"
            )
        return value

    def _record(self, epoch: Epoch) -> None:
        """Update the state after an epoch: history, best weights and whether training is done."""
        state, options = self.state, self.options
        state.history.append(epoch)
        state.done = epoch.epoch == options.epochs
        if epoch.validation is None or options.patience is None:
            return
        sign = 1 if options.validation_metric in LOWER_IS_BETTER else -1
        if state.best_value is None or sign * epoch.validation < sign * state.best_value:
            state.best_value, state.best_epoch = epoch.validation, epoch.epoch
            state.best = _copy(self.network)
        state.done |= epoch.epoch - state.best_epoch >= options.patience

    def _resume(self) -> None:
        """Restore the state of the checkpoint, if there is one."""
        if self.checkpoint is None:
            return
        restored = self.checkpoint.read(self.network, self.optimiser)
        readers = self.processes.sum(torch.tensor([float(restored is not None)], device=self.device))
        if 0 < readers < self.processes.count:
            raise DagrecError(
                f"{self.checkpoint.path}: all processes must find the checkpoint, found that "
                f"{int(readers)} of {self.processes.count} did; choose a folder that all of them share"
            )
        if restored is None:
            return
        self.state, generators = restored
        generator = generators[self.processes.rank]
        size = len(torch.get_rng_state())
        # Copies, because torch 2.13 reads the wrong memory for a view into a larger tensor.
        torch.set_rng_state(generator[:size].clone())
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(generator[size:].clone(), self.device)

    def _save(self) -> None:
        """Write a checkpoint if one is due."""
        if self.checkpoint is None:
            return
        due = self.checkpoint.due(self.state.done)
        if not self.processes.broadcast(float(due), self.device):
            return
        states = [torch.get_rng_state()]
        if self.device.type == "cuda":
            states.append(torch.cuda.get_rng_state(self.device))
        generators = self.processes.gather(torch.cat(states).to(self.device)).cpu()
        if self.processes.is_first:
            weights = self.network.state_dict()
            self.checkpoint.write(self.state, weights, self.optimiser, generators)


def make_optimiser(network: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    """Return the optimiser of the options, with their largest learning rate.

    adam (Kingma & Ba 2015) adds ``weight_decay`` to the gradient, and adamw (Loshchilov & Hutter 2019)
    decouples it from the gradient.
    """
    make = torch.optim.Adam if options.optimiser == "adam" else torch.optim.AdamW
    return make(network.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)


def validation_value(objective: Objective, part: Batches, device: torch.device) -> float:
    """Return the validation metric of a part, with the same negatives in every epoch."""
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
                # Without the check for finite scores, NaN would get the best rank.
                value = METRICS[metric](outcome) if outcome else math.nan
                total += value * float(size)
            examples += float(size)
    return total / examples


def _outcome(network: Network, batch: Batch) -> Outcome | None:
    """The predictions for the pairs of a batch, weighted by their counts.

    The training mask is applied if there is one. Returns None if a score is not finite.
    """
    scores = network(batch.inputs).float()
    if not torch.isfinite(scores).all():
        return None
    if batch.mask is not None:
        scores = scores.masked_fill(~batch.mask, -torch.inf)
    logs = torch.log_softmax(scores, dim=1)[batch.rows].cpu().numpy().astype(np.float64)
    weights = batch.counts.cpu().numpy().astype(np.float64)
    return Outcome(logs, batch.columns.cpu().numpy(), weights / weights.sum())


def _copy(network: nn.Module) -> Weights:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}


def _not_finite(gradients: dict[str, Tensor], loss: Tensor) -> str:
    if not torch.isfinite(loss):
        return f"the loss must be finite, found {loss.item()}"
    for name, gradient in gradients.items():
        if not torch.isfinite(gradient).all():
            return f"the gradient of {name} must be finite, found NaN or infinity"
    return "the norm of the gradient must be finite, found an overflow"
