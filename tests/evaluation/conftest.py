"""Splits, and a recommender that knows nothing."""

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


class Ignorant(Popularity):
    """Equal scores for all services, in place of its prior too."""

    name = "ignorant"

    def score(self, contexts: Contexts) -> Scores:
        return np.zeros_like(super().score(contexts))


@pytest.fixture
def ignorant() -> type[Popularity]:
    return Ignorant


@pytest.fixture(scope="session")
def split(examples: tuple[Example, ...]) -> Split:
    """A third of the compositions held out."""
    return split_compositions(examples, 0.3, random.Random(0))


@pytest.fixture(scope="session")
def retarget() -> Callable[[tuple[Example, ...], list[str]], tuple[Example, ...]]:
    """The same examples with other targets."""
    return lambda examples, targets: tuple(
        replace(example, target=target) for example, target in zip(examples, targets, strict=True)
    )
