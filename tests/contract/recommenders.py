"""Registered recommenders, made quick to train, and a world that all of them know a little."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from dagrec.data.examples import Context
from dagrec.data.vocabulary import Contexts
from dagrec.models.base import Recommender
from dagrec.models.registry import create, recommender_class
from dagrec.types import Scores
from tests.worlds import everything

SMALL: dict[str, dict[str, Any]] = {
    "auto": {"candidates": ("markov", "vsknn"), "folds": 2},
    "ensemble": {"base_options": {"epochs": 40, "learning_rate": 0.02}, "seeds": 2},
    "blend": {"members": {"markov": {}, "stan": {}}, "folds": 2},
    # Norms behind the sums, as published, need small steps.
    "dagformer": {"learning_rate": 0.005},
    "deepdag": {"learning_rate": 0.005},
    "pagt": {"base_options": {"epochs": 40, "learning_rate": 0.02}, "folds": 2},
}
"""Recommender -> options that make it quick to train, where the general ones are not enough."""
WORLD = everything()
KNOWN = WORLD.data.vocabulary, WORLD.data.graph
NOBODY = Context(("nobody", "knows"))
EMPTY = Context(())


def options(name: str, epochs: int) -> dict[str, Any]:
    """Options with which a recommender learns a tiny world in a moment."""
    if recommender_class(name).traits.gradient_trained:
        quick = {"epochs": epochs, "min_steps": 0, "learning_rate": 0.02}
        return quick | SMALL.get(name, {})
    return SMALL.get(name, {})


def new(name: str, *, seed: int = 0, epochs: int = 3) -> Recommender:
    return create(name, options(name, epochs), seed=seed)


@cache
def fitted(name: str) -> Recommender:
    """A recommender that knows all worlds a little; for tests that only ask it."""
    return new(name).fit(WORLD.data)


def asked() -> Contexts:
    """Contexts of all lengths: with and without a composition, known, half known and empty."""
    origins = WORLD.data.contexts.origins
    half_known = [Context((*c.path[:-1], "nobody", c.path[-1])) for c in origins[::3]]
    return WORLD.data.vocabulary.encode([*origins, NOBODY, *WORLD.contexts, EMPTY, *half_known])


def close(a: Scores, b: Scores) -> bool:
    """Equal but for the order in which a batch is summed up."""
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    return True
