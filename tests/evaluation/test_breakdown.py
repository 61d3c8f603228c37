from __future__ import annotations

import numpy as np
import pytest

from dagrec.data.examples import Context, Example
from dagrec.data.splits import Split
from dagrec.evaluation.breakdown import breakdown, group_means
from dagrec.evaluation.evaluator import TestPart, evaluate_run
from dagrec.graph.mask import MaskPolicy
from dagrec.metrics.ranking import METRICS
from dagrec.models.counting.markov import Markov


@pytest.mark.parametrize("kind", ["confidence", "service", "length", "support"])
def test_groups_partition_examples(split: Split, kind: str) -> None:
    parts = [TestPart.of_split(split, MaskPolicy.OBSERVED)]
    run = evaluate_run(Markov, parts)
    groups = group_means([breakdown(run)])[kind]
    sizes = [group["examples"] for group in groups]
    assert sum(sizes) == len(split.test)
    accuracy = np.average([group["accuracy"] for group in groups], weights=sizes)
    assert accuracy == pytest.approx(METRICS["accuracy"](run.outcome))
    confidence = np.average([group["confidence"] for group in groups], weights=sizes)
    assert confidence == pytest.approx(run.outcome.confidence.mean())


def test_confidence_groups_give_calibration_error(split: Split) -> None:
    parts = [TestPart.of_split(split, MaskPolicy.NONE)]
    run = evaluate_run(Markov, parts)
    groups = group_means([breakdown(run)])["confidence"]
    gaps = [g["examples"] * abs(g["accuracy"] - g["confidence"]) for g in groups]
    assert sum(gaps) / len(split.test) == pytest.approx(METRICS["ece"](run.outcome))


def test_repeats_are_summed(split: Split) -> None:
    parts = [TestPart.of_split(split, MaskPolicy.OBSERVED)]
    sums = breakdown(evaluate_run(Markov, parts))
    once, twice = group_means([sums]), group_means([sums, sums])
    for kind, groups in once.items():
        for one, two in zip(groups, twice[kind], strict=True):
            assert two == one | {"examples": 2 * one["examples"]}


def test_groups_by_hand() -> None:
    def pair(path: str, target: str) -> Example:
        return Example(Context(tuple(path)), target, "n", 0)

    train = (*[pair("a", "x")] * 3, pair("ab", "y"))
    test = (pair("a", "x"), pair("a", "y"), pair("aaaab", "y"), pair("c", "x"))
    parts = [TestPart.of_split(Split(train, test), MaskPolicy.OBSERVED)]
    means = group_means([breakdown(evaluate_run(Markov, parts))])
    names = {kind: {g["group"]: g["examples"] for g in groups} for kind, groups in means.items()}
    assert names["service"] == {"x": 2, "y": 2}
    assert names["length"] == {"1": 3, "4-5": 1}
    assert names["support"] == {"0": 1, "1-2": 1, "3-9": 2}
    # Three predictions have probability 1, and the one after the unknown c has (3 + 1) / (4 + 2).
    assert names["confidence"] == {"0.6-0.7": 1, "0.9-1.0": 3}
    assert [group["accuracy"] for group in means["support"]] == [1, 1, 1 / 2]


def test_groups_are_sorted(split: Split) -> None:
    parts = [TestPart.of_split(split, MaskPolicy.OBSERVED)]
    means = group_means([breakdown(evaluate_run(Markov, parts))])
    for kind in ("confidence", "length", "support"):
        lows = [float(group["group"].rstrip("+").split("-")[0]) for group in means[kind]]
        assert lows == sorted(lows)
    sizes = [group["examples"] for group in means["service"]]
    assert sizes == sorted(sizes, reverse=True)
