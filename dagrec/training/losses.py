"""Losses as pure functions of scores: one number for each pair (context, target), to be weighted.

:func:`cross_entropy` sees the scores of all services. Every other loss sees the score of the target,
s_p, and those of its negatives, s_j: a :class:`CandidateScores`. Of those a pair counts the k that are
valid, and one that has none costs 0 without a gradient: nothing is learned where nothing competes.
:data:`LOSSES` names them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dagrec.training.options import TrainingOptions

GBCE_T = 0.75
"""Calibration t of gBCE, the default of its authors; 0 is bce."""
SCORE_PENALTY, ELU = 1.0, 0.5
"""BPR-max: weight of the squared scores, and the bound -ELU below which no score falls."""
INFONCE_TEMPERATURE = 0.1


class CandidateScores(NamedTuple):
    """The scores that compete in each of P pairs, with up to K negatives.

    positive: [P]; others: [P, K]; valid: [P, K], False for negatives that do not count, whatever their
    score; log_expected: [P, K], logarithm of how often each of these draws is expected to occur, or
    None where the negatives are all other services; catalogue: number C of services.
    """

    positive: Tensor
    others: Tensor
    valid: Tensor
    log_expected: Tensor | None
    catalogue: int


def cross_entropy(
    scores: Tensor, rows: Tensor, targets: Tensor, *, mask: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Negative log-likelihood of each target under the softmax P of its row over the mask M: [P].

        L = -(1 - e) log P(target) - e / |M| sum_{y in M} log P(y),   e = smoothing

    scores: [R, C]; rows, targets: [P], columns of scores included; mask: [R, C], True for the services
    over which the softmax runs. A target outside the mask has probability 0 whatever the scores are: it
    costs 0, without a gradient. Smoothing stays inside the mask, since -log P has no bound outside; a
    mask of one service leaves it no room, and costs 0. Its least value is the entropy of the smoothed
    target.
    """
    if mask is not None:
        # The lowest finite number in place of -inf keeps gradients finite in rows that are all masked.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    log_shares = torch.log_softmax(scores, dim=1)  # once a row, however many targets it has
    losses = -log_shares[rows, targets]
    if smoothing > 0:
        if mask is None:
            spread = -log_shares.mean(dim=1)
        else:
            spread = -log_shares.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        losses = (1 - smoothing) * losses + smoothing * spread[rows]
    return losses if mask is None else torch.where(mask[rows, targets], losses, 0)


def bce(candidates: CandidateScores) -> Tensor:
    """Binary cross-entropy, as a mean over the target and its negatives: [P].

        L = 1 / (k + 1) [softplus(-s_p) + sum_j softplus(s_j)]

    The mean, as in gSASRec, which keeps the size of a step the same for every k; SASRec sums. Its best
    scores are log-odds less log(k times how often one draw hits the service): not probabilities.
    """
    return gbce(candidates, t=0)


def gbce(candidates: CandidateScores, *, t: float) -> Tensor:
    """Generalised binary cross-entropy (Petrov and Macdonald 2023): [P].

        L = 1 / (k + 1) [beta softplus(-s_p) + sum_j softplus(s_j)]
        beta = a (t (1 - 1/a) + 1/a) = 1 - t (1 - a),   a = k / (C - 1)

    t = 0 is :func:`bce`; t = 1 undoes what drawing only a share a of the other services does to the
    best scores. Draws that recur can be more than there are services: a is at most 1.
    """
    k = candidates.valid.sum(dim=1)
    share = (k.to(candidates.others.dtype) / max(candidates.catalogue - 1, 1)).clamp(max=1)
    beta = 1 - t * (1 - share)
    others = _softplus(_filled(candidates)) * candidates.valid
    total = beta * _softplus(-candidates.positive) + others.sum(dim=1)
    return _where_any(candidates, total / (k + 1))


