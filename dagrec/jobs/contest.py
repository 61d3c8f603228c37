"""A challenger against the live champion, on the newest compositions, which neither has seen.

Compositions are held back from the newest on: at most ``share`` of them. Where the live bundle never
saw enough of these, they are what is asked about, and the champion answers as it was published. Else
its configuration is fitted again on the older part, as the challenger is: a model that has seen the
answers would win against any that has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from dagrec.data.examples import Example
from dagrec.data.splits import Split
from dagrec.errors import DataError
from dagrec.evaluation.evaluator import masked_outcome, row_weights, target_columns
from dagrec.evaluation.metrics import METRICS, Outcome
from dagrec.evaluation.statistics import over_draws, resampled_weights
from dagrec.graph.evidence import composition_hash
from dagrec.graph.mask import MaskPolicy
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender
from dagrec.store.bundle import Bundle
from dagrec.types import Floats, Options, Scores

DECIDES = "mrr"
SHOWN = ("mrr", "accuracy", "ndcg@10", "nll")
DRAWS = 2000
AS_PUBLISHED = "as published"
FITTED = "fitted on the older part"
FITTED_AGAIN = "fitted again on the older part"


class Side(Options):
    """One side of a contest."""

    label: str
    recommender: str
    how: str
    metrics: dict[str, float]


class Contest(Options):
    """Who was better on the held-back compositions, and by how much."""

    examples: int
    compositions: int
    challenger: Side
    champion: Side | None = Field(description="null: nothing was live")
    popularity: Side
    difference: float | None = Field(None, description="challenger less champion, in MRR")
    low: float | None = Field(None, description="of its 95 % interval, a bootstrap over compositions")
    high: float | None = None
    above_popularity: tuple[float, float] = Field(
        description="95 % interval of challenger less popularity, in MRR"
    )


@dataclass(frozen=True)
class HeldBack:
    """The split, and whether the live bundle may answer it as published."""

    split: Split
    unseen: bool


@dataclass(frozen=True)
class Contestant:
    """A fitted model with all that its answers depend on."""

    label: str
    how: str
    model: Recommender
    graph: ServiceGraph
    mask: MaskPolicy
    temperature: float

    @classmethod
    def of(cls, bundle: Bundle) -> Contestant:
        """The champion of a bundle as it was published."""
        label, model = bundle.model(None)
        temperature = bundle.temperature(label)
        return cls(label, AS_PUBLISHED, model, bundle.graph, bundle.mask, temperature)

    def outcome(self, examples: Sequence[Example]) -> Outcome:
        """Its answers; a target that it does not know is a miss."""
        vocabulary = self.graph.vocabulary

        def score(part: Sequence[Example]) -> Scores:
            scores = self.model.score(vocabulary.encode([e.context for e in part]))
            return scores / np.float32(self.temperature)

        targets = target_columns(examples, vocabulary)
        return masked_outcome(examples, targets, score, self.graph, self.mask)


def hold_back(examples: Sequence[Example], share: float, live: Bundle | None, least: int) -> HeldBack:
    """The newest compositions, by time where all tell it, else in the order of the data.

    Raises :class:`DataError` where fewer than two compositions can be told apart.
    """
    first: dict[int, Example] = {}
    counts: dict[int, int] = {}
    for example in examples:
        first.setdefault(example.composition, example)
        counts[example.composition] = counts.get(example.composition, 0) + 1
    times = {number: _time(example) for number, example in first.items()}
    timed = all(time is not None for time in times.values())
    order = sorted(first, key=lambda number: (times[number] if timed else 0.0, number))
    if len(order) < 2:
        raise DataError(
            f"a contest needs two compositions with examples, found {len(order)}; use `dagrec train`",
            rule="too-few",
        )
    size = min(len(order) - 1, max(1, round(share * len(order))))
    newest = set(order[-size:])
    seen = set() if live is None else set(live.evidence.seen.tolist())
    fresh = {
        n
        for n in newest
        if (source := first[n].context.composition) is None or composition_hash(source) not in seen
    }
    unseen = live is not None and sum(counts[number] for number in fresh) >= least
    if unseen:
        newest = fresh
    split = Split(
        tuple(e for e in examples if e.composition not in newest),
        tuple(e for e in examples if e.composition in newest),
        ordered=timed,
    )
    return HeldBack(split, unseen)


def contest(
    examples: Sequence[Example],
    challenger: Contestant,
    champion: Contestant | None,
    popularity: Contestant,
    seed: int,
) -> Contest:
    """All sides asked about the same examples."""
    asked = {"challenger": challenger, "popularity": popularity}
    if champion is not None:
        asked["champion"] = champion
    outcomes = {name: side.outcome(examples) for name, side in asked.items()}
    sides = {
        name: Side(
            label=side.label,
            recommender=side.model.name,
            how=side.how,
            metrics={metric: METRICS[metric](outcomes[name]) for metric in SHOWN},
        )
        for name, side in asked.items()
    }
    groups = np.array([e.composition for e in examples])
    rng = np.random.default_rng(seed)
    draws = resampled_weights(groups, row_weights(examples, "pairs"), DRAWS, rng)
    worth = {name: _reciprocal(outcome) for name, outcome in outcomes.items()}

    def interval(other: str) -> tuple[float, float]:
        values = worth["challenger"] - worth[other]
        drawn = np.array([weights @ values for weights in draws])
        estimate = over_draws([float(values.mean())], drawn)
        return estimate.low, estimate.high

    low, high = interval("champion") if champion is not None else (None, None)
    return Contest(
        examples=len(examples),
        compositions=len(set(groups.tolist())),
        challenger=sides["challenger"],
        champion=sides.get("champion"),
        popularity=sides["popularity"],
        difference=None
        if champion is None
        else sides["challenger"].metrics[DECIDES] - sides["champion"].metrics[DECIDES],
        low=low,
        high=high,
        above_popularity=interval("popularity"),
    )


def _reciprocal(outcome: Outcome) -> Floats:
    """[n] 1 / rank of each target, ties in expectation, 0 for a miss."""
    return outcome.ranks.expect(1 / np.arange(1, outcome.candidates + 1))


def _hash(example: Example) -> int:
    source = example.context.composition
    return 0 if source is None else composition_hash(source)


def _time(example: Example) -> float | None:
    source = example.context.composition
    if source is None:
        return example.context.time
    times = [source.time, *(node.time for node in source.nodes)]
    return max((time for time in times if time is not None), default=None)


__all__ = ["Contest", "Contestant", "HeldBack", "Side", "contest", "hold_back"]
