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
from dagrec.models.base import Recommender, State, Traits
from dagrec.training.data import TrainingData
from dagrec.types import Floats, Ids, Options, Scores

Suffix = tuple[int, ...]
Counts = tuple[Ids, Floats, float]
"""Service columns, ascending, how often each came next, and how often any did."""
Table = dict[Suffix, Counts]

MUS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
USUAL_MU = 5.0
"""Taken when there is only one composition, and nothing to hold out."""
HELD_OUT_SHARE = 0.2
HOLD_OUTS = 3


class MarkovConfig(Options):
    """Hyperparameters of the Markov chain."""

    order: int = Field(8, ge=1, le=128, description="longest suffix of the path that is counted")
    mu: float | None = Field(
        None,
        gt=0,
        description="weight of the shorter suffix, in observations; unset: the likeliest of "
        f"{', '.join(f'{mu:g}' for mu in MUS)} on held-out training compositions",
    )


class Markov(Recommender):
    """Counts of what followed each suffix of the path."""

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
        """The mu under which compositions held out of the training data are likeliest."""
        if len({example.composition for example in data.examples}) < 2:
            return USUAL_MU
        mus = np.array(MUS)
        total = np.zeros(len(mus))
        for number in range(HOLD_OUTS):
            training, held_out = data.hold_out(HELD_OUT_SHARE, HOLD_OUTS * self.seed + number)
            table = count_suffixes(training, self.config.order)
            seen = np.bincount(training.targets, minlength=len(data.vocabulary.services)) + 1.0
            rows, services, counts = held_out.pairs
            for row in np.unique(rows):
                path = held_out.contexts.nodes[row, : held_out.contexts.lengths[row]]
                p = interpolate(path, table, seen / seen.sum(), mus, self.config.order)
                own = rows == row
                total += np.log(p[:, services[own]]) @ counts[own]
        return float(mus[total.argmax()])

    def _score(self, contexts: Contexts) -> Scores:
        table, prior = self._fitted(self._table), np.exp(self._fitted(self._prior))
        mu = np.array([self._fitted(self._mu)])
        probabilities = np.empty((len(contexts), len(prior)))
        for row, length in enumerate(contexts.lengths):
            path = contexts.nodes[row, :length]
            probabilities[row] = interpolate(path, table, prior, mu, self.config.order)[0]
        # A long suffix can bring a service it never saw below the smallest float.
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
            tuple(suffix.tolist()): (columns, seen, float(seen.sum()))
            for suffix, columns, seen in zip(
                np.split(suffixes, np.cumsum(lengths)[:-1]),
                np.split(services, ends),
                np.split(counts, ends),
                strict=True,
            )
        }


def count_suffixes(data: TrainingData, order: int) -> Table:
    """What followed each suffix of at most ``order`` nodes."""
    counts: dict[Suffix, dict[int, float]] = defaultdict(dict)
    for row, service, count in zip(*data.pairs, strict=True):
        path = data.contexts.nodes[row, : data.contexts.lengths[row]]
        for n in range(1, min(len(path), order) + 1):
            seen = counts[tuple(path[-n:].tolist())]
            seen[int(service)] = seen.get(int(service), 0.0) + count
    return {
        suffix: (
            np.array(sorted(seen), dtype=np.int64),
            np.array([seen[service] for service in sorted(seen)]),
            sum(seen.values()),
        )
        for suffix, seen in sorted(counts.items())
    }


def interpolate(path: Ids, table: Table, prior: Floats, mus: Floats, order: int) -> Floats:
    """[M, C] probabilities of the next service after a path of node ids, for each of M values of mu."""
    p = np.tile(prior, (len(mus), 1))
    nodes = tuple(path[-order:].tolist())
    for n in range(1, len(nodes) + 1):
        found = table.get(nodes[-n:])
        if found is None:
            break
        services, counts, total = found
        p *= mus[:, None]
        p[:, services] += counts
        p /= (total + mus)[:, None]
    return p
