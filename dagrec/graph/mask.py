"""The mask: which services may come next, and what that makes of a recommender's scores.

This is the only place where scores are masked. With M the services that may follow:

- ``observed``: M is what followed the frontier node in training; p = softmax of the scores over M;
- ``catalogue``: the same with the links that the user declared;
- ``soft``: seen successors share 1 - u and all others u, each by softmax among themselves, where u is
  the node's unseen mass (Good-Turing, see ``ServiceGraph.unseen_mass``);
- ``none``: softmax over all services.

A node that is unknown, or that nothing ever followed, leaves M empty: then every service may follow,
and the answer says so (``unknown``, ``terminal``). A row is never all -inf.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from dagrec.data.vocabulary import UNKNOWN
from dagrec.errors import ConfigError
from dagrec.graph.service_graph import ServiceGraph
from dagrec.types import Floats, Ids, Mask, Scores


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
    """Which services may follow each frontier node, and which rows had none and were opened.

    last: [B] node ids. Returns allowed [B, C] with no empty row, and opened [B].
    Raises :class:`ConfigError` for ``catalogue`` without declared links.
    """
    links = graph.declared if policy is MaskPolicy.CATALOGUE else graph.observed
    if links is None:
        raise ConfigError(
            "mask 'catalogue' needs links that a user declared, found none; "
            "train with --catalogue FILE, or choose another mask"
        )
    allowed = np.zeros((len(last), len(graph.vocabulary.services)), dtype=np.bool_)
    opened = np.zeros(len(last), dtype=np.bool_)
    for row, node in enumerate(last.tolist()):
        followers, _ = links.row(node)
        if len(followers):
            allowed[row, followers] = True
        else:
            allowed[row] = opened[row] = True
    return allowed, opened


def apply_mask(scores: Scores, last: Ids, graph: ServiceGraph, policy: MaskPolicy) -> Masked:
    """Log-probabilities of the services that may follow each frontier node.

    scores: [B, C] unmasked; last: [B] node ids of the frontiers.
    """
    values = scores.astype(np.float64)
    hard = MaskPolicy.CATALOGUE if policy is MaskPolicy.CATALOGUE else MaskPolicy.OBSERVED
    seen, opened = successor_mask(last, graph, hard)
    unknown = last <= UNKNOWN
    terminal = opened & ~unknown
    if policy not in (MaskPolicy.NONE, MaskPolicy.SOFT):
        return Masked(log_softmax(values, seen), seen, unknown, terminal)
    everything = np.ones_like(seen)
    if policy is MaskPolicy.NONE:
        return Masked(log_softmax(values), everything, unknown, terminal)
    # Rows that were opened, or that have seen every service, have nothing to divide.
    mass = np.where(opened | seen.all(axis=1), 0.0, graph.unseen_mass[last])[:, None]
    with np.errstate(divide="ignore"):
        share = np.where(seen, np.log1p(-mass), np.log(mass))
    within = np.where(seen, log_softmax(values, seen), log_softmax(values, ~seen))
    return Masked(share + within, everything, unknown, terminal)


def rivals(last: Ids, targets: Ids, graph: ServiceGraph, policy: MaskPolicy) -> Mask:
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


def log_softmax(values: Floats, allowed: Mask | None = None) -> Floats:
    """log softmax over the allowed entries of each row (None: all), -inf elsewhere; all -inf in an
    empty row."""
    allowed = np.ones_like(values, dtype=np.bool_) if allowed is None else allowed
    kept: Floats = np.where(allowed, values, -np.inf)
    top = kept.max(axis=1, keepdims=True, initial=-np.inf)
    top[top == -np.inf] = 0.0  # of an empty row
    kept -= top
    total = np.exp(kept).sum(axis=1, keepdims=True)
    total[total == 0] = 1.0
    kept -= np.log(total)
    return kept
