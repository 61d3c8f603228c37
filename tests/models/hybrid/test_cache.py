from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from dagrec.data.examples import Call, Context
from dagrec.models.hybrid.cache import Cache, CacheConfig, components, restrict
from dagrec.models.hybrid.events import CACHES, HALF_LIVES, Past
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.models.hybrid.owners import alternating, asked
from tests.worlds import everything

DATA = alternating(services=("a", "b", "c"))
WORLD = everything().data
PARTS = 1 + len(CACHES) * len(HALF_LIVES)


def fitted(data: TrainingData = DATA, **options: float) -> Cache:
    return Cache(CacheConfig(**options)).fit(data)


def probabilities(model: Cache, context: Context, data: TrainingData = DATA) -> Floats:
    found: Floats = np.exp(model.score(data.vocabulary.encode([context]))[0].astype(np.float64))
    return found


def weighted(model: Cache, cache: str, half_life: float, weight: float) -> Cache:
    """The model with the base and one cache left, whose weight is given, whatever was told."""
    weights = np.zeros((1, PARTS))
    weights[0, 0] = 1 - weight
    weights[0, 1 + CACHES.index(cache) * len(HALF_LIVES) + HALF_LIVES.index(half_life)] = weight
    state = model.state()
    state["patterns"] = np.zeros((1, len(CACHES)), dtype=np.bool_)
    state["weights"] = np.repeat(weights, 2, axis=0)
    return Cache().restore(state, DATA.vocabulary, DATA.graph)


def test_probabilities_by_hand() -> None:
    """Calls a, b, a with a half-life of 2: 1/2 + 1 of a, 1/sqrt 2 of b."""
    model = fitted()
    base = create("markov").fit(DATA).score(DATA.vocabulary.encode([asked()]))[0]
    logs = base.astype(np.float64) / model._temperature
    base_p = np.exp(logs) / np.exp(logs).sum()
    total = 1.5 + 0.5**0.5
    expected = 0.25 * base_p + 0.75 * np.array([1.5 / total, 0.5**0.5 / total, 0])
    found = probabilities(weighted(model, "path", 2.0, 0.75), asked("a", "b", "a"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_empty_cache_leaves_its_weight_to_the_others() -> None:
    """Nothing came after this path: all is the base's, though the cache has the larger weight."""
    context = Context(("table_t",), history=(Call("a", ("elsewhere",)),))
    model = weighted(fitted(), "path", 2.0, 0.75)
    assert probabilities(model, context) == pytest.approx(1 / 3, abs=0.03)
    assert probabilities(weighted(fitted(), "any", 2.0, 0.75), context)[0] > 0.75


def test_unknown_services_before_all_others_change_nothing() -> None:
    model, context = fitted(), asked("a", "b", "a")
    longer = replace(context, history=(Call("x", ("elsewhere",)), *context.history))
    np.testing.assert_array_equal(probabilities(model, longer), probabilities(model, context))


def likelihoods(model: Cache, data: TrainingData) -> tuple[Floats, list[tuple[bool, ...]]]:
    """[n, 1 + M H] what each component says of each target out of fold; and what each was told by."""
    _, questions = model._out_of_fold(data)
    found = [components(q.past, q.base)[:, q.target] for q in questions]
    return np.array(found), [tuple(q.past.supported.tolist()) for q in questions]


@pytest.mark.parametrize("data", [DATA, WORLD], ids=["alternating", "everything"])
def test_the_mixture_is_no_less_likely_than_any_of_its_parts(data: TrainingData) -> None:
    model = fitted(data, strength=1e-9)
    p, told = likelihoods(model, data)
    for pattern in set(told):
        own = p[[t == pattern for t in told]]
        mixed = np.log(own @ model._weights_of(np.array(pattern))).sum()
        with np.errstate(divide="ignore"):
            alone = np.log(own).sum(axis=0)
        assert mixed >= alone.max() - 1e-4


def test_weights_are_those_of_a_general_optimiser() -> None:
    model = fitted(WORLD, strength=1e-9)
    p, told = likelihoods(model, WORLD)
    pattern = max(set(told), key=told.count)
    own = p[[t == pattern for t in told]]
    kept = np.flatnonzero(own.any(axis=0))

    def loss(logits: Floats) -> float:
        w = np.exp(logits - logits.max())
        return -float(np.log(own[:, kept] @ (w / w.sum())).sum())

    best = minimize(loss, np.zeros(len(kept)), options={"maxiter": 500}).fun
    mixed = -np.log(own @ model._weights_of(np.array(pattern))).sum()
    assert mixed <= best + 0.01 * len(own)


def test_a_pattern_never_seen_takes_the_restricted_weights() -> None:
    model = fitted()
    unseen = np.array([True, False, True, True, False, True])
    assert not (model._patterns == unseen).all(axis=1).any()
    np.testing.assert_allclose(model._weights_of(unseen), restrict(model._weights[0], unseen))


def test_strength_holds_a_pattern_at_the_weights_over_all() -> None:
    held = fitted(strength=1e9)
    for pattern in held._patterns:
        expected = restrict(held._weights[0], pattern)
        np.testing.assert_allclose(held._weights_of(pattern), expected, atol=1e-5)
    free = fitted(strength=1e-3)
    assert not np.allclose(free._weights[1:], held._weights[1:], atol=0.05)


def test_weights_of_empty_caches_are_zero_and_all_add_up_to_one() -> None:
    model = fitted(WORLD)
    assert model._weights.sum(axis=1) == pytest.approx(1)
    for pattern, weights in zip(model._patterns, model._weights[1:], strict=True):
        assert weights[1:].reshape(len(CACHES), -1)[~pattern].max(initial=0) == 0


def test_the_half_life_that_fits_is_learned() -> None:
    """Owners stay with a service for three calls: the last tells more than the count of all."""
    data = alternating(owners=30, calls=12, services=("a", "a", "a", "b", "b", "b", "c", "c", "c"))
    model = fitted(data)
    shares = model._weights[0, 1:].reshape(len(CACHES), len(HALF_LIVES)).sum(axis=0)
    assert shares.argmax() == 0
    p = probabilities(model, asked("a", "a", "a", "a", "b"), data)
    assert p.argmax() == 1


def test_components_are_the_base_and_the_shares() -> None:
    past = Past.of(asked("a", "b"), DATA.vocabulary.columns)
    found = components(past, np.log([0.2, 0.3, 0.5]))
    assert found.shape == (PARTS, 3)
    assert found[0] == pytest.approx([0.2, 0.3, 0.5])
    np.testing.assert_array_equal(found[1:], past.shares(3).reshape(-1, 3))
