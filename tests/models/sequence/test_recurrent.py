"""What GRU4Rec scores in numpy is what its network says in torch."""

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
    "tied, of other widths": {"tied": True, "hidden": 6},
    "upstream": {"read": "upstream"},
}
PATHS = st.lists(st.sampled_from([*KEYS, "nobody"]), max_size=9)


def new(**options: object) -> GRU4Rec:
    found = create("gru4rec", {"embedding": 6, "hidden": 5, "epochs": 2, **options})
    assert isinstance(found, GRU4Rec)
    return found


@pytest.fixture(scope="module")
def models() -> dict[str, GRU4Rec]:
    """A fitted recommender of each shape; larger weights open and close the gates further."""
    found = {}
    for name, options in SHAPES.items():
        model = new(**options).fit(WORLD.data)
        state = {key: array * 2 for key, array in model.state().items()}
        found[name] = model.restore(state, WORLD.data.vocabulary, WORLD.data.graph)
    return found


def by_torch(model: GRU4Rec, contexts: Contexts) -> Scores:
    return NetworkRecommender._score(model, contexts)


def close(a: Scores, b: Scores) -> bool:
    """Within 1e-6 of the largest score; numbers of this size are not told apart any better."""
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1.0, float(np.abs(b).max())))
    return a.dtype == b.dtype == np.float32


def is_known(path: list[str]) -> bool:
    return any(key != "nobody" for key in path)


@pytest.mark.parametrize("shape", SHAPES)
@given(paths=st.lists(PATHS.filter(is_known), min_size=1, max_size=6))
def test_it_scores_as_torch_does(
    shape: str, paths: list[list[str]], models: dict[str, GRU4Rec]
) -> None:
    contexts = WORLD.data.vocabulary.encode([Context(tuple(path)) for path in paths])
    assert close(models[shape].score(contexts), by_torch(models[shape], contexts))


@pytest.mark.parametrize("shape", SHAPES)
@given(paths=st.lists(PATHS, max_size=6))
def test_a_batch_scores_as_each_alone(
    shape: str, paths: list[list[str]], models: dict[str, GRU4Rec]
) -> None:
    """Empty paths, and those of which nothing is known, among them."""
    model, encode = models[shape], WORLD.data.vocabulary.encode
    contexts = [Context(tuple(path)) for path in paths]
    together = model.score(encode(contexts))
    assert together.shape == (len(paths), len(WORLD.data.vocabulary.services))
    for row, context in zip(together, contexts, strict=True):
        assert close(row[None], model.score(encode([context])))


@pytest.mark.parametrize("shape", SHAPES)
def test_compositions_are_read_as_the_network_reads_them(
    shape: str, models: dict[str, GRU4Rec]
) -> None:
    contexts = WORLD.data.contexts
    assert close(models[shape].score(contexts), by_torch(models[shape], contexts))


def test_the_longest_paths_and_more_than_are_computed_at_once(models: dict[str, GRU4Rec]) -> None:
    model = models["two layers"]
    draw = np.random.default_rng(0)
    lengths = [MAX_CONTEXT_LENGTH, MAX_CONTEXT_LENGTH + 40, *draw.integers(1, 9, ROWS_PER_PASS + 5)]
    contexts = WORLD.data.vocabulary.encode([Context(tuple(draw.choice(KEYS, n))) for n in lengths])
    assert close(model.score(contexts), by_torch(model, contexts))


def test_it_scores_with_what_was_learned_or_restored_last() -> None:
    data, less = WORLD.data, memory().data
    model = new().fit(data)
    first, state = model.score(data.contexts), model.state()
    model.fit(less)
    assert close(model.score(less.contexts), by_torch(model, less.contexts))
    doubled = {key: array * 2 for key, array in state.items()}
    model.restore(doubled, data.vocabulary, data.graph)
    assert close(model.score(data.contexts), by_torch(model, data.contexts))
    assert not np.allclose(model.score(data.contexts), first)
    model.restore(state, data.vocabulary, data.graph)
    assert np.array_equal(model.score(data.contexts), first)


@pytest.mark.parametrize(
    "name", ["embed.weight", "gru.weight_ih_l1", "gru.weight_hh_l1", "head.weight"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_told_by_the_scores(
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


def test_one_path_is_scored_in_half_the_time_at_most() -> None:
    """Measured: a fifth; under load both are slower alike."""
    model = create("gru4rec", {"epochs": 1})
    assert isinstance(model, GRU4Rec)
    model.fit(WORLD.data)
    contexts = WORLD.data.vocabulary.encode([Context(tuple(KEYS[:3]))])
    with torch.inference_mode():
        assert 2 * median_seconds(lambda: model.score(contexts)) < median_seconds(
            lambda: by_torch(model, contexts)
        )
