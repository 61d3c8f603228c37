"""Markov chain of variable order with interpolated back-off over the suffixes of the path.

    P_n(y | c) = ( N(c, y) + mu P_{n-1}(y | c') ) / ( N(c) + mu )

where c is the suffix of n nodes, c' the same without its oldest node, N counts training examples, and
P_0 is the smoothed popularity (N(y) + 1) / (N + C). A suffix never seen leaves P_{n-1} as it is, and so
does every longer one. This is interpolation with a symmetric Dirichlet prior of strength mu centred on
the shorter context (MacKay and Peto 1995, "A hierarchical Dirichlet language model").

In: contexts [B, L]. Out: log P [B, C].
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State, Trainer, Traits
from dagrec.models.training_data import TrainingData
from dagrec.types import Floats, Ids, Options, Scores

Suffix = tuple[int, ...]
Counts = tuple[Ids, Floats]
"""Service columns, ascending, and how often each came next."""


class MarkovConfig(Options):
    """Hyperparameters of the Markov chain."""

    order: int = Field(8, ge=1, le=128, description="longest suffix of the path that is counted")
    mu: float = Field(5.0, gt=0, description="weight of the shorter suffix, in observations")


class Markov(Recommender):
    """Counts of what followed each suffix of the path."""

    name = "markov"
    paper = "MacKay and Peto 1995, A hierarchical Dirichlet language model"
    Config = MarkovConfig
    traits = Traits(order_aware=True)
    config: MarkovConfig

    _table: dict[Suffix, Counts] | None = None

    def _fit(self, data: TrainingData, trainer: Trainer | None) -> None:
        counts: dict[Suffix, dict[int, float]] = defaultdict(dict)
        for row, service, count in zip(*data.pairs, strict=True):
            path = data.contexts.nodes[row, : data.contexts.lengths[row]]
            for n in range(1, min(len(path), self.config.order) + 1):
                suffix = tuple(path[-n:].tolist())
                counts[suffix][int(service)] = counts[suffix].get(int(service), 0.0) + count
        self._table = {
            suffix: (np.array(sorted(seen), dtype=np.int64), np.array([seen[y] for y in sorted(seen)]))
            for suffix, seen in sorted(counts.items())
        }

    def _score(self, contexts: Contexts) -> Scores:
        table, prior = self._fitted(self._table), self._fitted(self._prior)
        mu = self.config.mu
        # In logarithms: mu to the power of a long suffix is too small for a float.
        log_p = np.tile(prior, (len(contexts), 1))
        for row, length in enumerate(contexts.lengths):
            path = tuple(contexts.nodes[row, :length].tolist())
            for n in range(1, min(length, self.config.order) + 1):
                found = table.get(path[-n:])
                if found is None:
                    break
                services, counts = found
                log_p[row] += np.log(mu)
                log_p[row, services] = np.logaddexp(log_p[row, services], np.log(counts))
                log_p[row] -= np.log(counts.sum() + mu)
        scores: Scores = log_p.astype(np.float32)
        return scores

    def _state(self) -> State:
        table = self._fitted(self._table)
        services = [services for services, _ in table.values()]
        counts = [counts for _, counts in table.values()]
        return {
            "suffixes": np.array([node for suffix in table for node in suffix], dtype=np.int64),
            "suffix_lengths": np.array([len(suffix) for suffix in table], dtype=np.int64),
            "services": np.concatenate(services),
            "counts": np.concatenate(counts),
            "degrees": np.array([len(row) for row in services], dtype=np.int64),
        }

    def _restore(self, state: State, vocabulary: Vocabulary, graph: ServiceGraph) -> None:
        lengths, degrees = state["suffix_lengths"], state["degrees"]
        services = state["services"].astype(np.int64)
        suffixes, counts = state["suffixes"], state["counts"].astype(np.float64)
        if not (
            lengths.shape == degrees.shape == (len(degrees),)
            and suffixes.shape == (lengths.sum(),)
            and services.shape == counts.shape == (degrees.sum(),)
            and ((services >= 0) & (services < len(vocabulary.services))).all()
        ):
            raise ValueError("arrays that do not belong together, or a service outside the vocabulary")
        ends = np.cumsum(degrees)[:-1]
        self._table = {
            tuple(suffix.tolist()): (columns, seen)
            for suffix, columns, seen in zip(
                np.split(suffixes, np.cumsum(lengths)[:-1]),
                np.split(services, ends),
                np.split(counts, ends),
                strict=True,
            )
        }
