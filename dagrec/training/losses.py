"""Losses as pure functions of scores, with one value for each (context, target) pair.

:func:`cross_entropy` uses the scores of all services. All other losses, see :data:`LOSSES`, use the
score s_p of the target and the scores s_j of k valid negatives (:class:`CandidateScores`). A pair
without valid negatives has loss 0 and no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from dagrec.training.options import TrainingOptions

GBCE_T = 0.75
"""The calibration parameter t of gBCE, as in the paper; 0 gives bce."""
SCORE_PENALTY, ELU = 1.0, 0.5
"""BPR-max: the weight of the score regularisation, and the parameter of the ELU applied to scores."""
INFONCE_TEMPERATURE = 0.1


class CandidateScores(NamedTuple):
    """The scores of the targets of P pairs and of up to K negatives each.

    positive: [P] scores of the targets; others: [P, K] scores of the negatives; valid: [P, K], False
    for negatives that are ignored; log_expected: [P, K] logarithm of the expected number of occurrences
    of each negative among the draws, or None if the negatives are all other services; num_services:
    number C of services.
    """

    positive: Tensor
    others: Tensor
    valid: Tensor
    log_expected: Tensor | None
    num_services: int


def cross_entropy(
    scores: Tensor, rows: Tensor, targets: Tensor, *, mask: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Return the negative log-likelihood of each target under the softmax of its row: [P].

        L = -(1 - e) log P(target) - e / |M| sum_{y in M} log P(y),   e = smoothing

    scores: [R, C]; rows, targets: [P] row and column of the target of each pair; mask: [R, C], True for
    the services M over which the softmax P is taken, by default all. A target outside the mask has
    probability 0 for all scores, so its loss is 0 without a gradient. Smoothing is restricted to the
    mask, because -log P is infinite outside. With a single service in the mask the loss is 0. The
    minimum is the entropy of the smoothed target distribution.
    """
    if mask is not None:
        # The smallest finite number instead of -inf keeps the gradient of fully masked rows finite.
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    log_p = torch.log_softmax(scores, dim=1)  # once per row, not per pair
    losses = -log_p[rows, targets]
    if smoothing > 0:
        if mask is None:
            uniform = -log_p.mean(dim=1)
        else:
            uniform = -log_p.masked_fill(~mask, 0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        losses = (1 - smoothing) * losses + smoothing * uniform[rows]
    return losses if mask is None else torch.where(mask[rows, targets], losses, 0)


def bce(candidates: CandidateScores) -> Tensor:
    """Return the binary cross-entropy, the mean over the target and its negatives: [P].

        L = 1 / (k + 1) [softplus(-s_p) + sum_j softplus(s_j)]

    The mean, as in gSASRec, makes the size of the gradient independent of k; SASRec uses the sum. At
    the minimum, a score is the log-odds of the service minus log(k q), where q is its probability of
    being drawn, so scores are not calibrated.
    """
    return gbce(candidates, t=0)


def gbce(candidates: CandidateScores, *, t: float) -> Tensor:
    """Return the generalised binary cross-entropy (Petrov and Macdonald 2023): [P].

        L = 1 / (k + 1) [beta softplus(-s_p) + sum_j softplus(s_j)]
        beta = a (t (1 - 1/a) + 1/a) = 1 - t (1 - a),   a = k / (C - 1)

    t = 0 is :func:`bce`, and t = 1 corrects the scores fully for drawing only a share a of the other
    services. a is at most 1, even if there are more draws, with repetitions, than services.
    """
    k = candidates.valid.sum(dim=1)
    share = (k.to(candidates.others.dtype) / max(candidates.num_services - 1, 1)).clamp(max=1)
    beta = 1 - t * (1 - share)
    others = _softplus(_filled(candidates)) * candidates.valid
    total = beta * _softplus(-candidates.positive) + others.sum(dim=1)
    return _where_any(candidates, total / (k + 1))


def bpr(candidates: CandidateScores) -> Tensor:
    """Return the loss of Bayesian personalised ranking (Rendle et al. 2009): [P].

        L = 1 / k sum_j -log sigmoid(s_p - s_j)

    The loss of equal scores is log 2. Some implementations call this loss BPR-max.
    """
    return _mean(candidates, _softplus(_gaps(candidates)))


def bpr_max(candidates: CandidateScores, *, score_penalty: float, elu: float) -> Tensor:
    """Return BPR-max (Hidasi and Karatzoglou 2018), the loss of GRU4Rec: [P].

        L = -log sum_j w_j sigmoid(s_p - s_j) + score_penalty sum_j w_j s_j^2
        w = softmax of the scores of the negatives

    If elu > 0, ELU(s) = max(s, elu (exp(min(s, 0)) - 1)) is applied to all scores first, as in the
    authors' code. With one negative, score_penalty = 0 and elu = 0 it is :func:`bpr`. The gradient of a
    negative with a low score can be negative. The sum is computed with logsumexp, so it needs no small
    constant to avoid log 0.
    """
    positive, others = candidates.positive, _filled(candidates)
    if elu > 0:
        positive, others = functional.elu(positive, elu), functional.elu(others, elu)
    log_weights = torch.log_softmax(_barred(others, candidates.valid), dim=1)
    log_sigmoid = functional.logsigmoid(positive[:, None] - others)
    penalty = (log_weights.exp() * others.square()).sum(dim=1)
    losses = score_penalty * penalty - torch.logsumexp(log_weights + log_sigmoid, dim=1)
    return _where_any(candidates, losses)


def top1(candidates: CandidateScores) -> Tensor:
    """Return TOP1 (Hidasi et al. 2016), a bounded loss that also regularises the negatives: [P].

    L = 1 / k sum_j [sigmoid(s_j - s_p) + sigmoid(s_j^2)]
    """
    return _mean(candidates, _top1_terms(candidates))


def top1_max(candidates: CandidateScores) -> Tensor:
    """Return TOP1-max (Hidasi and Karatzoglou 2018): [P].

    L = sum_j w_j [sigmoid(s_j - s_p) + sigmoid(s_j^2)],   w = softmax of the negatives' scores
    """
    weights = torch.softmax(_barred(candidates.others, candidates.valid), dim=1)
    return _where_any(candidates, (weights * _top1_terms(candidates)).sum(dim=1))


def hinge(candidates: CandidateScores, *, margin: float) -> Tensor:
    """Return the max-margin loss, L = 1 / k sum_j max(0, margin - s_p + s_j): [P]."""
    return _mean(candidates, functional.relu(margin + _gaps(candidates)))


def infonce(candidates: CandidateScores, *, temperature: float) -> Tensor:
    """Return InfoNCE (van den Oord et al. 2018), without a correction for sampling: [P].

        L = -s_p / T + log(exp(s_p / T) + sum_j exp(s_j / T)),   T = temperature

    The loss of equal scores is log(k + 1).
    """
    return _softmax_loss(candidates, (candidates.others - candidates.positive[:, None]) / temperature)


def sampled_softmax(candidates: CandidateScores) -> Tensor:
    """Return the cross-entropy over all services, estimated from draws (Bengio and Senecal 2008): [P].

        L = -s_p + log(exp(s_p) + sum_j exp(s_j - log n_j)),   n_j = expected occurrences of the draw

    The estimate of the sum is unbiased, and that of its logarithm is too low by O(1/k). The target's
    score is included exactly, so draws of the target must not be valid.
    """
    gaps = candidates.others - candidates.positive[:, None]
    if candidates.log_expected is not None:
        gaps = gaps - candidates.log_expected
    return _softmax_loss(candidates, gaps)


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
"""The losses with negatives by name. Each takes its hyperparameters from the options."""


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), without overflow and, unlike torch's own, without a linear approximation."""
    return -functional.logsigmoid(-x)


