from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dagrec.data.examples import Context, Example
from dagrec.data.splits import Split
from dagrec.evaluation import evaluator
from dagrec.evaluation.evaluator import (
    TestPart,
    evaluate_run,
    join_outcomes,
    oracle_accuracy,
    reference_outcomes,
    row_weights,
)
from dagrec.graph.mask import MaskPolicy, successor_mask
from dagrec.metrics.ranking import METRICS, Outcome
from dagrec.models.base import Recommender
from dagrec.models.counting.markov import Markov, MarkovConfig
from dagrec.models.counting.popularity import Popularity
from dagrec.models.registry import create
from tests.worlds import branching, chain, everything

Retarget = Callable[[tuple[Example, ...], list[str]], tuple[Example, ...]]
TINY = {"epochs": 1, "embedding": 4, "hidden": 4}
MAKERS: dict[str, Callable[[], Recommender]] = {
    "popularity": Popularity,
    "markov": Markov,
    "gru4rec": lambda: create("gru4rec", TINY),
}
POLICIES = [MaskPolicy.OBSERVED, MaskPolicy.SOFT, MaskPolicy.NONE]
each_policy = pytest.mark.parametrize("policy", POLICIES)
each_metric = pytest.mark.parametrize("metric", METRICS)


def pair(path: tuple[str, ...], target: str, composition: int = 0) -> Example:
    return Example(Context(path), target, "n", composition)


# Independence of the test part


@pytest.mark.parametrize("name", MAKERS)
def test_fitted_models_do_not_depend_on_test_targets(
    split: Split, retarget: Retarget, name: str
) -> None:
    targets = [example.target for example in split.test]
    random.Random(1).shuffle(targets)
    shuffled = Split(split.train, retarget(split.test, targets))
    assert shuffled.test != split.test
    parts = [TestPart.of_split(s, MaskPolicy.OBSERVED) for s in (split, shuffled)]
    assert parts[0].data.vocabulary == parts[1].data.vocabulary
    assert parts[0].data.graph.fingerprint == parts[1].data.graph.fingerprint
    assert np.array_equal(parts[0].data.graph.popularity, parts[1].data.graph.popularity)
    states = []
    for part in parts:
        model = MAKERS[name]()
        evaluate_run(lambda model=model: model, [part])
        states.append(model.state())
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])


def test_keys_of_test_part_are_not_learned(split: Split) -> None:
    test = tuple(
        replace(
            example, target="only_in_test", context=Context(("only_in_test", *example.context.path))
        )
        for example in split.test
    )
    part = TestPart.of_split(Split(split.train, test), MaskPolicy.OBSERVED)
    assert "only_in_test" not in part.data.vocabulary.ids
    assert "only_in_test" not in part.data.graph.to_networkx()
    assert "only_in_test" not in {key for c in part.data.contexts.origins for key in c.path}
    assert (part.targets >= len(part.data.vocabulary.services)).all()
    run = evaluate_run(Markov, [part])
    assert METRICS["accuracy"](run.outcome) == METRICS["ceiling"](run.outcome) == 0


@pytest.mark.parametrize("name", MAKERS)
def test_accuracy_with_random_targets_is_chance(split: Split, retarget: Retarget, name: str) -> None:
    """Targets are drawn uniformly. The accuracy is 1 / C within 3 standard errors."""
    services = [f"y{i}" for i in range(8)]
    rng = random.Random(2)
    train, test = (
        retarget(without_compositions(part), rng.choices(services, k=len(part)))
        for part in (split.train, split.test)
    )
    run = evaluate_run(MAKERS[name], [TestPart.of_split(Split(train, test), MaskPolicy.NONE)])
    chance = 1 / len(services)
    error = math.sqrt(chance * (1 - chance) / len(test))
    assert run.outcome.num_services == len(services)
    assert abs(METRICS["accuracy"](run.outcome) - chance) < 3 * error


