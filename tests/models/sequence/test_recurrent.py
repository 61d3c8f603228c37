"""Tests that the scores of GRU4Rec in numpy match those of its network in torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context
from dagrec.data.vocabulary import Contexts
from dagrec.errors import NumericalError
from dagrec.models.network import NetworkRecommender
from dagrec.models.registry import create
from dagrec.models.sequence.gru4rec import GRU4Rec
from dagrec.models.sequence.recurrent import ROWS_PER_PASS
from dagrec.types import Scores
from tests.worlds import everything, memory

WORLD = everything()
KEYS = sorted({key for path in WORLD.follows for key in path})
SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {"layers": 1},
    "two layers": {},
    "three layers": {"layers": 3},
    "tied": {"tied": True},
    "tied, with projection": {"tied": True, "hidden": 6},
    "upstream": {"read": "upstream"},
}
PATHS = st.lists(st.sampled_from([*KEYS, "nobody"]), max_size=9)


def new(**options: object) -> GRU4Rec:
    model = create("gru4rec", {"embedding": 6, "hidden": 5, "epochs": 2, **options})
    assert isinstance(model, GRU4Rec)
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, GRU4Rec]:
    """Return a fitted recommender per shape; doubled weights saturate the gates more."""
    models = {}
    for name, options in SHAPES.items():
        model = new(**options).fit(WORLD.data)
        state = {key: array * 2 for key, array in model.state().items()}
        models[name] = model.restore(state, WORLD.data.vocabulary, WORLD.data.graph)
    return models


def torch_scores(model: GRU4Rec, contexts: Contexts) -> Scores:
    return NetworkRecommender._score(model, contexts)


def assert_close(a: Scores, b: Scores) -> None:
    """Check equality up to 1e-6 of the largest score, which is about the float32 resolution."""
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1.0, float(np.abs(b).max())))
    assert a.dtype == b.dtype == np.float32


def has_known_node(path: list[str]) -> bool:
    return any(key != "nobody" for key in path)


@pytest.mark.parametrize("shape", SHAPES)
@given(paths=st.lists(PATHS.filter(has_known_node), min_size=1, max_size=6))
def test_scores_match_torch(shape: str, paths: list[list[str]], models: dict[str, GRU4Rec]) -> None:
    contexts = WORLD.data.vocabulary.encode([Context(tuple(path)) for path in paths])
    assert_close(models[shape].score(contexts), torch_scores(models[shape], contexts))


@pytest.mark.parametrize("shape", SHAPES)
@given(paths=st.lists(PATHS, max_size=6))
def test_batch_scores_equal_single_scores(
    shape: str, paths: list[list[str]], models: dict[str, GRU4Rec]
) -> None:
    """The batches include empty paths and paths without known nodes."""
    model, encode = models[shape], WORLD.data.vocabulary.encode
    contexts = [Context(tuple(path)) for path in paths]
    batch = model.score(encode(contexts))
    assert batch.shape == (len(paths), len(WORLD.data.vocabulary.services))
    for row, context in zip(batch, contexts, strict=True):
        assert_close(row[None], model.score(encode([context])))


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_of_compositions_match_torch(shape: str, models: dict[str, GRU4Rec]) -> None:
    contexts = WORLD.data.contexts
    assert_close(models[shape].score(contexts), torch_scores(models[shape], contexts))


def test_scores_of_long_paths_and_large_batches_match_torch(models: dict[str, GRU4Rec]) -> None:
    model = models["two layers"]
    rng = np.random.default_rng(0)
    lengths = [MAX_CONTEXT_LENGTH, MAX_CONTEXT_LENGTH + 40, *rng.integers(1, 9, ROWS_PER_PASS + 5)]
    contexts = WORLD.data.vocabulary.encode([Context(tuple(rng.choice(KEYS, n))) for n in lengths])
    assert_close(model.score(contexts), torch_scores(model, contexts))


def test_scores_use_latest_fit_or_restore() -> None:
    data, smaller = WORLD.data, memory().data
    model = new().fit(data)
    first, state = model.score(data.contexts), model.state()
    model.fit(smaller)
    assert_close(model.score(smaller.contexts), torch_scores(model, smaller.contexts))
    doubled = {key: array * 2 for key, array in state.items()}
    model.restore(doubled, data.vocabulary, data.graph)
    assert_close(model.score(data.contexts), torch_scores(model, data.contexts))
    assert not np.allclose(model.score(data.contexts), first)
    model.restore(state, data.vocabulary, data.graph)
    assert np.array_equal(model.score(data.contexts), first)


@pytest.mark.parametrize(
    "name", ["embed.weight", "gru.weight_ih_l1", "gru.weight_hh_l1", "head.weight"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_score_rejects_weights_that_are_not_finite(
    name: str, value: float, models: dict[str, GRU4Rec]
) -> None:
    state = models["two layers"].state()
    state[name] = np.full_like(state[name], value)
    model = new().restore(state, WORLD.data.vocabulary, WORLD.data.graph)
    with pytest.raises(NumericalError, match="gru4rec: scores must be finite, found NaN or infinity"):
        model.score(WORLD.data.contexts)


def median_seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(200):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def test_single_path_is_at_least_twice_as_fast_as_torch() -> None:
    """The measured ratio is a fifth; load slows down both."""
    model = create("gru4rec", {"epochs": 1})
    assert isinstance(model, GRU4Rec)
    model.fit(WORLD.data)
    contexts = WORLD.data.vocabulary.encode([Context(tuple(KEYS[:3]))])
    with torch.inference_mode():
        assert 2 * median_seconds(lambda: model.score(contexts)) < median_seconds(
            lambda: torch_scores(model, contexts)
        )
