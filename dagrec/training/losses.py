"""Losses as pure functions of scores; the masks are arguments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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


def bpr(positive: Tensor, negatives: Tensor, weights: Tensor, valid: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009), summed over the rows.

        L = sum_p w_p mean_{j valid} -log sigmoid(s_p - s_j)

    positive: [P]; negatives: [P, K]; weights: [P]; valid: [P, K], False for negatives that do not
    count. A row without a valid negative adds 0. At a tie of all scores a row costs log 2.
    """
    # softplus(-x) is -log sigmoid(x), without overflow at either end.
    losses = functional.softplus(negatives - positive[:, None]) * valid
    return (weights * losses.sum(dim=1) / valid.sum(dim=1).clamp(min=1)).sum()
