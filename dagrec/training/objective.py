"""The loss of a batch, as a function of a network's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dagrec.errors import ConfigError
from dagrec.models.network import Network
from dagrec.models.optimisation import Optimisation
from dagrec.training.batches import Batch
from dagrec.training.losses import LOSSES, Candidates, cross_entropy, harden
from dagrec.training.sampling import Draw, Sampler

BY_PROBABILITY = ("gbce", "sampled-softmax")
"""Losses that are corrected by how negatives were drawn."""


class Objective(nn.Module):
    """Batch -> summed loss, and the number of examples in it.

    ``hard_share`` is the share of drawn negatives that count, for the curriculum by hardness.
    """

    def __init__(self, network: Network, options: Optimisation, sampler: Sampler) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.sampler = sampler
        self.hard_share = 1.0

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        device = batch.rows.device.type
        bf16 = self.options.precision == "bf16"
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            states = self.network.states(batch.inputs)
            if self.options.loss == "ce":
                losses = cross_entropy(
                    self.network.scores(states).float(),
                    batch.rows,
                    batch.columns,
                    mask=batch.mask,
                    smoothing=self.options.label_smoothing,
                )
            else:
                candidates = self._candidates(states, batch)
                if self.hard_share < 1:
                    candidates = harden(candidates, self.hard_share)
                losses = LOSSES[self.options.loss](candidates, self.options)
        examples = batch.counts.sum()
        total = (losses * batch.counts).sum()
        penalty = self.network.penalty(batch.inputs, states, batch.rows, batch.columns)
        if penalty is not None:
            total = total + (penalty * batch.counts).sum()
        return total, examples

    def _candidates(self, states: Tensor, batch: Batch) -> Candidates:
        """Each pair's target and its negatives."""
        catalogue = len(self.sampler.probabilities)
        rows, columns = batch.rows, batch.columns
        if self.options.negatives is None:
            scores = self.network.scores(states).float()
            others = scores[rows]
            valid = torch.ones_like(others, dtype=torch.bool)
            valid[batch.excluded.rows, batch.excluded.columns] = False
            if batch.mask is not None:
                valid &= batch.mask[rows]
            return Candidates(scores[rows, columns], others, valid, None, catalogue)
        draw = self._draw(batch)
        hard = self.network.hard_negatives(batch.inputs)
        if hard is not None:
            draw = self._with_hard(draw, hard, batch)
        valid = draw.valid
        if batch.mask is not None:
            valid = valid & batch.mask[rows].gather(1, draw.columns)
        if self.options.sampling == "rows" or hard is not None:
            # The draws of so many pairs cover the catalogue: all scores at once cost less.
            scores = self.network.scores(states).float()
            positive, others = scores[rows, columns], scores[rows[:, None], draw.columns]
        else:
            size = draw.columns.shape[1]
            shared, place = torch.unique(torch.cat([draw.columns[0], columns]), return_inverse=True)
            scores = self.network.scores(states, shared).float()
            positive, others = scores[rows, place[size:]], scores[rows][:, place[:size]]
        return Candidates(positive, others, valid, draw.log_expected, catalogue)

    def _with_hard(self, draw: Draw, hard: Tensor, batch: Batch) -> Draw:
        """The draw, and behind it the hard negatives [R, n] of each pair's context.

        They are chosen and not drawn, so no number says how often they are expected.
        """
        if self.options.loss in BY_PROBABILITY:
            raise ConfigError(
                f"loss {self.options.loss!r} is corrected by the probability of its negatives, and "
                "hard ones are found without any: choose another loss, or no hard negatives"
            )
        own = hard[batch.rows]
        valid = (own >= 0) & (own != batch.columns[:, None])
        return Draw(
            torch.cat([draw.columns, own.clamp(min=0)], dim=1),
            torch.cat([draw.valid, valid], dim=1),
            torch.cat([draw.log_expected, torch.zeros_like(own, dtype=torch.float32)], dim=1),
        )

    def _draw(self, batch: Batch) -> Draw:
        size = self.options.negatives
        assert size is not None
        if self.options.sampling == "rows":
            return self.sampler.draw(len(batch.rows), size, batch.excluded)
        targets = batch.columns if self.options.sampling == "batch" else None
        return self.sampler.draw_shared(len(batch.rows), size, batch.excluded, batch=targets)
