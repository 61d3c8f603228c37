"""Cache mixture: the owner's recent calls in similar situations, mixed with a base recommender.

    P(y | c, H) = w_0 P_base(y | c) + sum_{m,h} w_{m,h} share_{m,h}(y)

The shares are exponentially decayed counts of the owner's calls: of all calls, of those after the same
node or path, and of those after the same last calls, each with several half-lives (``events``). The
weights w, and with them the decay, are learned by expectation-maximisation on the training examples;
each example uses only its earlier history. The likelihood is concave in w, so the optimum is unique.

The weights depend on the pattern of non-empty caches, similar to escape probabilities in prediction by
partial matching: if the owner never took a path, its weight goes to the shorter contexts. Each pattern
has separate weights; the weights over all examples, restricted to the non-empty caches, are a prior
worth ``strength`` examples. A pattern that does not occur in training gets the restricted weights.

The model follows the cache language model (Kuhn and De Mori 1990), its neural successors (Grave et al.
2017, arXiv 1612.04426) and PPM (Cleary and Witten 1984), which use one decay and one weight chosen by
hand.

In: contexts with histories. Out: log P [B, C]; without a history, the scores of the base.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import Contexts
from dagrec.metrics.temperature import MIN_PROBABILITY
from dagrec.models.base import State
from dagrec.models.hybrid.events import ANY, CACHES, HALF_LIVES, OwnerHistory
from dagrec.models.hybrid.history_corrector import (
    HistoryCorrector,
    HistoryCorrectorOptions,
    HistoryExample,
)
from dagrec.models.hybrid.mixture import heaviest_first, mixture_weights
from dagrec.types import Floats, Mask


class CacheConfig(HistoryCorrectorOptions):
    """Hyperparameters of the cache mixture."""

    strength: float = Field(
        10.0,
        gt=0,
        description="weight of the prior of a pattern (the weights over all examples), in examples",
    )


class Cache(HistoryCorrector):
    """A base recommender mixed with decayed counts of the owner's earlier calls.

    Use it if requests have an owner's history and owners repeat their services.
    """

    name = "cache"
    paper = "Grave et al. 2017, Improving neural language models with a continuous cache"
    Config = CacheConfig
    config: CacheConfig

    _patterns: Mask
    """[P, M] which caches hold a call."""
    _weights: Floats
    """[1 + P, 1 + M H] weights over all examples, then by pattern; column 0 is the base."""

    def shares(self, contexts: Contexts) -> dict[str, float]:
        """Return the weights of the base and of each cache for a single context."""
        (context,) = contexts.origins
        history = OwnerHistory.of(context, self._columns)
        if self._learned is None or not history.supported[ANY]:
            return {self.config.base: 1.0}
        weights = self._weights_of(history.supported)
        by_cache = weights[1:].reshape(len(CACHES), len(HALF_LIVES)).sum(axis=1).tolist()
        shares = {f"own calls: {cache}": share for cache, share in zip(CACHES, by_cache, strict=True)}
        return heaviest_first({self.config.base: float(weights[0])} | shares)

    def _learn(self, examples: list[HistoryExample]) -> State:
        likelihoods = np.stack([components(e.history, e.base)[:, e.target] for e in examples])
        log_p = np.log(np.maximum(likelihoods, MIN_PROBABILITY))
        supported = np.stack([e.history.supported for e in examples])
        count = log_p.shape[1]
        # A uniform prior worth one example: a pattern that was never seen needs positive weights.
        overall = mixture_weights(log_p, np.full(count, 1 / count))
        patterns, group = np.unique(supported, axis=0, return_inverse=True)
        weights = [overall]
        for number, pattern in enumerate(patterns):
            prior = restrict(overall, pattern) * self.config.strength
            weights.append(restrict(mixture_weights(log_p[group.ravel() == number], prior), pattern))
        return {"patterns": patterns, "weights": np.stack(weights)}

    def _load(self, learned: State, services: int) -> None:
        patterns, weights = learned["patterns"], learned["weights"].astype(np.float64)
        if not (
            len(patterns)
            and patterns.shape[1:] == (len(CACHES),)
            and weights.shape == (1 + len(patterns), 1 + len(CACHES) * len(HALF_LIVES))
            and (weights >= 0).all()
            and np.allclose(weights.sum(axis=1), 1)
        ):
            raise ValueError("weights that do not fit the caches, or do not sum to 1")
        self._patterns, self._weights = patterns.astype(np.bool_), weights

    def _correct(self, histories: list[OwnerHistory], base: Floats) -> Floats:
        p = np.stack(
            [
                self._weights_of(history.supported) @ components(history, base_log_p)
                for history, base_log_p in zip(histories, base, strict=True)
            ]
        )
        log_p: Floats = np.log(np.maximum(p, MIN_PROBABILITY))
        return log_p

    def _weights_of(self, supported: Mask) -> Floats:
        """Return the weights [1 + M H] of a pattern; restricted overall weights if it is unknown."""
        same = np.flatnonzero((self._patterns == supported).all(axis=1))
        return self._weights[1 + same[0]] if len(same) else restrict(self._weights[0], supported)


def components(history: OwnerHistory, base: Floats) -> Floats:
    """Return the components [1 + M H, C] of the mixture: the base's probabilities, then the shares."""
    shares = history.shares(len(base))
    return np.concatenate([np.exp(base)[None], shares.reshape(-1, len(base))])


def restrict(weights: Floats, supported: Mask) -> Floats:
    """Return the weights [1 + M H] with those of empty caches set to 0, normalised to sum to 1."""
    restricted = weights * np.concatenate([[True], np.repeat(supported, len(HALF_LIVES))])
    normalised: Floats = restricted / restricted.sum()
    return normalised
