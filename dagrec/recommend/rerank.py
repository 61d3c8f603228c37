"""Filters, diversity and novelty of a ranking. The defaults leave the model's ranking unchanged.

Filters are applied first, whatever the strategy of the answer (model, back-off, popularity). A removed
service is no candidate, and the probabilities of the remaining services are normalised again.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from dagrec.data.vocabulary import Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.types import Floats, Ids, Mask


def allowed_services(
    vocabulary: Vocabulary,
    *,
    allow: Collection[str] | None = None,
    deny: Collection[str] = (),
    used: Collection[str] = (),
) -> Mask:
    """[C], True for services in ``allow`` (None: all) that are in neither ``deny`` nor ``used``."""
    allowed = np.array([allow is None or service in allow for service in vocabulary.services])
    for keys in (deny, used):
        for key in keys:
            if key in vocabulary.columns:
                allowed[vocabulary.columns[key]] = False
    return allowed


def restrict(log_probabilities: Floats, allowed: Mask) -> Floats:
    """[C] log-probabilities of the allowed services, normalised; -inf for all other services.

    If the allowed services have probability 0, all values are -inf.
    """
    if allowed.all():
        return log_probabilities
    restricted: Floats = np.where(allowed, log_probabilities, -np.inf)
    total = np.logaddexp.reduce(restricted)
    return restricted - total if np.isfinite(total) else restricted


def rank(
    log_probabilities: Floats,
    k: int,
    graph: ServiceGraph,
    *,
    diversity: float = 0.0,
    novelty: float = 0.0,
) -> Ids:
    """The columns of the best k services with a probability above 0, the best first.

    ``novelty`` g adds g bits of self-information to the logarithm of a service's probability:

        r(y) = log p(y) + g (-log2 P(y)),   P(y) = (N(y) + 1) / (N + C)

    ``diversity`` d selects services one after another by maximal marginal relevance (Carbonell and
    Goldstein 1998). The next service y maximises

        (1 - d) exp(r(y) - max r) - d max_z cos(y, z),   z selected before

    where cos is the cosine similarity of the numbers of training examples in which two services
    followed each node. The first service is the one with the largest r for every d. Ties keep
    vocabulary order. If both are 0, services are ordered by probability.
    """
    relevance = log_probabilities.copy()
    if novelty:
        counts = graph.popularity
        relevance += novelty * -np.log2((counts + 1) / (counts.sum() + len(counts)))
    # A stable sort keeps ties in vocabulary order, so that answers are deterministic.
    order = np.argsort(-relevance, kind="stable")
    order = order[: np.count_nonzero(np.isfinite(relevance))]  # services of probability 0 come last
    if not diversity or not len(order):
        return order[:k]
    relative = np.exp(relevance[order] - relevance[order[0]])
    similarity = np.zeros(len(order))
    selected: list[int] = []
    remaining = np.ones(len(order), dtype=np.bool_)
    while len(selected) < min(k, len(order)):
        value = (1 - diversity) * relative - diversity * similarity if selected else relative
        best = int(np.where(remaining, value, -np.inf).argmax())
        selected.append(best)
        remaining[best] = False
        similarity = np.maximum(similarity, graph.similarities(int(order[best]))[order])
    columns: Ids = order[np.array(selected)]
    return columns
