"""The mask: the services that are allowed next, and the probabilities of a recommender under it.

Scores are masked here and nowhere else. With M the set of allowed services:

- ``observed``: M is the set of services that followed the frontier in training; p is the softmax of the
  scores over M;
- ``catalogue``: the same with the links that the user declared;
- ``soft``: observed successors share the probability 1 - u and all other services share u, each by a
  softmax within its group, where u is the unseen mass of the frontier (Good-Turing, see
  ``ServiceGraph.unseen_mass``);
- ``none``: p is the softmax over all services.

If the frontier is unknown, or no service ever followed it, M is empty. The mask then falls back to all
services, and the answer has ``mask_fallback`` set. A row is therefore never all -inf.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dagrec.data.vocabulary import UNKNOWN
from dagrec.errors import ConfigError
from dagrec.graph.service_graph import ServiceGraph
from dagrec.metrics.temperature import log_softmax
from dagrec.types import Floats, Ids, Mask, Scores

NO_CATALOGUE = (
    "mask 'catalogue' needs links that a user declared, found none; train with --catalogue FILE, or "
    "choose another mask"
)


class MaskPolicy(StrEnum):
    OBSERVED = "observed"
    CATALOGUE = "catalogue"
    SOFT = "soft"
    NONE = "none"


@dataclass(frozen=True)
class Masked:
    """Log-probabilities under a mask.

    log_probabilities: [B, C], -inf outside ``allowed``; allowed: [B, C]; unknown: [B], True if the
    frontier is an unknown node; terminal: [B], True if it is a known node without any successor.
    """

    log_probabilities: Floats
    allowed: Mask
    unknown: Mask
    terminal: Mask


def successor_mask(last: Ids, graph: ServiceGraph, policy: MaskPolicy) -> tuple[Mask, Mask]:
    """Return the allowed services of each frontier, and the rows for which the mask fell back.

    last: [B] node ids of the frontiers. Returns allowed [B, C] and fallback [B], which is True for rows
    in which all services are allowed because the frontier has no successor. Raises :class:`ConfigError`
    for ``catalogue`` without declared links.
    """
    links = graph.declared if policy is MaskPolicy.CATALOGUE else graph.observed
    if links is None:
        raise ConfigError(NO_CATALOGUE)
    allowed = np.zeros((len(last), len(graph.vocabulary.services)), dtype=np.bool_)
    fallback = np.zeros(len(last), dtype=np.bool_)
    for row, node in enumerate(last.tolist()):
        successors, _ = links.row(node)
        if len(successors):
            allowed[row, successors] = True
        else:
            allowed[row] = fallback[row] = True
    return allowed, fallback


def apply_mask(scores: Scores, last: Ids, graph: ServiceGraph, policy: MaskPolicy) -> Masked:
    """Return the log-probabilities of the services that may follow each frontier.

    scores: [B, C] unmasked; last: [B] node ids of the frontiers.
    """
    values = scores.astype(np.float64)
    successors, fallback = successor_mask(last, graph, _hard(policy))
    unknown = last <= UNKNOWN
    terminal = fallback & ~unknown
    if policy not in (MaskPolicy.NONE, MaskPolicy.SOFT):
        return Masked(log_softmax(values, successors), successors, unknown, terminal)
    all_allowed = np.ones_like(successors)
    if policy is MaskPolicy.NONE:
        return Masked(log_softmax(values), all_allowed, unknown, terminal)
    # There is one group only if the mask fell back or every service is a successor.
    unseen_mass = np.where(fallback | successors.all(axis=1), 0.0, graph.unseen_mass[last])[:, None]
    with np.errstate(divide="ignore"):
        log_group = np.where(successors, np.log1p(-unseen_mass), np.log(unseen_mass))
    log_within = np.where(successors, log_softmax(values, successors), log_softmax(values, ~successors))
    return Masked(log_group + log_within, all_allowed, unknown, terminal)


def competitors(last: Ids, targets: Ids, graph: ServiceGraph, policy: MaskPolicy) -> Mask:
    """Return [B, C], the services whose scores determine the probability of each target [B].

    These are the allowed services. Under the soft mask they are the group of the target: the observed
    successors of the frontier, or all other services.
    """
    if policy is MaskPolicy.NONE:
        return np.ones((len(last), len(graph.vocabulary.services)), dtype=np.bool_)
    successors, _ = successor_mask(last, graph, _hard(policy))
    if policy is not MaskPolicy.SOFT:
        return successors
    group: Mask = successors == successors[np.arange(len(targets)), targets][:, None]
    return group


def _hard(policy: MaskPolicy) -> MaskPolicy:
    """The policy whose links a policy uses: ``catalogue``, or ``observed`` for all others."""
    return MaskPolicy.CATALOGUE if policy is MaskPolicy.CATALOGUE else MaskPolicy.OBSERVED
