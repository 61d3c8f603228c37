"""A cache mixture: what the owner did lately in the same place, beside what anybody does there.

    P(y | c, H) = w_0 P_base(y | c) + sum_{m,h} w_{m,h} share_{m,h}(y)

The shares are exponentially decayed counts of the owner's own calls: of all, of those after the same
node or path, of those after the same last calls, each with several half-lives (``events``). Which decay
is right is thus learned with the weights w, by expectation-maximisation on the training examples, each
of which sees its own earlier history only. The likelihood is concave in w: there is one best mixture.

Weights depend on which caches keep any call, as escapes do in prediction by partial matching: a path
that this owner never took leaves its weight to the shorter contexts. Examples of one such pattern have
weights of their own, which those over all examples, restricted to the caches that keep something, hold
back with the force of ``strength`` examples. A pattern never seen takes the restricted weights.

After the cache language model (Kuhn and De Mori 1990) and its neural successors (Grave et al. 2017,
arXiv 1612.04426), and PPM (Cleary and Witten 1984). Those choose one decay and one weight by hand.

In: contexts with histories. Out: log P [B, C]; without a history, the scores of the base.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import Contexts
from dagrec.metrics.temperature import MIN_PROBABILITY
from dagrec.models.base import State
from dagrec.models.hybrid.events import ANY, CACHES, HALF_LIVES, Past
from dagrec.models.hybrid.mixture import heaviest_first, mixture_weights
from dagrec.models.hybrid.over_base import OverBase, OverBaseOptions, Question
from dagrec.types import Floats, Mask


class CacheConfig(OverBaseOptions):
    """Hyperparameters of the cache mixture."""

    strength: float = Field(
        10.0, gt=0, description="examples for which the weights over all of them stand in each pattern"
    )


class Cache(OverBase):
    """The base and the owner's own continuations, mixed by learned weights."""

    name = "cache"
    paper = "Grave et al. 2017, Improving neural language models with a continuous cache"
    Config = CacheConfig
    config: CacheConfig

    _patterns: Mask
    """[P, M] which caches keep a call."""
    _weights: Floats
    """[1 + P, 1 + M H] over all examples, then of each pattern; the base first."""

    def shares(self, contexts: Contexts) -> dict[str, float]:
        """The base and each cache -> weight in the answer to one context."""
        (context,) = contexts.origins
        past = Past.of(context, self._columns)
        if self._learned is None or not past.supported[ANY]:
            return {self.config.base: 1.0}
        weights = self._weights_of(past.supported)
        caches = weights[1:].reshape(len(CACHES), len(HALF_LIVES)).sum(axis=1).tolist()
        own = {f"own calls: {cache}": share for cache, share in zip(CACHES, caches, strict=True)}
        return heaviest_first({self.config.base: float(weights[0])} | own)

    def _learn(self, questions: list[Question]) -> State:
        likelihoods = np.stack([components(q.past, q.base)[:, q.target] for q in questions])
        logs = np.log(np.maximum(likelihoods, MIN_PROBABILITY))
        supported = np.stack([q.past.supported for q in questions])
        count = logs.shape[1]
        # One imaginary example in equal parts: a pattern never seen needs a weight for what it has.
        overall = mixture_weights(logs, np.full(count, 1 / count))
        patterns, group = np.unique(supported, axis=0, return_inverse=True)
        weights = [overall]
        for number, pattern in enumerate(patterns):
            prior = restrict(overall, pattern) * self.config.strength
            weights.append(restrict(mixture_weights(logs[group.ravel() == number], prior), pattern))
        return {"patterns": patterns, "weights": np.stack(weights)}

    def _take(self, learned: State, services: int) -> None:
        patterns, weights = learned["patterns"], learned["weights"].astype(np.float64)
        if not (
            len(patterns)
            and patterns.shape[1:] == (len(CACHES),)
            and weights.shape == (1 + len(patterns), 1 + len(CACHES) * len(HALF_LIVES))
            and (weights >= 0).all()
            and np.allclose(weights.sum(axis=1), 1)
        ):
            raise ValueError("weights that do not belong to the caches, or do not add up to 1")
        self._patterns, self._weights = patterns.astype(np.bool_), weights

    def _correct(self, pasts: list[Past], base: Floats) -> Floats:
        mixed = np.stack(
            [
                self._weights_of(past.supported) @ components(past, own)
                for past, own in zip(pasts, base, strict=True)
            ]
        )
        found: Floats = np.log(np.maximum(mixed, MIN_PROBABILITY))
        return found

    def _weights_of(self, supported: Mask) -> Floats:
        """[1 + M H] of the pattern, or those over all examples where it was never seen."""
        same = np.flatnonzero((self._patterns == supported).all(axis=1))
        return self._weights[1 + same[0]] if len(same) else restrict(self._weights[0], supported)


def components(past: Past, base: Floats) -> Floats:
    """[1 + M H, C] what is mixed: the base's probabilities, then the caches' shares."""
    shares = past.shares(len(base))
    return np.concatenate([np.exp(base)[None], shares.reshape(-1, len(base))])


def restrict(weights: Floats, supported: Mask) -> Floats:
    """The weights [1 + M H] of the base and of the caches that keep a call, adding up to 1."""
    kept = weights * np.concatenate([[True], np.repeat(supported, len(HALF_LIVES))])
    found: Floats = kept / kept.sum()
    return found