def _filled(candidates: CandidateScores) -> Tensor:
    """The scores of the negatives; 0, without a gradient, for those that are not valid."""
    return candidates.others.masked_fill(~candidates.valid, 0)


def _barred(scores: Tensor, valid: Tensor) -> Tensor:
    """Scores for a softmax over the valid ones. They are finite, so that all gradients are finite."""
    return scores.masked_fill(~valid, torch.finfo(scores.dtype).min)


def _gaps(candidates: CandidateScores) -> Tensor:
    """s_j - s_p: [P, K]."""
    return _filled(candidates) - candidates.positive[:, None]


def _top1_terms(candidates: CandidateScores) -> Tensor:
    return torch.sigmoid(_gaps(candidates)) + torch.sigmoid(_filled(candidates).square())


def _mean(candidates: CandidateScores, terms: Tensor) -> Tensor:
    """The mean over the valid negatives; 0 if there are none."""
    return (terms * candidates.valid).sum(dim=1) / candidates.valid.sum(dim=1).clamp(min=1)


def _where_any(candidates: CandidateScores, losses: Tensor) -> Tensor:
    return torch.where(candidates.valid.any(dim=1), losses, 0)


def _softmax_loss(candidates: CandidateScores, gaps: Tensor) -> Tensor:
    """The negative log-softmax of the target among the valid negatives: log(1 + sum_j exp(gap_j))."""
    return _softplus(torch.logsumexp(_barred(gaps, candidates.valid), dim=1))
