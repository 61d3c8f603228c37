from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from dagrec.data.examples import Context, extract
from dagrec.models.counting.markov import (
    DEFAULT_MU,
    HELD_OUT_SHARE,
    MU_CANDIDATES,
    NUM_HOLD_OUTS,
    Markov,
    MarkovConfig,
)
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.worlds import branching, chain, composition, everything, memory

MUS = [0.1, 1.0, 5.0, 50.0]


def probabilities(data: TrainingData, path: Sequence[str], **options: float) -> dict[str, float]:
    """Return P(y | path) of a Markov chain with these options."""
    model = Markov(MarkovConfig(**options)).fit(data)
    p = np.exp(model.score(data.vocabulary.encode([Context(tuple(path))]))[0].astype(np.float64))
    return dict(zip(data.vocabulary.services, p.tolist(), strict=True))


def reference(data: TrainingData, path: Sequence[str], order: int, mu: float) -> Floats:
    """Return P_n(y | c) = (N(c, y) + mu P_{n-1}(y | c')) / (N(c) + mu), computed from the examples."""
    services = data.vocabulary.services

    def count(suffix: Sequence[str]) -> Floats:
        matching = [
            example.target
            for example in data.examples
            if example.context.path[len(example.context.path) - len(suffix) :] == tuple(suffix)
        ]
        return np.array([matching.count(y) for y in services], dtype=np.float64)

    p = (count(()) + 1) / (len(data.examples) + len(services))
    for n in range(1, min(order, len(path)) + 1):
        counts = count(path[-n:])
        p = (counts + mu * p) / (counts.sum() + mu)
    return p


@pytest.mark.parametrize("mu", MUS)
def test_first_order_equals_manual_calculation(mu: float) -> None:
    """N(table_b) = 4, of which 3 often; P_0(often) = (3 + 1) / (4 + 2)."""
    p = probabilities(branching().data, ["table_b"], mu=mu)
    assert p["often"] == pytest.approx((3 + mu * 4 / 6) / (4 + mu), rel=1e-6)
    assert p["rarely"] == pytest.approx((1 + mu * 2 / 6) / (4 + mu), rel=1e-6)


@pytest.mark.parametrize("mu", MUS)
def test_second_order_equals_manual_calculation(mu: float) -> None:
    """In three copies of the memory world 9 services follow ``hub``, 3 of them after table_l."""
    data = memory(copies=3).data
    assert len(data.vocabulary.services) == 5
    zero = (3 + 1) / (18 + 5)
    one = (3 + mu * zero) / (9 + mu)
    two = (3 + mu * one) / (3 + mu)
    assert probabilities(data, ["hub"], mu=mu)["west"] == pytest.approx(one, rel=1e-6)
    assert probabilities(data, ["table_l", "hub"], mu=mu)["west"] == pytest.approx(two, rel=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 8])
def test_scores_follow_formula(order: int) -> None:
    data = everything().data
    model = Markov(MarkovConfig(order=order, mu=2.0)).fit(data)
    scores = model.score(data.contexts)
    expected = [reference(data, context.path, order, 2.0) for context in data.contexts.origins]
    np.testing.assert_allclose(scores, np.log(expected), rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one(order: int) -> None:
    data = everything().data
    scores = Markov(MarkovConfig(order=order)).fit(data).score(data.contexts)
    np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(axis=1), 1, atol=1e-6)


def test_small_mu_gives_relative_frequencies_of_longest_suffix() -> None:
    p = probabilities(branching().data, ["table_b"], mu=1e-9)
    assert p == pytest.approx({"often": 3 / 4, "rarely": 1 / 4}, abs=1e-6)
    p = probabilities(memory().data, ["table_r", "hub"], mu=1e-9)
    assert p["east"] == pytest.approx(1, abs=1e-6)


