"""All registered recommenders with options that are quick to train, fitted on a small world."""

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

SPECIAL_OPTIONS: dict[str, dict[str, Any]] = {
    "auto": {"candidates": ("markov", "vsknn"), "folds": 2},
    "ensemble": {"seeds": 2},
    "blend": {"members": {"markov": {}, "stan": {}}, "folds": 2},
    # Post-norm layers, as published, need small steps.
    "dagformer": {"learning_rate": 0.005},
    "deepdag": {"learning_rate": 0.005},
    "pagt": {"folds": 2},
}
"""Options of recommenders for which those of :func:`quick_options` are not enough."""
WITH_BASE = ("ensemble", "pagt")
"""Recommenders whose base is a network that learns what they learn."""
WORLD = everything()
VOCABULARY_AND_GRAPH = WORLD.data.vocabulary, WORLD.data.graph
UNKNOWN_CONTEXT = Context(("unknown", "nodes"))
EMPTY_CONTEXT = Context(())


def quick_options(name: str, epochs: int) -> dict[str, Any]:
    """Return options with which a recommender learns a small world quickly."""
    training = {"epochs": epochs, "min_steps": 0, "learning_rate": 0.02}
    special = SPECIAL_OPTIONS.get(name, {})
    if name in WITH_BASE:
        return {"base_options": training, **special}
    return training | special if recommender_class(name).traits.gradient_trained else special


def make(name: str, *, seed: int = 0, epochs: int = 3) -> Recommender:
    """Return an unfitted recommender with quick options."""
    return create(name, quick_options(name, epochs), seed=seed)


@cache
def fitted(name: str) -> Recommender:
    """Return a recommender fitted on ``WORLD``; it is cached, so tests must not change it."""
    return make(name).fit(WORLD.data)


def sample_contexts() -> Contexts:
    """Return contexts of all lengths, with and without compositions, known, partly known and empty."""
    origins = WORLD.data.contexts.origins
    partly_known = [Context((*c.path[:-1], "unknown", c.path[-1])) for c in origins[::3]]
    return WORLD.data.vocabulary.encode(
        [*origins, UNKNOWN_CONTEXT, *WORLD.contexts, EMPTY_CONTEXT, *partly_known]
    )


def assert_scores_close(actual: Scores, expected: Scores) -> None:
    """Assert that scores are equal except for rounding."""
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
