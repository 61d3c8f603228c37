"""Compare a challenger with the live champion on the newest compositions, unknown to both.

At most a given share of the compositions, the newest, is held back. If the live bundle was not trained
on enough of them, only those unknown to it are used, and the champion is compared as published.
Otherwise the champion is fitted again on the older part, like the challenger, because a model that was
trained on the test examples would have an unfair advantage.
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
REPORTED_METRICS = ("mrr", "accuracy", "ndcg@10", "nll")
BOOTSTRAP_DRAWS = 2000
AS_PUBLISHED = "as published"
FITTED = "fitted on the older part"
FITTED_AGAIN = "fitted again on the older part"


class Side(Options):
    """A model in a comparison, and its metrics."""

    label: str
    recommender: str
    how: str
    metrics: dict[str, float]


class Comparison(Options):
    """The metrics of the compared models on the held-back compositions, and their differences."""

    examples: int
    compositions: int
    challenger: Side
    champion: Side | None = Field(description="null if no bundle was live")
    popularity: Side
    difference: float | None = Field(None, description="MRR of the challenger minus the champion's")
    interval: tuple[float, float] | None = Field(
        None, description="95 % interval of the difference, by a bootstrap over compositions"
    )
    above_popularity: tuple[float, float] = Field(
        description="95 % interval of the challenger's MRR minus that of popularity"
    )


@dataclass(frozen=True)
class HeldBack:
    """The older compositions for training, and the held-back ones for testing.

    ``unseen`` is True if the live bundle was trained on none of the held-back compositions.
    """

    split: Split
    unseen: bool


@dataclass(frozen=True)
class Contender:
    """A fitted model to compare, and how it was fitted."""

    label: str
    how: str
    fitted: Fitted

    @classmethod
    def champion_of(cls, bundle: Bundle) -> Contender:
        """The champion of a bundle, as published."""
        label, fitted = bundle.model(None)
        return cls(label, AS_PUBLISHED, fitted)

    def outcome(self, examples: Sequence[Example]) -> Outcome:
        """The predictions for examples; a target that is unknown to the model counts as a miss."""
        vocabulary = self.fitted.vocabulary
        targets = target_columns(examples, vocabulary)
        return masked_outcome(examples, targets, self.fitted.probabilities, vocabulary)


def hold_back(
    examples: Sequence[Example], share: float, live: Bundle | None, min_examples: int
) -> HeldBack:
    """Hold back a share of the compositions, the newest.

    If at least ``min_examples`` of their examples are unknown to the live bundle, only their
    compositions are held back. Compositions without a time are in the order of the data. Raises
    :class:`DataError` for fewer than two compositions.
    """
    first_example: dict[int, Example] = {}
    counts: dict[int, int] = {}
    for example in examples:
        first_example.setdefault(example.composition, example)
        counts[example.composition] = counts.get(example.composition, 0) + 1
    times = {number: _latest_time(example) for number, example in first_example.items()}
    all_timed = all(time is not None for time in times.values())
    order = sorted(first_example, key=lambda number: (times[number] if all_timed else 0.0, number))
    if len(order) < 2:
        raise DataError(
            f"a comparison needs two compositions with examples, found {len(order)}; "
            "use `dagrec train`",
            rule="too-few",
        )
    size = min(len(order) - 1, max(1, round(share * len(order))))
    held_back = set(order[-size:])
    known_hashes = set() if live is None else set(live.evidence.sorted_hashes.tolist())
    unknown = {
        number
        for number in held_back
        if (composition := first_example[number].context.composition) is None
        or composition_hash(composition) not in known_hashes
    }
    unseen = live is not None and sum(counts[number] for number in unknown) >= min_examples
    if unseen:
        held_back = unknown
    split = Split(
        tuple(e for e in examples if e.composition not in held_back),
        tuple(e for e in examples if e.composition in held_back),
        ordered=all_timed,
    )
    return HeldBack(split, unseen)


def _latest_time(example: Example) -> float | None:
    """The latest time in the composition of an example."""
    composition = example.context.composition
    if composition is None:
        return example.context.time
    times = [composition.time, *(node.time for node in composition.nodes)]
    return max((time for time in times if time is not None), default=None)


def compare(
    examples: Sequence[Example],
    challenger: Contender,
    champion: Contender | None,
    popularity: Contender,
    seed: int,
) -> Comparison:
    """Compare the models on the same examples."""
    contenders = {"challenger": challenger, "popularity": popularity}
    if champion is not None:
        contenders["champion"] = champion
    outcomes = {name: contender.outcome(examples) for name, contender in contenders.items()}
    sides = {
        name: Side(
            label=contender.label,
            recommender=contender.fitted.recommender.name,
            how=contender.how,
            metrics={metric: METRICS[metric](outcomes[name]) for metric in REPORTED_METRICS},
        )
        for name, contender in contenders.items()
    }
    groups = np.array([e.composition for e in examples])
    rng = np.random.default_rng(seed)
    draws = resampled_weights(groups, row_weights(examples, "pairs"), BOOTSTRAP_DRAWS, rng)
    reciprocal_ranks = {name: _reciprocal_ranks(outcome) for name, outcome in outcomes.items()}

    def interval(other: str) -> tuple[float, float]:
        """The 95 % interval of the challenger's MRR minus that of another model."""
        differences = reciprocal_ranks["challenger"] - reciprocal_ranks[other]
        means = np.array([weights @ differences for weights in draws])
        estimate = mean_over_draws([float(differences.mean())], means)
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


def _reciprocal_ranks(outcome: Outcome) -> Floats:
    """[n] expected 1 / rank of each target over the orders of tied services, 0 for a miss."""
    return outcome.ranks.expect(1 / np.arange(1, outcome.num_services + 1))
