from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from dagrec.data.examples import Context, extract
from dagrec.models.counting.markov import (
    HELD_OUT_SHARE,
    HOLD_OUTS,
    MUS,
    USUAL_MU,
    Markov,
    MarkovConfig,
)
from dagrec.training.data import TrainingData
from dagrec.types import Floats
from tests.worlds import branching, chain, composition, everything, memory

GIVEN_MUS = [0.1, 1.0, 5.0, 50.0]


def probabilities(data: TrainingData, path: Sequence[str], **options: float) -> dict[str, float]:
    """P(y | path) of a Markov chain with these options."""
    model = Markov(MarkovConfig(**options)).fit(data)
    p = np.exp(model.score(data.vocabulary.encode([Context(tuple(path))]))[0].astype(np.float64))
    return dict(zip(data.vocabulary.services, p.tolist(), strict=True))


def by_definition(data: TrainingData, path: Sequence[str], order: int, mu: float) -> Floats:
    """P_n(y | c) = (N(c, y) + mu P_{n-1}(y | c')) / (N(c) + mu), straight from the examples."""
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


@pytest.mark.parametrize("mu", GIVEN_MUS)
def test_interpolation_by_hand(mu: float) -> None:
    """N(table_b) = 4, of which 3 often; P_0(often) = (3 + 1) / (4 + 2)."""
    p = probabilities(branching().data, ["table_b"], mu=mu)
    assert p["often"] == pytest.approx((3 + mu * 4 / 6) / (4 + mu), rel=1e-6)
    assert p["rarely"] == pytest.approx((1 + mu * 2 / 6) / (4 + mu), rel=1e-6)


@pytest.mark.parametrize("mu", GIVEN_MUS)
def test_two_orders_by_hand(mu: float) -> None:
    """In three copies of the memory world 9 follow ``hub``, 3 of them after table_l."""
    data = memory(copies=3).data
    assert len(data.vocabulary.services) == 5
    zero = (3 + 1) / (18 + 5)
    one = (3 + mu * zero) / (9 + mu)
    two = (3 + mu * one) / (3 + mu)
    assert probabilities(data, ["hub"], mu=mu)["west"] == pytest.approx(one, rel=1e-6)
    assert probabilities(data, ["table_l", "hub"], mu=mu)["west"] == pytest.approx(two, rel=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 8])
def test_scores_equal_the_definition(order: int) -> None:
    data = everything().data
    model = Markov(MarkovConfig(order=order, mu=2.0)).fit(data)
    scores = model.score(data.contexts)
    expected = [by_definition(data, context.path, order, 2.0) for context in data.contexts.origins]
    np.testing.assert_allclose(scores, np.log(expected), rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_probabilities_sum_to_one_at_each_order(order: int) -> None:
    data = everything().data
    scores = Markov(MarkovConfig(order=order)).fit(data).score(data.contexts)
    np.testing.assert_allclose(np.exp(scores.astype(np.float64)).sum(axis=1), 1, atol=1e-6)


def test_a_vanishing_mu_gives_the_shares_of_the_longest_suffix() -> None:
    p = probabilities(branching().data, ["table_b"], mu=1e-9)
    assert p == pytest.approx({"often": 3 / 4, "rarely": 1 / 4}, abs=1e-6)
    p = probabilities(memory().data, ["table_r", "hub"], mu=1e-9)
    assert p["east"] == pytest.approx(1, abs=1e-6)


def test_an_endless_mu_gives_the_prior() -> None:
    p = probabilities(branching().data, ["table_b"], mu=1e12)
    assert p == pytest.approx({"often": 4 / 6, "rarely": 2 / 6}, rel=1e-6)


def test_an_unseen_suffix_gives_the_shorter_one_exactly() -> None:
    data = everything().data
    model = Markov().fit(data)

    def score(*path: str) -> list[float]:
        return list(model.score(data.vocabulary.encode([Context(path)]))[0])

    assert score("table_b", "hub") == score("hub")
    assert score("nobody", "hub") == score("hub")
    assert score("table_l", "hub", "table_b", "hub") == score("hub")
    assert score("table_l", "hub") != score("hub")


def test_order_bounds_the_memory() -> None:
    data = memory().data
    west, east = (["table_l", "hub"], ["table_r", "hub"])
    assert probabilities(data, west, order=1) == probabilities(data, east, order=1)
    assert probabilities(data, west, order=2) != probabilities(data, east, order=2)


def test_the_order_of_the_examples_does_not_matter() -> None:
    world = everything()
    one, other = world.data, TrainingData.of(world.examples[::-1])
    path = ["table_l", "hub"]
    assert probabilities(one, path) == probabilities(other, path)
    states = [Markov().fit(data).state() for data in (one, other)]
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_counts_of_equal_examples_add_up() -> None:
    p = probabilities(chain(copies=7).data, ["table_a"], order=1, mu=1.0)
    zero = (7 + 1) / (4 * 7 + 4)
    assert p["extract"] == pytest.approx((7 + zero) / (7 + 1), rel=1e-6)


# The choice of mu


@pytest.mark.parametrize("seed", [0, 1])
def test_the_chosen_mu_is_the_likeliest_on_held_out_compositions(seed: int) -> None:
    data = everything().data
    likelihoods = dict.fromkeys(MUS, 0.0)
    for number in range(HOLD_OUTS):
        training, held_out = data.hold_out(HELD_OUT_SHARE, HOLD_OUTS * seed + number)
        for mu in MUS:
            for example, column in zip(held_out.examples, held_out.targets, strict=True):
                p = by_definition(training, example.context.path, 8, mu)
                likelihoods[mu] += float(np.log(p[column]))
    chosen = Markov(seed=seed).fit(data).state()["mu"].tolist()
    assert chosen == [max(likelihoods, key=lambda mu: likelihoods[mu])]


def test_a_mu_that_is_given_is_taken() -> None:
    assert Markov(MarkovConfig(mu=3.5)).fit(everything().data).state()["mu"].tolist() == [3.5]


def test_a_single_composition_has_nothing_to_hold_out() -> None:
    assert Markov().fit(chain(copies=1).data).state()["mu"].tolist() == [USUAL_MU]


def test_a_world_without_surprises_wants_little_shrinkage_and_noise_wants_much() -> None:
    certain = Markov().fit(chain(copies=30).data).state()["mu"]
    services = [f"y{i}" for i in range(4)]
    rng = random.Random(0)
    noise = [
        composition(f"c{i}", (f"table_{rng.randrange(30)}", rng.choice(services))) for i in range(600)
    ]
    noisy = Markov().fit(TrainingData.of(extract(noise)[0])).state()["mu"]
    assert certain == min(MUS)
    assert noisy == max(MUS)


# Extremes


@pytest.mark.parametrize("mu", [1e-300, 1e-3, 1e300])
def test_long_paths_and_extreme_mu_stay_finite(mu: float) -> None:
    """A product of a hundred shares of mu is too small for a float; its logarithm is not."""
    path = [f"step_{i:03d}" for i in range(100)]
    rare = composition("other", ("table_a", "rare"))
    examples, _ = extract([composition("long", path)] * 20 + [rare])
    data = TrainingData.of(examples)
    model = Markov(MarkovConfig(order=128, mu=mu)).fit(data)
    assert np.isfinite(model.score(data.contexts)).all()