def without_compositions(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """The same paths without compositions, so that only targets are services."""
    return tuple(replace(e, context=Context(e.context.path)) for e in examples)


# Reference lines


def reference_outcome(part: TestPart, name: str) -> Outcome:
    return part.outcome(part.reference_lines()[name])


@each_policy
@each_metric
def test_random_line_equals_recommender_with_equal_scores(
    equal_scores: type[Popularity], policy: MaskPolicy, metric: str
) -> None:
    part = TestPart.of_split(Split(everything().examples, branching().examples), policy)
    run = evaluate_run(equal_scores, [part])
    assert METRICS[metric](run.outcome) == METRICS[metric](reference_outcome(part, "random"))


@each_policy
@each_metric
def test_popularity_line_equals_popularity_recommender(
    split: Split, policy: MaskPolicy, metric: str
) -> None:
    part = TestPart.of_split(split, policy)
    run = evaluate_run(Popularity, [part])
    assert METRICS[metric](run.outcome) == pytest.approx(
        METRICS[metric](reference_outcome(part, "popularity")), abs=1e-6
    )


def test_random_line_under_mask_is_one_over_number_of_successors(split: Split) -> None:
    part = TestPart.of_split(split, MaskPolicy.OBSERVED)
    allowed, _ = successor_mask(
        part.data.vocabulary.encode([e.context for e in part.examples]).last,
        part.data.graph,
        MaskPolicy.OBSERVED,
    )
    known = part.targets < allowed.shape[1]
    inside = known & allowed[np.arange(len(known)), np.where(known, part.targets, 0)]
    expected = np.where(inside, 1 / allowed.sum(axis=1), 0).mean()
    assert METRICS["accuracy"](reference_outcome(part, "random")) == pytest.approx(expected)
    assert METRICS["ceiling"](reference_outcome(part, "random")) == pytest.approx(inside.mean())


def test_best_possible_accuracy_by_hand() -> None:
    """3 of 4 examples after table_b, and 4 of 4 of the chain: (3 + 4) / (4 + 4)."""
    assert oracle_accuracy(branching().examples) == 3 / 4
    assert oracle_accuracy((*branching().examples, *chain(1).examples)) == 7 / 8


def test_best_possible_accuracy_is_not_lower_with_owner(examples: tuple[Example, ...]) -> None:
    assert oracle_accuracy(examples) <= oracle_accuracy(examples, with_owner=True) <= 1
    by_owner = [replace(e, context=replace(e.context, owner=e.target)) for e in branching().examples]
    assert oracle_accuracy(by_owner) == 3 / 4
    assert oracle_accuracy(by_owner, with_owner=True) == 1


def test_accuracy_does_not_exceed_best_possible(split: Split) -> None:
    part = TestPart.of_split(split, MaskPolicy.NONE)
    run = evaluate_run(lambda: Markov(MarkovConfig(mu=0.01)), [part])
    assert METRICS["accuracy"](run.outcome) <= oracle_accuracy(split.test)


# Test parts


def test_unknown_targets_are_numbered_after_services() -> None:
    data = branching().data
    examples = [pair(("table_b",), target) for target in ("new", "rarely", "newer", "new", "often")]
    part = TestPart.of(data, examples, MaskPolicy.NONE)
    assert part.targets.tolist() == [2, 1, 3, 2, 0]


@each_policy
def test_all_models_have_same_mask(split: Split, policy: MaskPolicy) -> None:
    part = TestPart.of_split(split, policy)
    outcomes = [evaluate_run(MAKERS[name], [part]).outcome for name in ("popularity", "markov")]
    finite = [np.isfinite(outcome.log_probabilities) for outcome in outcomes]
    assert np.array_equal(*finite)
    sums = np.exp(outcomes[1].log_probabilities).sum(axis=1)
    np.testing.assert_allclose(sums, 1, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_outcome_does_not_depend_on_rows_per_pass(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    part = TestPart.of_split(Split(everything().examples, everything().examples), MaskPolicy.OBSERVED)
    expected = evaluate_run(Markov, [part]).outcome
    monkeypatch.setattr(evaluator, "ROWS_PER_PASS", size)
    outcome = evaluate_run(Markov, [part]).outcome
    np.testing.assert_array_equal(outcome.log_probabilities, expected.log_probabilities)
    assert np.array_equal(outcome.targets, expected.targets)


def test_new_links_and_support_match_loop_over_examples(split: Split) -> None:
    part = TestPart.of_split(split, MaskPolicy.OBSERVED)
    links = {(e.context.path[-1], e.target) for e in split.train}
    last_counts = Counter(e.context.path[-1] for e in split.train)
    assert part.new_links.tolist() == [
        float((e.context.path[-1], e.target) not in links) for e in split.test
    ]
    assert part.support_of_last.tolist() == [last_counts[e.context.path[-1]] for e in split.test]


# Weights


def test_weights_are_equal_per_pair_or_composition(examples: tuple[Example, ...]) -> None:
    pairs, compositions = (row_weights(examples, weight) for weight in ("pairs", "compositions"))
    assert pairs.sum() == pytest.approx(1)
    assert compositions.sum() == pytest.approx(1)
    assert len(set(pairs)) == 1
    totals: Counter[int] = Counter()
    for example, weight in zip(examples, compositions, strict=True):
        totals[example.composition] += weight
    assert list(totals.values()) == pytest.approx([1 / len(totals)] * len(totals))


def test_weights_by_hand() -> None:
    examples = [pair(("a",), "y", composition) for composition in (0, 0, 0, 1)]
    assert row_weights(examples, "pairs").tolist() == [1 / 4] * 4
    assert row_weights(examples, "compositions") == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


# Several parts


def two_blocks() -> list[TestPart]:
    """Two parts. The second one has an additional service, and both have an unknown target."""
    old = (pair(("a",), "x"), pair(("a",), "x"), pair(("a",), "y"))
    first = (pair(("a",), "x", 1), pair(("a",), "z", 1))
    second = (pair(("a",), "z", 2), pair(("a",), "w", 2), pair(("a",), "y", 2))
    splits = [Split(old, first), Split((*old, *first), second)]
    return [TestPart.of_split(split, MaskPolicy.NONE) for split in splits]


def test_joined_outcomes_by_hand() -> None:
    parts = two_blocks()
    run = evaluate_run(Popularity, parts)
    outcome = run.outcome
    assert [part.data.vocabulary.services for part in parts] == [("x", "y"), ("x", "y", "z")]
    assert outcome.targets.tolist() == [0, 2, 2, 3, 1]
    expected = [
        [3 / 5, 2 / 5, 0],
        [3 / 5, 2 / 5, 0],
        [4 / 8, 2 / 8, 2 / 8],
        [4 / 8, 2 / 8, 2 / 8],
        [4 / 8, 2 / 8, 2 / 8],
    ]
    np.testing.assert_allclose(np.exp(outcome.log_probabilities), expected, rtol=1e-6)
    assert METRICS["ceiling"](outcome) == pytest.approx(3 / 5)
    assert METRICS["accuracy"](outcome) == pytest.approx(1 / 5)


@pytest.mark.parametrize("metric", ["accuracy", "hr@3", "mrr", "ndcg", "ceiling"])
def test_metric_of_joined_outcomes_is_mean_over_all_rows(metric: str) -> None:
    parts = two_blocks()
    outcomes = [
        (
            part.data.vocabulary.services,
            part.outcome(part.fitted(Markov().fit(part.data)).probabilities),
        )
        for part in parts
    ]
    sizes = [len(part.examples) for part in parts]
    expected = np.average([METRICS[metric](outcome) for _, outcome in outcomes], weights=sizes)
    assert METRICS[metric](evaluate_run(Markov, parts).outcome) == pytest.approx(expected)


def test_single_outcome_is_not_copied() -> None:
    part = two_blocks()[0]
    outcome = reference_outcome(part, "random")
    assert join_outcomes(part.examples, [(("x", "y"), outcome)]) is outcome


def test_reference_outcomes_of_several_parts() -> None:
    parts = two_blocks()
    outcomes, new_links = reference_outcomes(parts)
    assert outcomes.keys() == {"random", "popularity"}
    for name, of_parts in outcomes.items():
        for part, (services, outcome) in zip(parts, of_parts, strict=True):
            assert services == part.data.vocabulary.services
            expected = reference_outcome(part, name)
            np.testing.assert_array_equal(outcome.log_probabilities, expected.log_probabilities)
            assert np.array_equal(outcome.targets, part.targets)
    assert new_links.tolist() == [0, 1, 0, 1, 0]


def test_evaluate_run_makes_recommender_for_each_part() -> None:
    recommenders = []

    def make() -> Recommender:
        recommenders.append(Markov())
        return recommenders[-1]

    parts = two_blocks()
    run = evaluate_run(make, parts)
    assert run.fits == 2
    assert run.parameters == recommenders[-1].parameters()
    assert run.fit_seconds > 0
    assert run.score_seconds > 0
    assert [len(example.context.path) for example in run.examples] == [1] * 5


def test_catalogue_is_used_by_mask() -> None:
    split = Split(branching().examples, branching().examples)
    part = TestPart.of_split(split, MaskPolicy.CATALOGUE, [("table_b", "rarely")])
    assert METRICS["ceiling"](reference_outcome(part, "random")) == 1 / 4
