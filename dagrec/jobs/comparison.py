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
from dagrec.graph.evidence import composition_hash
from dagrec.metrics.ranking import METRICS, Outcome
from dagrec.metrics.statistics import mean_over_draws, resampled_weights
from dagrec.models.fitted import Fitted
from dagrec.store.bundle import Bundle
from dagrec.types import Floats, Options

DECIDING_METRIC = "mrr"
SHOWN = ("mrr", "accuracy", "ndcg@10", "nll")
DRAWS = 2000
AS_PUBLISHED = "as published"
FITTED = "fitted on the older part"
FITTED_AGAIN = "fitted again on the older part"


class Side(Options):
    """One side of a comparison."""

    label: str
    recommender: str
    how: str
    metrics: dict[str, float]


class Comparison(Options):
    """Who was better on the held-back compositions, and by how much."""

    examples: int
    compositions: int
    challenger: Side
    champion: Side | None = Field(description="null: nothing was live")
    popularity: Side
    difference: float | None = Field(None, description="challenger less champion, in MRR")
    interval: tuple[float, float] | None = Field(
        None, description="its 95 % interval, a bootstrap over compositions"
    )
    above_popularity: tuple[float, float] = Field(
        description="95 % interval of challenger less popularity, in MRR"
    )


@dataclass(frozen=True)
class HeldBack:
    """The split, and whether the live bundle may answer it as published."""

    split: Split
    unseen: bool


@dataclass(frozen=True)
class Contender:
    """A fitted model, and how it came to be."""

    label: str
    how: str
    fitted: Fitted

    @classmethod
    def champion_of(cls, bundle: Bundle) -> Contender:
        """The champion of a bundle as it was published."""
        label, fitted = bundle.model(None)
        return cls(label, AS_PUBLISHED, fitted)

    def outcome(self, examples: Sequence[Example]) -> Outcome:
        """Its answers; a target that it does not know is a miss."""
        vocabulary = self.fitted.vocabulary
        targets = target_columns(examples, vocabulary)
        return masked_outcome(examples, targets, self.fitted.probabilities, vocabulary)


def hold_back(
    examples: Sequence[Example], share: float, live: Bundle | None, min_examples: int
) -> HeldBack:
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
            f"a comparison needs two compositions with examples, found {len(order)}; "
            "use `dagrec train`",
            rule="too-few",
        )
    size = min(len(order) - 1, max(1, round(share * len(order))))
    newest = set(order[-size:])
    seen = set() if live is None else set(live.evidence.sorted_hashes.tolist())
    fresh = {
        n
        for n in newest
        if (source := first[n].context.composition) is None or composition_hash(source) not in seen
    }
    unseen = live is not None and sum(counts[number] for number in fresh) >= min_examples
    if unseen:
        newest = fresh
    split = Split(
        tuple(e for e in examples if e.composition not in newest),
        tuple(e for e in examples if e.composition in newest),
        ordered=timed,
    )
    return HeldBack(split, unseen)


def compare(
    examples: Sequence[Example],
    challenger: Contender,
    champion: Contender | None,
    popularity: Contender,
    seed: int,
) -> Comparison:
    """All sides asked about the same examples."""
    contenders = {"challenger": challenger, "popularity": popularity}
    if champion is not None:
        contenders["champion"] = champion
    outcomes = {name: side.outcome(examples) for name, side in contenders.items()}
    sides = {
        name: Side(
            label=side.label,
            recommender=side.fitted.recommender.name,
            how=side.how,
            metrics={metric: METRICS[metric](outcomes[name]) for metric in SHOWN},
        )
        for name, side in contenders.items()
    }
    groups = np.array([e.composition for e in examples])
    rng = np.random.default_rng(seed)
    draws = resampled_weights(groups, row_weights(examples, "pairs"), DRAWS, rng)
    worth = {name: _reciprocal(outcome) for name, outcome in outcomes.items()}

    def interval(other: str) -> tuple[float, float]:
        values = worth["challenger"] - worth[other]
        drawn = np.array([weights @ values for weights in draws])
        estimate = mean_over_draws([float(values.mean())], drawn)
        return estimate.low, estimate.high

    difference = None
    if champion is not None:
        mrr = {name: side.metrics[DECIDING_METRIC] for name, side in sides.items()}
        difference = mrr["challenger"] - mrr["champion"]
    return Comparison(
        examples=len(examples),
        compositions=len(set(groups.tolist())),
        challenger=sides["challenger"],
        champion=sides.get("champion"),
        popularity=sides["popularity"],
        difference=difference,
        interval=None if champion is None else interval("champion"),
        above_popularity=interval("popularity"),
    )


def _reciprocal(outcome: Outcome) -> Floats:
    """[n] 1 / rank of each target, ties in expectation, 0 for a miss."""
    return outcome.ranks.expect(1 / np.arange(1, outcome.num_services + 1))


def _time(example: Example) -> float | None:
    source = example.context.composition
    if source is None:
        return example.context.time
    times = [source.time, *(node.time for node in source.nodes)]
    return max((time for time in times if time is not None), default=None)


__all__ = ["Comparison", "Contender", "HeldBack", "Side", "compare", "hold_back"]