def bpr(candidates: CandidateScores) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): [P].

        L = 1 / k sum_j -log sigmoid(s_p - s_j)

    log 2 at a tie. This is not BPR-max, by whose name it goes in some programs.
    """
    return _mean(candidates, _softplus(_gaps(candidates)))


def bpr_max(candidates: CandidateScores, *, score_penalty: float, elu: float) -> Tensor:
    """BPR-max (Hidasi and Karatzoglou 2018), the loss of GRU4Rec: [P].

        L = -log sum_j w_j sigmoid(s_p - s_j) + score_penalty sum_j w_j s_j^2
        w = softmax of the scores of the negatives alone

    With elu > 0 all scores pass ELU(s) = max(s, elu (exp(min(s, 0)) - 1)) first, as in the authors'
    program. With one negative and neither of the two it is :func:`bpr`. The gradient of a weak negative
    may be below 0. The sum is one of logarithms, so it needs no small constant against log 0.
    """
    positive, others = candidates.positive, _filled(candidates)
    if elu > 0:
        positive, others = functional.elu(positive, elu), functional.elu(others, elu)
    log_weights = torch.log_softmax(_barred(others, candidates.valid), dim=1)
    agreement = functional.logsigmoid(positive[:, None] - others)
    penalty = (log_weights.exp() * others.square()).sum(dim=1)
    losses = score_penalty * penalty - torch.logsumexp(log_weights + agreement, dim=1)
    return _where_any(candidates, losses)


def top1(candidates: CandidateScores) -> Tensor:
    """TOP1 (Hidasi et al. 2016), a bounded loss that pulls the negatives towards 0: [P].

    L = 1 / k sum_j [sigmoid(s_j - s_p) + sigmoid(s_j^2)]
    """
    return _mean(candidates, _top1_terms(candidates))


def top1_max(candidates: CandidateScores) -> Tensor:
    """TOP1-max (Hidasi and Karatzoglou 2018): [P].

    L = sum_j w_j [sigmoid(s_j - s_p) + sigmoid(s_j^2)],   w = softmax of the negatives' scores
    """
    weights = torch.softmax(_barred(candidates.others, candidates.valid), dim=1)
    return _where_any(candidates, (weights * _top1_terms(candidates)).sum(dim=1))


def hinge(candidates: CandidateScores, *, margin: float) -> Tensor:
    """Max-margin, L = 1 / k sum_j max(0, margin - s_p + s_j): [P]. 0 where the target leads by it."""
    return _mean(candidates, functional.relu(margin + _gaps(candidates)))


def infonce(candidates: CandidateScores, *, temperature: float) -> Tensor:
    """InfoNCE (van den Oord et al. 2018), with negatives as they come, uncorrected: [P].

        L = -s_p / T + log(exp(s_p / T) + sum_j exp(s_j / T)),   T = temperature

    log(k + 1) at a tie.
    """
    return _against(candidates, (candidates.others - candidates.positive[:, None]) / temperature)


def sampled_softmax(candidates: CandidateScores) -> Tensor:
    """Cross-entropy over all services, estimated from draws (Bengio and Senecal 2008): [P].

        L = -s_p + log(exp(s_p) + sum_j exp(s_j - log n_j)),   n_j = expected occurrences of the draw

    The sum is right on average over the draws; its logarithm is too low, by O(1/k). The target is
    there for certain, so its score is exact, and draws that hit it must not be valid.
    """
    gaps = candidates.others - candidates.positive[:, None]
    if candidates.log_expected is not None:
        gaps = gaps - candidates.log_expected
    return _against(candidates, gaps)


LOSSES: dict[str, Callable[[CandidateScores, TrainingOptions], Tensor]] = {
    "bce": lambda candidates, _: bce(candidates),
    "gbce": lambda candidates, _: gbce(candidates, t=GBCE_T),
    "bpr": lambda candidates, _: bpr(candidates),
    "bpr-max": lambda candidates, _: bpr_max(candidates, score_penalty=SCORE_PENALTY, elu=ELU),
    "top1": lambda candidates, _: top1(candidates),
    "top1-max": lambda candidates, _: top1_max(candidates),
    "hinge": lambda candidates, options: hinge(candidates, margin=options.margin),
    "infonce": lambda candidates, _: infonce(candidates, temperature=INFONCE_TEMPERATURE),
    "sampled-softmax": lambda candidates, _: sampled_softmax(candidates),
}
"""Name of a loss with negatives -> the loss, with its hyperparameters from the options."""


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without overflow and without the linear part of torch's own."""
    return -functional.logsigmoid(-x)


def _filled(candidates: CandidateScores) -> Tensor:
    """The negatives' scores, 0 in place of those not valid, which therefore have no gradient."""
    return candidates.others.masked_fill(~candidates.valid, 0)


def _barred(scores: Tensor, valid: Tensor) -> Tensor:
    """Scores for a softmax over the valid ones; finite, so that a row without any has a gradient."""
    return scores.masked_fill(~valid, torch.finfo(scores.dtype).min)


def _gaps(candidates: CandidateScores) -> Tensor:
    """By how much each negative leads its target: [P, K]."""
    return _filled(candidates) - candidates.positive[:, None]


def _top1_terms(candidates: CandidateScores) -> Tensor:
    return torch.sigmoid(_gaps(candidates)) + torch.sigmoid(_filled(candidates).square())


def _mean(candidates: CandidateScores, terms: Tensor) -> Tensor:
    """Mean over the valid negatives, 0 of none."""
    return (terms * candidates.valid).sum(dim=1) / candidates.valid.sum(dim=1).clamp(min=1)


def _where_any(candidates: CandidateScores, losses: Tensor) -> Tensor:
    return torch.where(candidates.valid.any(dim=1), losses, 0)


def _against(candidates: CandidateScores, gaps: Tensor) -> Tensor:
    """-log of the target's share in a softmax with the valid negatives: log(1 + sum_j exp(gap_j))."""
    return _softplus(torch.logsumexp(_barred(gaps, candidates.valid), dim=1))
