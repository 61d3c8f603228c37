"""What a user asks of a ranking beyond the model's: filters, diversity, novelty. Neutral: the ranking
as is.

Filters come first, on whatever path an answer was found (model, back-off, popularity): what they remove
is no candidate, and the probabilities are of the services that are left.
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
    """[C], True for services that may be answered: those in ``allow`` (None: all), and in neither
    ``deny`` nor ``used``."""
    kept = np.array([allow is None or service in allow for service in vocabulary.services])
    for keys in (deny, used):
        for key in keys:
            if key in vocabulary.columns:
                kept[vocabulary.columns[key]] = False
    return kept


def restrict(log_probabilities: Floats, allowed: Mask) -> Floats:
    """[C] of the services that are kept, adding up to 1 again where any of them had probability."""
    if allowed.all():
        return log_probabilities
    left = np.where(allowed, log_probabilities, -np.inf)
    total = np.logaddexp.reduce(left)
    found: Floats = left - total if np.isfinite(total) else left
    return found


def rank(
    log_probabilities: Floats,
    k: int,
    graph: ServiceGraph,
    *,
    diversity: float = 0.0,
    novelty: float = 0.0,
) -> Ids:
    """The columns of the best k services of probability above 0, the best first.

    ``novelty`` g adds g bits of self-information to the logarithm of a service's probability:

        r(y) = log p(y) + g (-log2 P(y)),   P(y) = (N(y) + 1) / (N + C)

    ``diversity`` d takes by maximal marginal relevance (Carbonell and Goldstein 1998) the services that

        (1 - d) exp(r(y) - max r) - d max over those taken of cos(y, z)

    is largest for, one after the other, where cos compares after which nodes two services came in
    training, and how often. The first service is the one of largest r whatever d is. Equal values keep
    vocabulary order. With both 0 the order is that of the probabilities.
    """
    worth = log_probabilities.copy()
    if novelty:
        counts = graph.popularity
        worth += novelty * -np.log2((counts + 1) / (counts.sum() + len(counts)))
    # A stable sort: equal values keep vocabulary order, so one request has one answer.
    order = np.argsort(-worth, kind="stable")
    order = order[: np.count_nonzero(np.isfinite(worth))]  # what is -inf comes last
    if not diversity or not len(order):
        return order[:k]
    relevance = np.exp(worth[order] - worth[order[0]])
    nearest = np.zeros(len(order))
    taken: list[int] = []
    left = np.ones(len(order), dtype=np.bool_)
    while len(taken) < min(k, len(order)):
        value = (1 - diversity) * relevance - diversity * nearest if taken else relevance
        best = int(np.where(left, value, -np.inf).argmax())
        taken.append(best)
        left[best] = False
        nearest = np.maximum(nearest, graph.similarities(int(order[best]))[order])
    best_first: Ids = order[np.array(taken)]
    return best_first
