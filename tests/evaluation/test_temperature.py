"""Temperatures of test parts, and calibration."""

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
def test_temperature_maximises_likelihood(split: Split, policy: MaskPolicy) -> None:
    part = TestPart.of_split(split, policy)
    model = create("ridge").fit(part.data)
    fitted = part.temperature(model)

    def nll(temperature: float) -> float:
        return METRICS["nll"](part.outcome(part.fitted(model, temperature).probabilities))

    assert nll(fitted) < nll(1.0) - 0.01
    assert nll(fitted) <= min(nll(fitted * 1.05), nll(fitted / 1.05))


class ScaledMarkov(Markov):
    """Markov with four times the scores."""

    def score(self, contexts: Contexts) -> Scores:
        return 4 * super().score(contexts)


@each_policy
def test_temperature_is_proportional_to_scale_of_scores(split: Split, policy: MaskPolicy) -> None:
    part = TestPart.of_split(split, policy)
    one = part.temperature(Markov().fit(part.data))
    assert part.temperature(ScaledMarkov().fit(part.data)) == pytest.approx(4 * one, rel=1e-3)


def test_temperature_without_known_targets_is_one(split: Split) -> None:
    part = TestPart.of_split(Split(split.train, split.test[:0]), MaskPolicy.NONE)
    assert part.temperature(create("popularity").fit(part.data)) == 1


@pytest.mark.parametrize("policy", [MaskPolicy.OBSERVED, MaskPolicy.NONE])
def test_calibration_does_not_change_ranks(split: Split, policy: MaskPolicy) -> None:
    uncalibrated, calibrated = outcomes(split, policy)
    for name in ("accuracy", "mrr", "ndcg"):
        assert METRICS[name](uncalibrated) == pytest.approx(METRICS[name](calibrated))
    assert METRICS["nll"](uncalibrated) != METRICS["nll"](calibrated)


@each_policy
def test_calibration_improves_probabilities(examples: tuple[Example, ...], policy: MaskPolicy) -> None:
    """If training and test part have the same distribution."""
    uncalibrated, calibrated = outcomes(split_pairs(examples, 0.3, random.Random(0)), policy)
    for name in ("nll", "brier", "ece"):
        assert METRICS[name](calibrated) < METRICS[name](uncalibrated)


def outcomes(split: Split, policy: MaskPolicy) -> list[Outcome]:
    """The outcomes of ridge, whose scores are not log-probabilities, without and with calibration."""
    return [
        evaluate_run(
            lambda: create("ridge"), [TestPart.of_split(split, policy)], calibrate=calibrate
        ).outcome
        for calibrate in (False, True)
    ]


def test_calibration_does_not_depend_on_test_part(split: Split) -> None:
    reversed_ = Split(split.train, split.test[::-1])
    one, other = (
        evaluate_run(
            lambda: create("ridge"), [TestPart.of_split(s, MaskPolicy.NONE)], calibrate=True
        ).outcome
        for s in (split, reversed_)
    )
    np.testing.assert_array_equal(one.log_probabilities, other.log_probabilities[::-1])


def test_competitors_of_each_mask() -> None:
    data = everything().data
    last, services = data.contexts.last[data.rows], len(data.vocabulary.services)
    successors, _ = successor_mask(last, data.graph, MaskPolicy.OBSERVED)
    assert competitors(last, data.targets, data.graph, MaskPolicy.NONE).all()
    np.testing.assert_array_equal(
        competitors(last, data.targets, data.graph, MaskPolicy.OBSERVED), successors
    )
    unseen = (~successors).argmax(axis=1)
    soft = MaskPolicy.SOFT
    np.testing.assert_array_equal(competitors(last, data.targets, data.graph, soft), successors)
    np.testing.assert_array_equal(competitors(last, unseen, data.graph, soft), ~successors)
    assert successors.shape[1] == services


def test_calibration_fold_is_part_of_training_data(split: Split) -> None:
    part = TestPart.of_split(split, MaskPolicy.OBSERVED)
    rest, fold = next(part.data.folds(5, seed=0))
    held_out = TestPart.of(rest, fold.examples, part.mask)
    assert (held_out.targets < len(part.data.vocabulary.services)).all()
    assert len(rest.examples) + len(fold.examples) == len(part.data.examples)
