"""What is measured on what: a protocol, the data under it, and the exam of each repeat."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from dagrec.config import RunConfig
from dagrec.data.examples import Example, need_examples
from dagrec.data.formats import Dataset, read
from dagrec.data.splits import PROTOCOLS, Split, blocks
from dagrec.evaluation.evaluator import Exam, Weight
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
            raise ValueError(f"there are {', '.join(ALL_PROTOCOLS)}")
        return value

    @property
    def single(self) -> bool:
        """Whether all is measured on one split: then intervals come from its compositions."""
        return self.protocol not in RANDOM or self.repeats == 1


@dataclass(frozen=True)
class Experiment:
    """Examples in memory, and the exams made of them. The last exam of each kind is kept."""

    examples: tuple[Example, ...]
    held_out: tuple[Example, ...] | None
    """The examples of a separate test file."""
    plan: Plan
    seed: int
    about: dict[str, Any]
    """Paths, fingerprints and counts of the data, for the result."""
    test_about: dict[str, Any] | None
    _exams: dict[tuple[int, MaskPolicy, int], Exam] = field(default_factory=dict, repr=False)

    def exam(self, repeat: int, mask: MaskPolicy, *, every: int) -> Exam:
        """The exam of a repeat.

        ``every`` matters to the prequential protocol only: the least size of a block.
        """
        repeat = 0 if self.plan.protocol not in RANDOM else repeat
        every = every if self.plan.protocol == PREQUENTIAL else 0
        key = (repeat, mask, every)
        if key not in self._exams:
            for old in [old for old in self._exams if old[0] != repeat]:
                del self._exams[old]
            self._exams[key] = Exam(tuple(self._splits(repeat, every)), mask, self.plan.catalogue)
        return self._exams[key]

    def _splits(self, repeat: int, every: int) -> list[Split]:
        if self.held_out is not None:
            return [Split(self.examples, self.held_out)]
        if self.plan.protocol == PREQUENTIAL:
            return blocks(self.examples, self.plan.share, every)
        rng = random.Random(f"split:{self.seed}:{repeat}")
        return [PROTOCOLS[self.plan.protocol](self.examples, self.plan.share, rng)]


def load_experiment(data: Path, test: Path | None, config: RunConfig, plan: Plan) -> Experiment:
    """Read the data of an experiment and extract its examples."""
    dataset = read(data, config.read)
    examples, _ = need_examples(dataset.compositions, config.examples)
    held_out, test_about = None, None
    if test is not None:
        test_set = read(test, config.read)
        held_out, _ = need_examples(test_set.compositions, config.examples)
        test_about = about_data(test, test_set, held_out)
    about = about_data(data, dataset, examples)
    return Experiment(examples, held_out, plan, config.seed, about, test_about)


def about_data(path: Path, dataset: Dataset, examples: Sequence[Example]) -> dict[str, Any]:
    """What a result or a manifest says of the data behind it."""
    return {
        "path": str(path),
        "fingerprint": dataset.fingerprint,
        "compositions": len(dataset.compositions),
        "examples": len(examples),
        "skipped": dict(dataset.report.skipped),
    }
