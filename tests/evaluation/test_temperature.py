"""Temperatures from held-out parts, under each mask."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dagrec.data.examples import Example
from dagrec.data.splits import Split, split_pairs
from dagrec.data.vocabulary import Contexts
from dagrec.evaluation.evaluator import TestPart, evaluate_run
from dagrec.graph.mask import MaskPolicy, competitors, successor_mask
from dagrec.metrics.ranking import METRICS, Outcome
from dagrec.models.counting.markov import Markov
from dagrec.models.registry import create
from dagrec.types import Scores
from tests.worlds import everything

POLICIES = [MaskPolicy.OBSERVED, MaskPolicy.SOFT, MaskPolicy.NONE]
each_policy = pytest.mark.parametrize("policy", POLICIES)


@each_policy
def test_the_targets_are_likeliest_under_it(split: Split, policy: MaskPolicy) -> None:
    part = TestPart.of_split(split, policy)
    model = create("ridge").fit(part.data)
    found = part.temperature(model)

    def nll(temperature: float) -> float:
        return METRICS["nll"](part.outcome(part.fitted(model, temperature).probabilities))

    assert nll(found) < nll(1.0) - 0.01
    assert nll(found) <= min(nll(found * 1.05), nll(found / 1.05))


class Louder(Markov):
    """Four times the scores."""

    def score(self, contexts: Contexts) -> Scores:
        return 4 * super().score(contexts)


@each_policy
def test_scores_of_another_scale_have_another_temperature(split: Split, policy: MaskPolicy) -> None:
    part = TestPart.of_split(split, policy)
    one = part.temperature(Markov().fit(part.data))
    assert part.temperature(Louder().fit(part.data)) == pytest.approx(4 * one, rel=1e-3)


def test_a_part_without_a_known_target_asks_for_none(split: Split) -> None:
    part = TestPart.of_split(Split(split.train, split.test[:0]), MaskPolicy.NONE)
    assert part.temperature(create("popularity").fit(part.data)) == 1


@pytest.mark.parametrize("policy", [MaskPolicy.OBSERVED, MaskPolicy.NONE])
def test_calibration_changes_probabilities_and_no_rank(split: Split, policy: MaskPolicy) -> None:
    plain, calibrated = outcomes(split, policy)
    for name in ("accuracy", "mrr", "ndcg"):
        assert METRICS[name](plain) == pytest.approx(METRICS[name](calibrated))
    assert METRICS["nll"](plain) != METRICS["nll"](calibrated)


@each_policy
def test_calibrated_probabilities_can_be_trusted_more(
    examples: tuple[Example, ...], policy: MaskPolicy
) -> None:
    """Where the test part is like the training part."""
    plain, calibrated = outcomes(split_pairs(examples, 0.3, random.Random(0)), policy)
    for name in ("nll", "brier", "ece"):
        assert METRICS[name](calibrated) < METRICS[name](plain)


def outcomes(split: Split, policy: MaskPolicy) -> list[Outcome]:
    """What ridge answers, whose scores are no logarithms, without and with a temperature."""
    return [
        evaluate_run(
            lambda: create("ridge"), [TestPart.of_split(split, policy)], calibrate=calibrate
        ).outcome
        for calibrate in (False, True)
    ]


def test_the_temperature_knows_nothing_of_the_test_part(split: Split) -> None:
    backwards = Split(split.train, split.test[::-1])
    one, other = (
        evaluate_run(
            lambda: create("ridge"), [TestPart.of_split(s, MaskPolicy.NONE)], calibrate=True
        ).outcome
        for s in (split, backwards)
    )
    np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities[::-1])


def test_competitors_are_those_whose_scores_decide() -> None:
    data = everything().data
    last, services = data.contexts.last[data.rows], len(data.vocabulary.services)
    seen, _ = successor_mask(last, data.graph, MaskPolicy.OBSERVED)
    assert competitors(last, data.targets, data.graph, MaskPolicy.NONE).all()
    np.testing.assert_array_equal(
        competitors(last, data.targets, data.graph, MaskPolicy.OBSERVED), seen
    )
    unseen = (~seen).argmax(axis=1)
    soft = MaskPolicy.SOFT
    np.testing.assert_array_equal(competitors(last, data.targets, data.graph, soft), seen)
    np.testing.assert_array_equal(competitors(last, unseen, data.graph, soft), ~seen)
    assert seen.shape[1] == services


def test_held_out_parts_are_whole_data(split: Split) -> None:
    """What calibration fits on: a fold of the training part, in its vocabulary."""
    part = TestPart.of_split(split, MaskPolicy.OBSERVED)
    rest, fold = next(part.data.folds(5, seed=0))
    held_out = TestPart.of(rest, fold.examples, part.mask)
    assert (held_out.targets < len(part.data.vocabulary.services)).all()
    assert len(rest.examples) + len(fold.examples) == len(part.data.examples)
