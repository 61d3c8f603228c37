from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from dagrec.data.examples import Call, Context
from dagrec.models.hybrid.cache import Cache, CacheConfig, components, restrict
from dagrec.models.hybrid.events import CACHES, HALF_LIVES, OwnerHistory
from dagrec.models.registry import create
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.models.hybrid.owners import alternating, context_after
from tests.worlds import everything

DATA = alternating(services=("a", "b", "c"))
WORLD = everything().data
NUM_COMPONENTS = 1 + len(CACHES) * len(HALF_LIVES)


def fitted(data: TrainingData = DATA, **options: float) -> Cache:
    return Cache(CacheConfig(**options)).fit(data)


def probabilities(model: Cache, context: Context, data: TrainingData = DATA) -> Floats:
    p: Floats = np.exp(model.score(data.vocabulary.encode([context]))[0].astype(np.float64))
    return p


def weighted(model: Cache, cache: str, half_life: float, weight: float) -> Cache:
    """Return the model with this weight for one cache and the rest for the base, in all patterns."""
    weights = np.zeros((1, NUM_COMPONENTS))
    weights[0, 0] = 1 - weight
    weights[0, 1 + CACHES.index(cache) * len(HALF_LIVES) + HALF_LIVES.index(half_life)] = weight
    state = model.state()
    state["patterns"] = np.zeros((1, len(CACHES)), dtype=np.bool_)
    state["weights"] = np.repeat(weights, 2, axis=0)
    return Cache().restore(state, DATA.vocabulary, DATA.graph)


def test_probabilities_match_manual_computation() -> None:
    """Calls a, b, a with a half-life of 2: 1/2 + 1 of a, 1/sqrt 2 of b."""
    model = fitted()
    base = create("markov").fit(DATA).score(DATA.vocabulary.encode([context_after()]))[0]
    scaled = base.astype(np.float64) / model._temperature
    base_p = np.exp(scaled) / np.exp(scaled).sum()
    total = 1.5 + 0.5**0.5
    expected = 0.25 * base_p + 0.75 * np.array([1.5 / total, 0.5**0.5 / total, 0])
    mixed = probabilities(weighted(model, "path", 2.0, 0.75), context_after("a", "b", "a"))
    np.testing.assert_allclose(mixed, expected, rtol=1e-5)


def test_weight_of_empty_cache_goes_to_other_components() -> None:
    """No call came after this path, so the base has weight 1."""
    context = Context(("table_t",), history=(Call("a", ("elsewhere",)),))
    model = weighted(fitted(), "path", 2.0, 0.75)
    assert probabilities(model, context) == pytest.approx(1 / 3, abs=0.03)
    assert probabilities(weighted(fitted(), "any", 2.0, 0.75), context)[0] > 0.75


def test_oldest_unknown_services_have_no_effect() -> None:
    model, context = fitted(), context_after("a", "b", "a")
    with_unknown = replace(context, history=(Call("x", ("elsewhere",)), *context.history))
    np.testing.assert_array_equal(probabilities(model, with_unknown), probabilities(model, context))


def likelihoods(model: Cache, data: TrainingData) -> tuple[Floats, list[tuple[bool, ...]]]:
    """Return the target probabilities of the components [n, 1 + M H] and the patterns [n]."""
    _, examples = model._out_of_fold(data)
    p = [components(e.history, e.base)[:, e.target] for e in examples]
    return np.array(p), [tuple(e.history.supported.tolist()) for e in examples]


@pytest.mark.parametrize("data", [DATA, WORLD], ids=["alternating", "everything"])
def test_mixture_likelihood_is_at_least_that_of_each_component(data: TrainingData) -> None:
    model = fitted(data, strength=1e-9)
    p, patterns = likelihoods(model, data)
    for pattern in set(patterns):
        pattern_p = p[[other == pattern for other in patterns]]
        mixed = np.log(pattern_p @ model._weights_of(np.array(pattern))).sum()
        with np.errstate(divide="ignore"):
            single = np.log(pattern_p).sum(axis=0)
        assert mixed >= single.max() - 1e-4


def test_weights_match_general_optimiser() -> None:
    model = fitted(WORLD, strength=1e-9)
    p, patterns = likelihoods(model, WORLD)
    pattern = max(set(patterns), key=patterns.count)
    pattern_p = p[[other == pattern for other in patterns]]
    columns = np.flatnonzero(pattern_p.any(axis=0))

    def loss(logits: Floats) -> float:
        w = np.exp(logits - logits.max())
        return -float(np.log(pattern_p[:, columns] @ (w / w.sum())).sum())

    best = minimize(loss, np.zeros(len(columns)), options={"maxiter": 500}).fun
    mixed = -np.log(pattern_p @ model._weights_of(np.array(pattern))).sum()
    assert mixed <= best + 0.01 * len(pattern_p)


def test_unseen_pattern_uses_restricted_weights() -> None:
    model = fitted()
    unseen = np.array([True, False, True, True, False, True])
    assert not (model._patterns == unseen).all(axis=1).any()
    np.testing.assert_allclose(model._weights_of(unseen), restrict(model._weights[0], unseen))


def test_large_strength_keeps_overall_weights() -> None:
    strong = fitted(strength=1e9)
    for pattern in strong._patterns:
        expected = restrict(strong._weights[0], pattern)
        np.testing.assert_allclose(strong._weights_of(pattern), expected, atol=1e-5)
    weak = fitted(strength=1e-3)
    assert not np.allclose(weak._weights[1:], strong._weights[1:], atol=0.05)


def test_weights_sum_to_1_and_are_0_for_empty_caches() -> None:
    model = fitted(WORLD)
    assert model._weights.sum(axis=1) == pytest.approx(1)
    for pattern, weights in zip(model._patterns, model._weights[1:], strict=True):
        assert weights[1:].reshape(len(CACHES), -1)[~pattern].max(initial=0) == 0


def test_fit_learns_suitable_half_life() -> None:
    """Owners repeat a service three times, so the last call is more informative than all counts."""
    data = alternating(owners=30, calls=12, services=("a", "a", "a", "b", "b", "b", "c", "c", "c"))
    model = fitted(data)
    shares = model._weights[0, 1:].reshape(len(CACHES), len(HALF_LIVES)).sum(axis=0)
    assert shares.argmax() == 0
    p = probabilities(model, context_after("a", "a", "a", "a", "b"), data)
    assert p.argmax() == 1


def test_components_are_base_and_shares() -> None:
    history = OwnerHistory.of(context_after("a", "b"), DATA.vocabulary.columns)
    result = components(history, np.log([0.2, 0.3, 0.5]))
    assert result.shape == (NUM_COMPONENTS, 3)
    assert result[0] == pytest.approx([0.2, 0.3, 0.5])
    np.testing.assert_array_equal(result[1:], history.shares(3).reshape(-1, 3))