def test_large_mu_gives_prior() -> None:
    p = probabilities(branching().data, ["table_b"], mu=1e12)
    assert p == pytest.approx({"often": 4 / 6, "rarely": 2 / 6}, rel=1e-6)


def test_unseen_suffix_gives_scores_of_shorter_suffix() -> None:
    data = everything().data
    model = Markov().fit(data)

    def score(*path: str) -> list[float]:
        return list(model.score(data.vocabulary.encode([Context(path)]))[0])

    assert score("table_b", "hub") == score("hub")
    assert score("unknown", "hub") == score("hub")
    assert score("table_l", "hub", "table_b", "hub") == score("hub")
    assert score("table_l", "hub") != score("hub")


def test_order_limits_suffix_length() -> None:
    data = memory().data
    west, east = (["table_l", "hub"], ["table_r", "hub"])
    assert probabilities(data, west, order=1) == probabilities(data, east, order=1)
    assert probabilities(data, west, order=2) != probabilities(data, east, order=2)


def test_example_order_does_not_matter() -> None:
    world = everything()
    forward, backward = world.data, TrainingData.of(world.examples[::-1])
    path = ["table_l", "hub"]
    assert probabilities(forward, path) == probabilities(backward, path)
    states = [Markov().fit(data).state() for data in (forward, backward)]
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_equal_examples_are_counted_separately() -> None:
    p = probabilities(chain(copies=7).data, ["table_a"], order=1, mu=1.0)
    zero = (7 + 1) / (4 * 7 + 4)
    assert p["extract"] == pytest.approx((7 + zero) / (7 + 1), rel=1e-6)


# The choice of mu


@pytest.mark.parametrize("seed", [0, 1])
def test_chosen_mu_maximises_held_out_likelihood(seed: int) -> None:
    data = everything().data
    log_likelihoods = dict.fromkeys(MU_CANDIDATES, 0.0)
    for number in range(NUM_HOLD_OUTS):
        training, held_out = data.hold_out(HELD_OUT_SHARE, NUM_HOLD_OUTS * seed + number)
        for mu in MU_CANDIDATES:
            for example, column in zip(held_out.examples, held_out.targets, strict=True):
                p = reference(training, example.context.path, 8, mu)
                log_likelihoods[mu] += float(np.log(p[column]))
    chosen = Markov(seed=seed).fit(data).state()["mu"].tolist()
    assert chosen == [max(log_likelihoods, key=lambda mu: log_likelihoods[mu])]


def test_configured_mu_is_used() -> None:
    assert Markov(MarkovConfig(mu=3.5)).fit(everything().data).state()["mu"].tolist() == [3.5]


def test_single_composition_uses_default_mu() -> None:
    assert Markov().fit(chain(copies=1).data).state()["mu"].tolist() == [DEFAULT_MU]


def test_chosen_mu_is_small_for_predictable_data_and_large_for_noise() -> None:
    predictable = Markov().fit(chain(copies=30).data).state()["mu"]
    services = [f"y{i}" for i in range(4)]
    rng = random.Random(0)
    noise = [
        composition(f"c{i}", (f"table_{rng.randrange(30)}", rng.choice(services))) for i in range(600)
    ]
    noisy = Markov().fit(TrainingData.of(extract(noise)[0])).state()["mu"]
    assert predictable == min(MU_CANDIDATES)
    assert noisy == max(MU_CANDIDATES)


# Extreme values


@pytest.mark.parametrize("mu", [1e-300, 1e-3, 1e300])
def test_scores_of_long_paths_are_finite_for_extreme_mu(mu: float) -> None:
    """The product of a hundred factors underflows; its logarithm must not."""
    path = [f"step_{i:03d}" for i in range(100)]
    rare = composition("other", ("table_a", "rare"))
    examples, _ = extract([composition("long", path)] * 20 + [rare])
    data = TrainingData.of(examples)
    model = Markov(MarkovConfig(order=128, mu=mu)).fit(data)
    assert np.isfinite(model.score(data.contexts)).all()
