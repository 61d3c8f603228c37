"""The training loop of every gradient-trained recommender."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

# The first optimiser of a process would import it: more than a second of set-up, timed as training.
import torch._dynamo
from torch import Tensor, nn

from dagrec.errors import ConfigError, NumericalError
from dagrec.graph.mask import MaskPolicy, successor_mask
from dagrec.models.base import Epoch, Optimisation
from dagrec.models.training_data import TrainingData
from dagrec.training.losses import bpr, count_cross_entropy
from dagrec.training.sampling import PopularitySampler
from dagrec.training.seed import seeded
from dagrec.types import Device


def choose_device(device: Device) -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one. Raises :class:`ConfigError`."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device 'cuda' needs a GPU that torch can use, found none; choose auto or cpu"
        )
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


def use_threads(threads: int) -> None:
    """How many threads torch takes for one operation, in this process."""
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Rows:
    """Distinct contexts with a count per target, as tensors on the device of training.

    nodes: [U, L]; lengths: [U]; counts: [U, C]; mask: [U, C] or None.
    """

    options: Optimisation
    sampler: PopularitySampler

    nodes: Tensor
    lengths: Tensor
    counts: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, data: TrainingData, options: Optimisation, device: torch.device) -> Rows:
        rows, services, counts = data.pairs
        dense = np.zeros((len(data.contexts), len(data.vocabulary.services)), dtype=np.float32)
        dense[rows, services] = counts
        mask = None
        if options.mask_training:
            allowed, _ = successor_mask(data.contexts.last, data.graph, MaskPolicy.OBSERVED)
            mask = torch.from_numpy(allowed).to(device)
        # Graph and vocabulary are those of all training data, so every held-out target has a count.
        popularity = torch.from_numpy(data.graph.popularity).to(device)
        return cls(
            options,
            PopularitySampler.of(popularity, options.sample_alpha),
            torch.from_numpy(data.contexts.nodes).to(device),
            torch.from_numpy(data.contexts.lengths).to(device),
            torch.from_numpy(dense).to(device),
            mask,
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def loss(self, network: nn.Module, part: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss of the contexts ``part``, and the number of examples in it."""
        counts = self.counts[part]
        lengths = self.lengths[part]
        nodes = self.nodes[part, : int(lengths.max())]
        mask = None if self.mask is None else self.mask[part]
        scores = network(nodes, lengths)
        if self.options.loss == "ce":
            return count_cross_entropy(scores, counts, mask), counts.sum()
        return self._bpr(scores, counts, mask), counts.sum()

    def _bpr(self, scores: Tensor, counts: Tensor, mask: Tensor | None) -> Tensor:
        """Each pair of the batch against negatives of its own; its own target is none of them."""
        row, target = counts.nonzero(as_tuple=True)  # [P], [P]
        drawn = self.sampler.draw(len(row), self.options.negatives)  # [P, K]
        valid = drawn != target[:, None]
        if mask is not None:
            valid &= mask[row].gather(1, drawn)
        return bpr(scores[row, target], scores[row].gather(1, drawn), counts[row, target], valid)


@dataclass(frozen=True)
class NetworkTrainer:
    """Adam on the mean loss of each batch, with clipped gradients and optional early stopping.

    ``progress`` is told (name, epochs done, epochs at most, loss) after every epoch.
    """

    device: Device = "auto"
    progress: Callable[[str, int, int, float], None] | None = None

    def train(
        self,
        build: Callable[[], nn.Module],
        data: TrainingData,
        options: Optimisation,
        *,
        name: str,
        seed: int,
    ) -> tuple[nn.Module, list[Epoch]]:
        """The trained network, on the CPU and in evaluation mode, and the history.

        With ``patience`` set, a validation part is held out of the data, and the weights of the
        epoch with the lowest validation loss are restored. Raises :class:`NumericalError` when the
        loss or a gradient is not finite.
        """
        device = choose_device(self.device)
        validation: Rows | None = None
        if options.patience is not None:
            data, held_out = data.hold_out(options.validation_share, seed)
            validation = Rows.of(held_out, options, device)
        rows = Rows.of(data, options, device)
        with seeded(seed, device):
            network = build().to(device)
            optimiser = torch.optim.Adam(network.parameters(), lr=options.learning_rate)
            history: list[Epoch] = []
            best_loss, best_epoch, best = float("inf"), 0, copy.deepcopy(network.state_dict())
            for epoch in range(1, options.epochs + 1):
                loss = _one_epoch(network, optimiser, rows, options, f"{name}, epoch {epoch}")
                held_out_loss = None if validation is None else _mean_loss(network, validation)
                if held_out_loss is not None and not math.isfinite(held_out_loss):
                    raise NumericalError(
                        f"{name}, epoch {epoch}: the validation loss must be finite, "
                        f"found {held_out_loss}; lower learning_rate"
                    )
                history.append(Epoch(epoch, loss, held_out_loss))
                if self.progress:
                    self.progress(name, epoch, options.epochs, loss)
                if held_out_loss is None or options.patience is None:
                    continue
                if held_out_loss < best_loss:
                    best_loss, best_epoch = held_out_loss, epoch
                    best = copy.deepcopy(network.state_dict())
                elif epoch - best_epoch >= options.patience:
                    break
            if validation is not None:
                network.load_state_dict(best)
        return network.to("cpu").eval(), history


def _one_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    rows: Rows,
    options: Optimisation,
    where: str,
) -> float:
    """One pass in random order; returns the mean loss of an example."""
    network.train()
    total = torch.zeros((), device=rows.counts.device)
    examples = torch.zeros((), device=rows.counts.device)
    for part in torch.randperm(len(rows)).to(rows.lengths.device).split(options.batch_size):
        loss, size = rows.loss(network, part)
        optimiser.zero_grad(set_to_none=True)
        (loss / size).backward()
        norm = nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
        # A loss can overflow while its gradient, a difference of probabilities, does not.
        if not torch.isfinite(norm + loss):
            raise NumericalError(f"{where}: {_not_finite(network, loss)}; lower learning_rate")
        optimiser.step()
        total += loss.detach()
        examples += size
    return float(total / examples)


def _not_finite(network: nn.Module, loss: Tensor) -> str:
    if not torch.isfinite(loss):
        return f"the loss must be finite, found {loss.item()}"
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name} must be finite, found NaN or infinity"
    return "the norm of the gradient must be finite, found an overflow"


def _mean_loss(network: nn.Module, rows: Rows) -> float:
    """Mean loss of an example; negatives are the same in every epoch, so that epochs compare."""
    network.eval()
    device = rows.lengths.device
    everything = torch.arange(len(rows), device=device)
    with seeded(0, device), torch.inference_mode():
        parts = [rows.loss(network, part) for part in everything.split(1024)]
    total = sum(float(loss) for loss, _ in parts)
    return total / sum(float(size) for _, size in parts)
