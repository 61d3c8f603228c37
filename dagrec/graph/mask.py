"""The mask: which services may come next, and what that makes of a recommender's scores.

This is the only place where scores are masked. With M the services that may follow:

- ``observed``: M is what followed the frontier node in training; p = softmax of the scores over M;
- ``catalogue``: the same with the links that the user declared;
- ``soft``: seen successors share 1 - u and all others u, each by softmax among themselves, where u is
  the node's unseen mass (Good-Turing, see ``ServiceGraph.unseen_mass``);
- ``none``: softmax over all services.

A node that is unknown, or that nothing ever followed, leaves M empty: then every service may follow,
and the answer says so (``mask_fallback``). A row is never all -inf.
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
    """Scores after the mask.

    log_probabilities: [B, C], -inf outside ``allowed``; allowed: [B, C]; unknown, terminal: [B].
    """

    log_probabilities: Floats
    allowed: Mask
    unknown: Mask
    terminal: Mask


def successor_mask(last: Ids, graph: ServiceGraph, policy: MaskPolicy) -> tuple[Mask, Mask]:
    """Which services may follow each frontier node, and for which rows the mask fell back.

    last: [B] node ids. Returns allowed [B, C], and fallback [B]: True where no service may follow, so
    that all are allowed.
    Raises :class:`ConfigError` for ``catalogue`` without declared links.
    """
    links = graph.declared if policy is MaskPolicy.CATALOGUE else graph.observed
    if links is None:
        raise ConfigError(NO_CATALOGUE)
    allowed = np.zeros((len(last), len(graph.vocabulary.services)), dtype=np.bool_)
    fallback = np.zeros(len(last), dtype=np.bool_)
    for row, node in enumerate(last.tolist()):
        followers, _ = links.row(node)
        if len(followers):
            allowed[row, followers] = True
        else:
            allowed[row] = fallback[row] = True
    return allowed, fallback


def apply_mask(scores: Scores, last: Ids, graph: ServiceGraph, policy: MaskPolicy) -> Masked:
    """Log-probabilities of the services that may follow each frontier node.

    scores: [B, C] unmasked; last: [B] node ids of the frontiers.
    """
    values = scores.astype(np.float64)
    hard = MaskPolicy.CATALOGUE if policy is MaskPolicy.CATALOGUE else MaskPolicy.OBSERVED
    seen, fallback = successor_mask(last, graph, hard)
    unknown = last <= UNKNOWN
    terminal = fallback & ~unknown
    if policy not in (MaskPolicy.NONE, MaskPolicy.SOFT):
        return Masked(log_softmax(values, seen), seen, unknown, terminal)
    everything = np.ones_like(seen)
    if policy is MaskPolicy.NONE:
        return Masked(log_softmax(values), everything, unknown, terminal)
    # Where the mask fell back, or every service was seen, there is no mass to divide.
    mass = np.where(fallback | seen.all(axis=1), 0.0, graph.unseen_mass[last])[:, None]
    with np.errstate(divide="ignore"):
        share = np.where(seen, np.log1p(-mass), np.log(mass))
    within = np.where(seen, log_softmax(values, seen), log_softmax(values, ~seen))
    return Masked(share + within, everything, unknown, terminal)


def competitors(last: Ids, targets: Ids, graph: ServiceGraph, policy: MaskPolicy) -> Mask:
    """[B, C] the services among which the scores decide how probable each target [B] is.

    Those that the mask lets through; under the soft one, the seen successors for a target that is one
    of them, and all others for another target.
    """
    if policy is MaskPolicy.NONE:
        return np.ones((len(last), len(graph.vocabulary.services)), dtype=np.bool_)
    hard = MaskPolicy.CATALOGUE if policy is MaskPolicy.CATALOGUE else MaskPolicy.OBSERVED
    seen, _ = successor_mask(last, graph, hard)
    if policy is not MaskPolicy.SOFT:
        return seen
    among: Mask = seen == seen[np.arange(len(targets)), targets][:, None]
    return among
