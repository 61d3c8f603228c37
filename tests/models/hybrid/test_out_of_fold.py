from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dagrec.data.examples import Example
from dagrec.models.counting.markov import Markov
from dagrec.models.hybrid.out_of_fold import Fold, out_of_fold
from dagrec.training.data import TrainingData
from tests.worlds import chain, everything

DATA = everything().data


def folds(count: int = 4, seed: int = 0, data: TrainingData = DATA) -> list[Fold]:
    return list(out_of_fold(data, count, seed))


def compositions(examples: tuple[Example, ...]) -> set[int]:
    return {example.composition for example in examples}


def by_identity(examples: list[Example] | tuple[Example, ...]) -> list[int]:
    return sorted(map(id, examples))


@pytest.mark.parametrize("count", [2, 3, 20])
@pytest.mark.parametrize("seed", [0, 1])
def test_folds_partition_examples(count: int, seed: int) -> None:
    all_folds = folds(count, seed)
    assert len(all_folds) == count
    assert by_identity([e for fold in all_folds for e in fold.examples]) == by_identity(DATA.examples)


@pytest.mark.parametrize("count", [2, 3, 20])
def test_rest_has_all_other_compositions(count: int) -> None:
    for fold in folds(count):
        assert compositions(fold.examples).isdisjoint(compositions(fold.rest.examples))
        assert by_identity((*fold.examples, *fold.rest.examples)) == by_identity(DATA.examples)


def test_rest_keeps_vocabulary_and_has_own_graph() -> None:
    for fold in folds():
        assert fold.rest.vocabulary is DATA.vocabulary
        assert fold.rest.graph.popularity.sum() == len(fold.rest.examples)


def test_contexts_and_targets_match_examples() -> None:
    for fold in folds():
        assert list(fold.contexts.origins) == [example.context for example in fold.examples]
        columns = [DATA.vocabulary.columns[example.target] for example in fold.examples]
        assert fold.targets.tolist() == columns


@pytest.mark.parametrize("count", [3, 5])
def test_fold_count_is_limited_by_compositions(count: int) -> None:
    assert [len(compositions(fold.examples)) for fold in folds(count, data=chain().data)] == [1, 1, 1]


def test_single_composition_has_no_folds() -> None:
    assert folds(data=chain(copies=1).data) == []


def test_folds_depend_on_seed() -> None:
    one, same, other = ([compositions(f.examples) for f in folds(seed=seed)] for seed in (3, 3, 4))
    assert one == same
    assert one != other


# Kept examples


def is_new_in(rest: TrainingData) -> Callable[[Example], bool]:
    """Return a predicate: the rest has no example of the same link."""
    links = {(e.context.path[-1], e.target) for e in rest.examples}
    return lambda example: (example.context.path[-1], example.target) not in links


def test_keep_filters_examples_of_folds() -> None:
    """The predicate is created from the rest of each fold."""
    filtered = list(out_of_fold(DATA, 4, 0, keep=is_new_in))
    expected = [[e for e in fold.examples if is_new_in(fold.rest)(e)] for fold in folds()]
    assert 0 < sum(map(len, expected)) < len(DATA.examples)
    assert [list(fold.examples) for fold in filtered] == [examples for examples in expected if examples]
    for fold in filtered:
        assert list(fold.contexts.origins) == [example.context for example in fold.examples]
        columns = [DATA.vocabulary.columns[example.target] for example in fold.examples]
        assert fold.targets.tolist() == columns


def test_keep_does_not_change_the_rest() -> None:
    filtered = out_of_fold(DATA, 4, 0, keep=lambda _: lambda example: len(example.context.path) == 1)
    for fold, unfiltered in zip(filtered, folds(), strict=True):
        assert len(fold.examples) < len(unfiltered.examples)
        assert fold.rest.examples == unfiltered.rest.examples


def test_folds_without_kept_examples_are_omitted() -> None:
    composition = DATA.examples[-1].composition
    (fold,) = out_of_fold(DATA, 4, 0, keep=lambda _: lambda example: example.composition == composition)
    assert compositions(fold.examples) == {composition}
    assert list(out_of_fold(DATA, 4, 0, keep=lambda _: lambda _: False)) == []


# Fold


def test_take_returns_rows_in_order() -> None:
    fold = folds()[0]
    rows = np.array([2, 0], dtype=np.int64)
    subset = fold.take(rows)
    assert subset.examples == (fold.examples[2], fold.examples[0])
    assert subset.contexts.origins == tuple(example.context for example in subset.examples)
    assert subset.contexts.last.tolist() == fold.contexts.last[rows].tolist()
    assert subset.targets.tolist() == fold.targets[rows].tolist()
    assert subset.rest is fold.rest


def test_scores_come_from_recommender_fitted_on_rest() -> None:
    for fold in folds():
        scores = fold.scores(Markov(order=2))
        assert scores.dtype == np.float64
        np.testing.assert_array_equal(scores, Markov(order=2).fit(fold.rest).score(fold.contexts))
        assert not np.allclose(scores, Markov(order=2).fit(DATA).score(fold.contexts))
