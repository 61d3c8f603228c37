"""Markov chain of variable order: interpolated back-off over the suffixes of the path.

    P_n(y | c) = ( N(c, y) + mu P_{n-1}(y | c') ) / ( N(c) + mu )

c is the suffix of n nodes and c' the suffix without its oldest node. N counts training examples, and
P_0 is the smoothed popularity (N(y) + 1) / (N + C). For a suffix that does not occur in training, P_n
is P_{n-1}, and so it is for every longer suffix. This is interpolation with a symmetric Dirichlet prior
of strength mu, centred on the shorter context (MacKay and Peto 1995, "A hierarchical Dirichlet language
model").

In: contexts [B, L]. Out: log P [B, C].
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from pydantic import Field

from dagrec.data.vocabulary import Contexts, Vocabulary
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender, State, Traits
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options, Scores

Suffix = tuple[int, ...]
Counts = tuple[Ids, Floats, float]
"""Columns of the services that followed, ascending; the count of each; the sum of the counts."""
Table = dict[Suffix, Counts]

MU_CANDIDATES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
DEFAULT_MU = 5.0
"""Used if there is only one composition, so that none can be held out."""
HELD_OUT_SHARE = 0.2
NUM_HOLD_OUTS = 3


class MarkovConfig(Options):
    """Hyperparameters of the Markov chain."""

    order: int = Field(8, ge=1, le=128, description="length of the longest suffix that is counted")
    mu: float | None = Field(
        None,
        gt=0,
        description="weight of the shorter suffix, in observations; null: the one of "
        f"{', '.join(f'{mu:g}' for mu in MU_CANDIDATES)} that maximises the likelihood of held-out "
        "training compositions",
    )


class Markov(Recommender):
    """Counts which services followed each suffix of the path, with smoothing by shorter suffixes.

    Use it as a strong baseline that is fast to fit, needs no torch and works on small data.
    """

    name = "markov"
    paper = "MacKay and Peto 1995, A hierarchical Dirichlet language model"
    Config = MarkovConfig
    traits = Traits(order_aware=True)
    config: MarkovConfig

    _table: Table | None = None
    _mu: float | None = None

    def _fit(self, data: TrainingData) -> None:
        self._mu = self._choose_mu(data) if self.config.mu is None else self.config.mu
        self._table = count_suffixes(data, self.config.order)

    def _choose_mu(self, data: TrainingData) -> float:
        """Return the mu that maximises the likelihood of held-out training compositions."""
        if len({example.composition for example in data.examples}) < 2:
            return DEFAULT_MU
        mus = np.array(MU_CANDIDATES)
        log_likelihoods = np.zeros(len(mus))
        for number in range(NUM_HOLD_OUTS):
            training, held_out = data.hold_out(HELD_OUT_SHARE, NUM_HOLD_OUTS * self.seed + number)
            table = count_suffixes(training, self.config.order)
            popularity = np.bincount(training.targets, minlength=len(data.vocabulary.services)) + 1.0
            prior = popularity / popularity.sum()
            rows, services, counts = held_out.pairs
            for row in np.unique(rows):
                path = held_out.contexts.nodes[row, : held_out.contexts.lengths[row]]
                p = interpolate(path, table, prior, mus, self.config.order)
                pairs = rows == row
                log_likelihoods += np.log(p[:, services[pairs]]) @ counts[pairs]
        return float(mus[log_likelihoods.argmax()])

    def _score(self, contexts: Contexts) -> Scores:
        table, prior = self._fitted(self._table), np.exp(self._fitted(self._prior))
        mu = np.array([self._fitted(self._mu)])
        probabilities = np.empty((len(contexts), len(prior)))
        for row, length in enumerate(contexts.lengths):
            path = contexts.nodes[row, :length]
            probabilities[row] = interpolate(path, table, prior, mu, self.config.order)[0]
        # After a long suffix, the probability of other services can underflow to 0.
        scores: Scores = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)).astype(np.float32)
        return scores

    def _state(self) -> State:
        table = self._fitted(self._table)
        services = [services for services, _, _ in table.values()]
        counts = [counts for _, counts, _ in table.values()]
        return {
            "suffixes": np.array([node for suffix in table for node in suffix], dtype=np.int64),
            "suffix_lengths": np.array([len(suffix) for suffix in table], dtype=np.int64),
            "services": np.concatenate(services),
            "counts": np.concatenate(counts),
            "degrees": np.array([len(row) for row in services], dtype=np.int64),
            "mu": np.array([self._fitted(self._mu)]),
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
            and state["mu"].shape == (1,)
        ):
            raise ValueError("arrays that do not belong together, or a service outside the vocabulary")
        self._mu = float(state["mu"][0])
        ends = np.cumsum(degrees)[:-1]
        self._table = {
            tuple(suffix.tolist()): (columns, column_counts, float(column_counts.sum()))
            for suffix, columns, column_counts in zip(
                np.split(suffixes, np.cumsum(lengths)[:-1]),
                np.split(services, ends),
                np.split(counts, ends),
                strict=True,
            )
        }


def count_suffixes(data: TrainingData, order: int) -> Table:
    """Return the counts of the services that followed each suffix of at most ``order`` nodes."""
    counts: dict[Suffix, dict[int, float]] = defaultdict(dict)
    for row, service, count in zip(*data.pairs, strict=True):
        path = data.contexts.nodes[row, : data.contexts.lengths[row]]
        for n in range(1, min(len(path), order) + 1):
            by_service = counts[tuple(path[-n:].tolist())]
            by_service[int(service)] = by_service.get(int(service), 0.0) + count
    return {
        suffix: (
            np.array(sorted(by_service), dtype=np.int64),
            np.array([by_service[service] for service in sorted(by_service)]),
            sum(by_service.values()),
        )
        for suffix, by_service in sorted(counts.items())
    }


def interpolate(path: Ids, table: Table, prior: Floats, mus: Floats, order: int) -> Floats:
    """Return P(y | path) for M values of mu: [M, C]. ``path`` holds node ids."""
    p = np.tile(prior, (len(mus), 1))
    nodes = tuple(path[-order:].tolist())
    for n in range(1, len(nodes) + 1):
        counted = table.get(nodes[-n:])
        if counted is None:
            break
        services, counts, total = counted
        p *= mus[:, None]
        p[:, services] += counts
        p /= (total + mus)[:, None]
    return p
