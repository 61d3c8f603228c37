"""Batches of units of training examples, in an order that depends on the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dagrec.errors import ConfigError
from dagrec.graph.mask import MaskPolicy, successor_mask
from dagrec.training.augmentation import augment, reorder
from dagrec.training.data import GroupedExamples, TrainingData
from dagrec.training.distributed import Processes
from dagrec.training.network import Learner, Units
from dagrec.types import Ids, Mask


class Batch(NamedTuple):
    """R contexts and their P pairs.

    inputs: the inputs of the network; rows: [P] context of each pair; columns: [P] target of each pair;
    counts: [P] number of examples with each pair; mask: [R, C] allowed services of each context, or
    None.
    """

    inputs: Any
    rows: Tensor
    columns: Tensor
    counts: Tensor
    mask: Tensor | None

    def to(self, device: torch.device) -> Batch:
        return self if device.type == "cpu" else Batch(*(_to_device(part, device) for part in self))


def _to_device(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, tuple):
        parts = [_to_device(part, device) for part in inputs]
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else tuple(parts)
    return inputs


@dataclass(frozen=True)
class Batches:
    """The pairs of training or validation data, prepared for one recommender."""

    learner: Learner
    data: TrainingData
    grouped: GroupedExamples
    units: Units
    allowed: Mask | None
    """[U, C] observed successors of the frontier of each context, or None without masked training."""

    @classmethod
    def of(cls, learner: Learner, data: TrainingData) -> Batches:
        grouped = data.grouped(learner.key)
        contexts = learner.read(grouped.contexts, data.vocabulary)
        grouped = GroupedExamples(contexts, grouped.starts, grouped.columns, grouped.counts)
        allowed = None
        if learner.config.mask_training:
            allowed, _ = successor_mask(contexts.last, data.graph, MaskPolicy.OBSERVED)
        # With augmentation, a context that is a prefix of another one needs a unit of its own.
        shared = learner.augmentation is None
        return cls(learner, data, grouped, learner.units(contexts, training=shared), allowed)

    def __len__(self) -> int:
        return len(self.units.sizes)

    def epoch(self, number: int, seed: int, processes: Processes) -> Iterator[Batch]:
        """Yield the batches of an epoch, counted from 0, or this process's share of each batch."""
        options = self.learner.config
        for name, size in (("units", len(self)), ("units in a batch", options.batch_size)):
            if size < processes.count:
                raise ConfigError(
                    f"{self.learner.name}: training on {processes.count} processes needs as many "
                    f"{name}, found {size}; use fewer processes"
                )
        rng = np.random.default_rng((seed % 2**64, number))
        units = self._augmented_units(rng)
        order = rng.permutation(len(self))
        cuts = list(range(options.batch_size, len(order), options.batch_size))
        if cuts and len(order) - cuts[-1] < processes.count:
            del cuts[-1]  # every process must have a share of the last batch
        for part in np.split(order, cuts):
            yield self.batch(part[processes.rank :: processes.count], units)

    def in_order(self, size: int) -> Iterator[Batch]:
        """Yield all units in order, ``size`` at a time and without augmentation."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))), self.units)

    def batch(self, units: Ids, layout: Units) -> Batch:
        """The batch of some units of ``layout``."""
        inputs, contexts = layout.take(units)
        rows, pairs = self.grouped.pairs_of(contexts)
        return Batch(
            inputs,
            torch.from_numpy(rows),
            torch.from_numpy(self.grouped.columns[pairs]),
            torch.from_numpy(self.grouped.counts[pairs].astype(np.float32)),
            None if self.allowed is None else torch.from_numpy(self.allowed[contexts]),
        )

    def _augmented_units(self, rng: np.random.Generator) -> Units:
        """The units of newly augmented contexts, or the stored ones without augmentation."""
        options = self.learner.augmentation
        if options is None:
            return self.units
        contexts = self.grouped.contexts
        if options.reorder:
            contexts = reorder(contexts, self.data.vocabulary, options.reorder, rng)
        return self.learner.units(augment(contexts, options, rng), training=False)
