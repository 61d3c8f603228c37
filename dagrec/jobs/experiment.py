"""What is measured on what: a plan, the data under it, and the split of each repeat."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, field_validator

from dagrec.config import RunConfig
from dagrec.data.dataset import Dataset
from dagrec.data.examples import Example, require_examples
from dagrec.data.splits import PROTOCOLS, Split, prequential_splits
from dagrec.errors import did_you_mean
from dagrec.evaluation.evaluator import EvaluationSplit, Weight
from dagrec.graph.mask import MaskPolicy
from dagrec.types import Options

PREQUENTIAL = "prequential"
TEST_FILE = "test-file"
ALL_PROTOCOLS = (*PROTOCOLS, PREQUENTIAL, TEST_FILE)
RANDOM = ("pairs", "compositions", "cold-services")
"""Protocols whose split is drawn; the others have one split, and repeats change the seed only."""


class Plan(Options):
    """How to measure."""

    protocol: str = Field("pairs", description=f"one of {', '.join(ALL_PROTOCOLS)}")
    repeats: int = Field(20, ge=1, description="splits; of a single split, trainings")
    seeds: int = Field(1, ge=1, description="trainings on each split, whose values are averaged")
    share: float = Field(0.3, gt=0, lt=1, description="of the data that is tested on")
    weight: Weight = Field("pairs", description="what weighs the same")
    every: int = Field(30, ge=1, description="prequential: test examples between two fits")
    every_counting: int = Field(1, ge=1, description="prequential: the same where a fit only counts")
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
        """Whether all is measured on one split: then intervals come from its compositions."""
        return self.protocol not in RANDOM or self.repeats == 1


@dataclass(frozen=True)
class Experiment:
    """Examples in memory, and the splits made of them. The last split of each kind is kept."""

    examples: tuple[Example, ...]
    test_examples: tuple[Example, ...] | None
    """Those of a separate test set."""
    plan: Plan
    seed: int
    about: dict[str, Any]
    """Source, fingerprint and counts of the data, for the result."""
    test_about: dict[str, Any] | None
    _splits: dict[tuple[int, MaskPolicy, int], EvaluationSplit] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def of(
        cls, data: Dataset, config: RunConfig, plan: Plan, test: Dataset | None = None
    ) -> Experiment:
        """The examples of a data set, and of a test set that replaces drawn test parts."""
        examples, _ = require_examples(data.compositions, config.examples)
        test_examples, test_about = None, None
        if test is not None:
            test_examples, _ = require_examples(test.compositions, config.examples)
            test_about = test.about(test_examples)
        return cls(examples, test_examples, plan, config.seed, data.about(examples), test_about)

    def split(self, repeat: int, mask: MaskPolicy, *, every: int) -> EvaluationSplit:
        """The split of a repeat.

        ``every`` matters to the prequential protocol only: the smallest size of a block.
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
