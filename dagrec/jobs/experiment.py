"""Experiments: the plan of an evaluation, its data, and the split of each repeat."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, field_validator

from dagrec.data.dataset import Dataset
from dagrec.data.examples import Example
from dagrec.data.splits import PROTOCOLS, Split, prequential_splits
from dagrec.errors import did_you_mean
from dagrec.evaluation.evaluator import EvaluationSplit, Weight
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.config import RunConfig
from dagrec.types import Options

PREQUENTIAL = "prequential"
TEST_FILE = "test-file"
ALL_PROTOCOLS = (*PROTOCOLS, PREQUENTIAL, TEST_FILE)
RANDOM = ("pairs", "compositions", "cold-services")
"""Protocols with random splits. The others have one split, and repeats only change the seed."""


class Plan(Options):
    """The plan of an evaluation."""

    protocol: str = Field("pairs", description=f"one of {', '.join(ALL_PROTOCOLS)}")
    repeats: int = Field(20, ge=1, description="number of splits; for a single split, of trainings")
    seeds: int = Field(
        1, ge=1, description="number of trainings on each split, whose metrics are averaged"
    )
    share: float = Field(0.3, gt=0, lt=1, description="fraction of the data to test on")
    weight: Weight = Field("pairs", description="unit with equal weight in the metrics")
    every: int = Field(30, ge=1, description="prequential: test examples between two fits")
    every_counting: int = Field(1, ge=1, description="prequential: the same for counting recommenders")
    catalogue: tuple[tuple[str, str], ...] | None = None

    @field_validator("protocol")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in ALL_PROTOCOLS:
            raise ValueError(
                did_you_mean(value, ALL_PROTOCOLS).removeprefix("; ")
                or f"there are {', '.join(ALL_PROTOCOLS)}"
            )
        return value

    @property
    def single_split(self) -> bool:
        """Whether there is one split, so that intervals are estimated from its compositions."""
        return self.protocol not in RANDOM or self.repeats == 1


@dataclass(frozen=True)
class Experiment:
    """A plan, its examples, and the splits of the current repeat.

    test_examples: examples of a separate test set, or None; about, test_about: source, fingerprint and
    counts of the data, for the result.
    """

    examples: tuple[Example, ...]
    test_examples: tuple[Example, ...] | None
    plan: Plan
    seed: int
    about: dict[str, Any]
    test_about: dict[str, Any] | None
    _splits: dict[tuple[int, MaskPolicy, int], EvaluationSplit] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def of(
        cls, data: Dataset, config: RunConfig, plan: Plan, test: Dataset | None = None
    ) -> Experiment:
        """The experiment with the examples of a data set, and of a test set if there is one."""
        examples, extracted = data.examples(config.examples)
        test_examples, test_about = None, None
        if test is not None:
            test_examples, test_extracted = test.examples(config.examples)
            test_about = test.about(test_extracted)
        return cls(examples, test_examples, plan, config.seed, data.about(extracted), test_about)

    def split(self, repeat: int, mask: MaskPolicy, *, every: int) -> EvaluationSplit:
        """The split of a repeat.

        ``every`` is the minimum number of test examples in a block of the prequential protocol.
        """
        repeat = 0 if self.plan.protocol not in RANDOM else repeat
        every = every if self.plan.protocol == PREQUENTIAL else 0
        key = (repeat, mask, every)
        if key not in self._splits:
            for old in [old for old in self._splits if old[0] != repeat]:
                del self._splits[old]
            splits = tuple(self._draw(repeat, every))
            self._splits[key] = EvaluationSplit(splits, mask, self.plan.catalogue)
        return self._splits[key]

    def _draw(self, repeat: int, every: int) -> list[Split]:
        if self.test_examples is not None:
            return [Split(self.examples, self.test_examples)]
        if self.plan.protocol == PREQUENTIAL:
            return prequential_splits(self.examples, self.plan.share, every)
        rng = random.Random(f"split:{self.seed}:{repeat}")
        return [PROTOCOLS[self.plan.protocol](self.examples, self.plan.share, rng)]
