"""Fixtures: a split, and a recommender with equal scores."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dagrec.data.examples import Example
from dagrec.data.splits import Split, split_compositions
from dagrec.data.vocabulary import Contexts
from dagrec.models.counting.popularity import Popularity
from dagrec.types import Scores


class EqualScores(Popularity):
    """A recommender with equal scores for all services."""

    name = "equal_scores"

    def score(self, contexts: Contexts) -> Scores:
        return np.zeros_like(super().score(contexts))


@pytest.fixture
def equal_scores() -> type[Popularity]:
    return EqualScores


@pytest.fixture(scope="session")
def split(examples: tuple[Example, ...]) -> Split:
    """A split with 30 % of the compositions in the test part."""
    return split_compositions(examples, 0.3, random.Random(0))


@pytest.fixture(scope="session")
def retarget() -> Callable[[tuple[Example, ...], list[str]], tuple[Example, ...]]:
    """A function that replaces the targets of examples."""
    return lambda examples, targets: tuple(
        replace(example, target=target) for example, target in zip(examples, targets, strict=True)
    )
