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
def test_every_example_is_in_exactly_one_fold(count: int, seed: int) -> None:
    found = folds(count, seed)
    assert len(found) == count
    assert by_identity([e for fold in found for e in fold.examples]) == by_identity(DATA.examples)


@pytest.mark.parametrize("count", [2, 3, 20])
def test_the_rest_is_all_compositions_but_those_of_the_fold(count: int) -> None:
    for fold in folds(count):
        assert compositions(fold.examples).isdisjoint(compositions(fold.rest.examples))
        assert by_identity((*fold.examples, *fold.rest.examples)) == by_identity(DATA.examples)


def test_the_rest_has_the_whole_vocabulary_and_its_own_links() -> None:
    for fold in folds():
        assert fold.rest.vocabulary is DATA.vocabulary
        assert fold.rest.graph.popularity.sum() == len(fold.rest.examples)


def test_contexts_and_targets_are_those_of_the_examples() -> None:
    for fold in folds():
        assert list(fold.contexts.origins) == [example.context for example in fold.examples]
        columns = [DATA.vocabulary.columns[example.target] for example in fold.examples]
        assert fold.targets.tolist() == columns


@pytest.mark.parametrize("count", [3, 5])
def test_there_are_no_more_folds_than_compositions(count: int) -> None:
    assert [len(compositions(fold.examples)) for fold in folds(count, data=chain().data)] == [1, 1, 1]


def test_a_single_composition_has_no_folds() -> None:
    assert folds(data=chain(copies=1).data) == []


def test_the_seed_decides_the_folds() -> None:
    one, same, other = ([compositions(f.examples) for f in folds(seed=seed)] for seed in (3, 3, 4))
    assert one == same
    assert one != other


# What is kept


def is_new_in(rest: TrainingData) -> Callable[[Example], bool]:
    """Whether the rest has no example of this link."""
    links = {(e.context.path[-1], e.target) for e in rest.examples}
    return lambda example: (example.context.path[-1], example.target) not in links


def test_only_examples_to_keep_are_in_a_fold() -> None:
    """Which these are is asked of the rest of each fold."""
    found = list(out_of_fold(DATA, 4, 0, keep=is_new_in))
    expected = [[e for e in fold.examples if is_new_in(fold.rest)(e)] for fold in folds()]
    assert 0 < sum(map(len, expected)) < len(DATA.examples)
    assert [list(fold.examples) for fold in found] == [kept for kept in expected if kept]
    for fold in found:
        assert list(fold.contexts.origins) == [example.context for example in fold.examples]
        columns = [DATA.vocabulary.columns[example.target] for example in fold.examples]
        assert fold.targets.tolist() == columns


def test_what_is_not_kept_is_not_in_the_rest_either() -> None:
    kept = out_of_fold(DATA, 4, 0, keep=lambda _: lambda example: len(example.context.path) == 1)
    for fold, whole in zip(kept, folds(), strict=True):
        assert len(fold.examples) < len(whole.examples)
        assert fold.rest.examples == whole.rest.examples


def test_a_fold_with_nothing_to_keep_is_left_out() -> None:
    own = DATA.examples[-1].composition
    (only,) = out_of_fold(DATA, 4, 0, keep=lambda _: lambda example: example.composition == own)
    assert compositions(only.examples) == {own}
    assert list(out_of_fold(DATA, 4, 0, keep=lambda _: lambda _: False)) == []


# What a fold does


def test_a_part_of_a_fold_has_these_rows_in_their_order() -> None:
    fold = folds()[0]
    rows = np.array([2, 0], dtype=np.int64)
    part = fold.take(rows)
    assert part.examples == (fold.examples[2], fold.examples[0])
    assert part.contexts.origins == tuple(example.context for example in part.examples)
    assert part.contexts.last.tolist() == fold.contexts.last[rows].tolist()
    assert part.targets.tolist() == fold.targets[rows].tolist()
    assert part.rest is fold.rest


def test_scores_are_those_of_a_recommender_fitted_to_the_rest() -> None:
    for fold in folds():
        found = fold.scores(Markov(order=2))
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, Markov(order=2).fit(fold.rest).score(fold.contexts))
        assert not np.allclose(found, Markov(order=2).fit(DATA).score(fold.contexts))
