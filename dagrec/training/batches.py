"""Training examples as batches of units, in an order that the seed and the epoch decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dagrec.errors import ConfigError
from dagrec.graph.mask import MaskPolicy, successor_mask
from dagrec.models.network import NetworkRecommender, Units
from dagrec.models.training_data import Grouped, TrainingData
from dagrec.training.augment import augment, reordered
from dagrec.training.distributed import Processes
from dagrec.training.sampling import Excluded
from dagrec.training.schedule import curriculum_share
from dagrec.types import Ids, Mask


class Batch(NamedTuple):
    """R contexts and the P pairs of them.

    inputs: what the network reads; rows: [P] context of each pair; columns: [P] target; counts: [P]
    examples that have it; excluded: what may not be a negative of which pair; mask: [R, C] or None.
    """

    inputs: Any
    rows: Tensor
    columns: Tensor
    counts: Tensor
    excluded: Excluded
    mask: Tensor | None

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        excluded = Excluded(*(tensor.to(device) for tensor in self.excluded))
        return Batch(
            _moved(self.inputs, device),
            self.rows.to(device),
            self.columns.to(device),
            self.counts.to(device),
            excluded,
            None if self.mask is None else self.mask.to(device),
        )


def _moved(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, tuple):
        parts = [_moved(part, device) for part in inputs]
        return type(inputs)(*parts) if hasattr(inputs, "_fields") else tuple(parts)
    return inputs


@dataclass(frozen=True)
class Batches:
    """The pairs of one part of the data, laid out for one recommender."""

    learner: NetworkRecommender
    data: TrainingData
    grouped: Grouped
    units: Units
    allowed: Mask | None
    """[U, C] observed successors of each context's frontier, where training is masked."""

    @classmethod
    def of(cls, learner: NetworkRecommender, data: TrainingData) -> Batches:
        grouped = data.grouped(learner.key)
        contexts = learner.read(grouped.contexts, data.vocabulary)
        grouped = Grouped(contexts, grouped.starts, grouped.columns, grouped.counts)
        allowed = None
        if learner.config.mask_training:
            allowed, _ = successor_mask(contexts.last, data.graph, MaskPolicy.OBSERVED)
        # Where contexts are varied, one that is the beginning of another is varied by itself.
        shared = learner.augmentation is None
        return cls(learner, data, grouped, learner.units(contexts, training=shared), allowed)

    def __len__(self) -> int:
        return len(self.units.sizes)

    def epoch(self, number: int, seed: int, processes: Processes) -> Iterator[Batch]:
        """The batches of an epoch (counted from 0), or this process's share of each."""
        options = self.learner.config
        for name, size in (("units", len(self)), ("units in a batch", options.batch_size)):
            if size < processes.count:
                raise ConfigError(
                    f"{self.learner.name}: training on {processes.count} processes needs as many "
                    f"{name}, found {size}; use fewer processes"
                )
        rng = np.random.default_rng((seed % 2**64, number))
        units = self._varied(rng)
        share = curriculum_share(options, number)
        order = np.arange(len(self))
        if share < 1:
            most = max(processes.count, round(share * len(self)))
            order = np.argsort(self.units.sizes, kind="stable")[:most]
        order = rng.permutation(order)
        cuts = list(range(options.batch_size, len(order), options.batch_size))
        if cuts and len(order) - cuts[-1] < processes.count:
            del cuts[-1]  # every process needs a share of the last batch
        for part in np.split(order, cuts):
            yield self.batch(part[processes.rank :: processes.count], units)

    def in_order(self, size: int) -> Iterator[Batch]:
        """All units as they are, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(np.arange(start, min(start + size, len(self))), self.units)

    def batch(self, units: Ids, layout: Units) -> Batch:
        inputs, answered = layout.take(units)
        rows, pairs = self.grouped.pairs_of(answered)
        columns = self.grouped.columns[pairs]
        if self.learner.config.exclude == "successors":
            # Pairs of one context are neighbours: each excludes the columns of all of them.
            of_pair, others = self.grouped.pairs_of(answered[rows])
            excluded = (of_pair, self.grouped.columns[others])
        else:
            excluded = (np.arange(len(pairs)), columns)
        return Batch(
            inputs,
            torch.from_numpy(rows),
            torch.from_numpy(columns),
            torch.from_numpy(self.grouped.counts[pairs].astype(np.float32)),
            Excluded(*(torch.from_numpy(array) for array in excluded)),
            None if self.allowed is None else torch.from_numpy(self.allowed[answered]),
        )

    def _varied(self, rng: np.random.Generator) -> Units:
        """The units, or those of contexts that are augmented anew."""
        how = self.learner.augmentation
        if how is None:
            return self.units
        contexts = self.grouped.contexts
        if how.reorder:
            contexts = reordered(contexts, self.data.vocabulary, how.reorder, rng)
        return self.learner.units(augment(contexts, how, rng), training=False)
