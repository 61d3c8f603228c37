"""The training objective: the loss of a batch as a function of a network's parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dagrec.errors import ConfigError
from dagrec.training.batches import Batch
from dagrec.training.losses import LOSSES, CandidateScores, cross_entropy
from dagrec.training.network import Network
from dagrec.training.options import TrainingOptions
from dagrec.training.sampling import Draw, Sampler

CORRECTED_FOR_SAMPLING = ("gbce", "sampled-softmax")
"""Losses that depend on the probability with which each negative was drawn."""


class Objective(nn.Module):
    """A module from a batch to the sum of its losses and the number of its examples."""

    def __init__(self, network: Network, options: TrainingOptions, sampler: Sampler) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.sampler = sampler

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        states = self.network.states(batch.inputs)
        if self.options.loss == "ce":
            losses = cross_entropy(
                self.network.scores(states),
                batch.rows,
                batch.columns,
                mask=batch.mask,
                smoothing=self.options.label_smoothing,
            )
        else:
            losses = LOSSES[self.options.loss](self._candidates(states, batch), self.options)
        examples = batch.counts.sum()
        total = (losses * batch.counts).sum()
        penalty = self.network.penalty(batch.inputs, states, batch.rows, batch.columns)
        if penalty is not None:
            total = total + (penalty * batch.counts).sum()
        return total, examples

    def _candidates(self, states: Tensor, batch: Batch) -> CandidateScores:
        """The scores of each pair's target and of its negatives."""
        num_services = len(self.sampler.probabilities)
        rows, columns = batch.rows, batch.columns
        if self.options.negatives is None:
            scores = self.network.scores(states)
            others = scores[rows]
            valid = torch.ones_like(others, dtype=torch.bool).scatter_(1, columns[:, None], False)
            if batch.mask is not None:
                valid &= batch.mask[rows]
            return CandidateScores(scores[rows, columns], others, valid, None, num_services)
        draw = self._draw(columns, self.options.negatives)
        hard = self.network.hard_negatives(batch.inputs)
        if hard is not None:
            draw = self._with_hard(draw, hard, batch)
        valid = draw.valid
        if batch.mask is not None:
            valid = valid & batch.mask[rows].gather(1, draw.columns)
        if self.options.sampling == "rows" or hard is not None:
            # The draws of all pairs together cover most services, so it is faster to score all.
            scores = self.network.scores(states)
            positive, others = scores[rows, columns], scores[rows[:, None], draw.columns]
        else:
            size = draw.columns.shape[1]
            shared, index = torch.unique(torch.cat([draw.columns[0], columns]), return_inverse=True)
            scores = self.network.scores(states, shared)
            positive, others = scores[rows, index[size:]], scores[rows][:, index[:size]]
        return CandidateScores(positive, others, valid, draw.log_expected, num_services)

    def _with_hard(self, draw: Draw, hard: Tensor, batch: Batch) -> Draw:
        """Append the hard negatives [R, n] of each pair's context to a draw.

        Hard negatives are not drawn at random, so they have no expected number of occurrences.
        """
        if self.options.loss in CORRECTED_FOR_SAMPLING:
            raise ConfigError(
                f"loss {self.options.loss!r} is corrected by the probability of its negatives, and "
                "hard negatives have none: choose another loss, or no hard negatives"
            )
        hard = hard[batch.rows]
        valid = (hard >= 0) & (hard != batch.columns[:, None])
        return Draw(
            torch.cat([draw.columns, hard.clamp(min=0)], dim=1),
            torch.cat([draw.valid, valid], dim=1),
            torch.cat([draw.log_expected, torch.zeros_like(hard, dtype=torch.float32)], dim=1),
        )

    def _draw(self, targets: Tensor, size: int) -> Draw:
        if self.options.sampling == "rows":
            return self.sampler.draw(targets, size)
        return self.sampler.draw_shared(targets, size, in_batch=self.options.sampling == "batch")
