"""Losses as pure functions of scores; the masks are arguments."""

from __future__ import annotations

import torch
from torch import Tensor


def count_cross_entropy(scores: Tensor, counts: Tensor, mask: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of target counts under the softmax of the scores, summed.

        L = - sum_b sum_y n[b, y] log softmax(s[b])[y]

    which is the cross-entropy summed over n.sum() single rows, in one pass over the distinct contexts.

    scores: [B, C]; counts: [B, C], not negative; mask: [B, C], True for the services over which the
    softmax runs. A target outside the mask has probability 0 whatever the scores are: its count is
    left out, since it has no gradient. A row without anything left adds 0.
    """
    if mask is not None:
        counts = counts * mask
        # The lowest finite number in place of -inf keeps gradients finite in rows that are all masked.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return -(counts * torch.log_softmax(scores, dim=1)).sum()
