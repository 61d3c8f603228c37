from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Node, compose
from dagrec.data.examples import Context, Example, ExampleOptions, context_at, extract
from dagrec.data.vocabulary import FIRST, UNKNOWN
from dagrec.models import interactions
from dagrec.models.interactions import Interactions, Read, SetOptions, Sets, set_key
from dagrec.training.data import TrainingData
from dagrec.types import Ragged
from tests.worlds import composition, everything

WORLD = everything()
READS: tuple[Read, ...] = ("path", "upstream")

paths = st.lists(st.sampled_from("abcde"), min_size=1, max_size=6).map(tuple)
"""Keys may stand in a path more than once."""
examples = st.lists(
    st.tuples(st.integers(0, 4), paths, st.sampled_from("abXY")), min_size=1, max_size=25
)
"""(composition, path, target): targets may stand in contexts, and be in them already."""


def data_of(triples: list[tuple[int, tuple[str, ...], str]]) -> TrainingData:
    return TrainingData.of(
        [
            Example(Context(path), target, str(i), owner)
            for i, (owner, path, target) in enumerate(triples)
        ]
    )


def rows(found: Interactions) -> Counter[tuple[int, ...]]:
    """The rows with their weights."""
    ends = found.rows.starts.tolist()
    items = [tuple(found.items[a:b].tolist()) for a, b in itertools.pairwise(ends)]
    assert len(set(items)) == len(items)
    return Counter(dict(zip(items, found.weights.astype(int).tolist(), strict=True)))


# Sets


@given(st.lists(st.lists(st.sampled_from("abcde?!"), max_size=6).map(tuple), max_size=6))
def test_sets_are_the_distinct_known_nodes(asked: list[tuple[str, ...]]) -> None:
    vocabulary = data_of([(0, ("a", "b", "c", "d", "e"), "X")]).vocabulary
    sets = Sets.of(vocabulary.encode([Context(path) for path in asked]), vocabulary, "path")
    assert len(sets) == len(asked)
    assert sets.nodes.min(initial=FIRST) >= FIRST
    one, two = (sets.multi_hot(vocabulary, last=last) for last in (False, True))
    assert one.shape == (len(asked), len(vocabulary))
    assert two.shape == (len(asked), 2 * len(vocabulary))
    np.testing.assert_array_equal(two[:, : len(vocabulary)], one)
    for i, path in enumerate(asked):
        own = sets.nodes[sets.rows.starts[i] : sets.rows.starts[i + 1]].tolist()
        known = {vocabulary.ids[key] for key in path if key in vocabulary.ids}
        assert own == sorted(known)
        assert set(np.flatnonzero(one[i]).tolist()) == known
        marks = [vocabulary.ids[key] for key in path[-1:] if key in vocabulary.ids]
        assert np.flatnonzero(two[i, len(vocabulary) :]).tolist() == marks
    assert set(np.unique(two).tolist()) <= {0.0, 1.0}


def test_an_unknown_last_node_is_not_replaced_by_the_one_before() -> None:
    vocabulary = WORLD.data.vocabulary
    sets = Sets.of(vocabulary.encode([Context(("extract", "nobody"))]), vocabulary, "path")
    assert sets.last.tolist() == [UNKNOWN]
    assert sets.multi_hot(vocabulary, last=True).sum() == 1


@given(paths, paths)
def test_keys_are_equal_for_equal_sets_with_equal_last_nodes(
    a: tuple[str, ...], b: tuple[str, ...]
) -> None:
    same = set(a) == set(b) and a[-1] == b[-1]
    for read in READS:
        assert (set_key(Context(a), read) == set_key(Context(b), read)) is same


def test_upstream_reads_other_branches_and_path_does_not() -> None:
    nodes = [Node("1", "table_a", "table"), Node("2", "extract"), Node("3", "clean"), Node("4", "join")]
    made, _ = compose("two branches", nodes, [("1", "3"), ("2", "3"), ("3", "4"), ("1", "4")])
    vocabulary = WORLD.data.vocabulary
    context = context_at(made, "3")
    found = {
        read: Sets.of(vocabulary.encode([context]), vocabulary, read).nodes.tolist() for read in READS
    }
    ids = vocabulary.ids
    assert found["upstream"] == sorted(ids[key] for key in ("table_a", "extract", "clean"))
    assert found["path"] == sorted(ids[key] for key in context.path)
    assert len(found["path"]) == 2


def test_two_nodes_of_one_key_are_one_item() -> None:
    nodes = [Node("1", "extract"), Node("2", "clean"), Node("3", "extract")]
    made, _ = compose("twice", nodes, [("1", "2"), ("2", "3")])
    vocabulary = WORLD.data.vocabulary
    for read in READS:
        sets = Sets.of(vocabulary.encode([context_at(made, "3")]), vocabulary, read)
        assert sets.nodes.tolist() == sorted([vocabulary.ids["extract"], vocabulary.ids["clean"]])


# Rows of examples and of compositions


@given(examples, st.booleans())
def test_a_row_an_example(triples: list[tuple[int, tuple[str, ...], str]], last: bool) -> None:
    data = data_of(triples)
    ids, nodes = data.vocabulary.ids, len(data.vocabulary)
    expected: Counter[tuple[int, ...]] = Counter()
    for _, path, target in triples:
        own = {ids[key] for key in path} | {ids[target]}
        own |= {nodes + ids[path[-1]]} if last else set()
        expected[tuple(sorted(own))] += 1
    found = Interactions.of_examples(data, SetOptions(read="path", last=last))
    assert rows(found) == expected
    assert found.size == nodes * (1 + last)
    assert found.fits()


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("form", ["paths", "links"])
def test_a_row_an_example_with_what_lies_upstream(form: str, last: bool) -> None:
    data = TrainingData.of(
        extract(WORLD.compositions, ExampleOptions.model_validate({"form": form}))[0]
    )
    ids, nodes = data.vocabulary.ids, len(data.vocabulary)
    expected: Counter[tuple[int, ...]] = Counter()
    for example in data.examples:
        source = example.context.composition
        assert source is not None
        own = {ids[source.by_id[node].key] for node in example.context.upstream()}
        own |= {nodes + ids[example.context.path[-1]]} if last else set()
        expected[tuple(sorted(own | {ids[example.target]}))] += 1
    assert rows(Interactions.of_examples(data, SetOptions(last=last))) == expected


@given(examples)
def test_a_row_a_composition(triples: list[tuple[int, tuple[str, ...], str]]) -> None:
    data = data_of(triples)
    ids = data.vocabulary.ids
    shown: dict[int, set[int]] = {}
    for owner, path, target in triples:
        shown.setdefault(owner, set()).update(ids[key] for key in (*path, target))
    found = Interactions.of_compositions(data)
    assert rows(found) == Counter(tuple(sorted(own)) for own in shown.values())
    assert found.size == len(data.vocabulary)
    assert found.fits()


@given(examples)
def test_rows_stand_in_the_order_of_the_data(triples: list[tuple[int, tuple[str, ...], str]]) -> None:
    """Not in that of names: what is drawn for them row by row then does not depend on names."""
    names = dict(zip("abcdeXY", "gfedcba", strict=True))
    renamed = [(c, tuple(names[key] for key in path), names[target]) for c, path, target in triples]
    one, other = data_of(triples), data_of(renamed)
    new = {one.vocabulary.ids[key]: other.vocabulary.ids[names[key]] for key in one.vocabulary.ids}
    options = SetOptions(last=False)
    found, again = (Interactions.of_examples(data, options) for data in (one, other))
    expected = [tuple(sorted(new[item] for item in row)) for row in rows(found)]
    assert list(rows(again)) == expected
    assert again.weights.tolist() == found.weights.tolist()


# The matrix


@given(examples, st.integers(1, 4))
def test_gram_counts_the_examples_that_hold_both(
    triples: list[tuple[int, tuple[str, ...], str]], at_once: int
) -> None:
    found = Interactions.of_examples(data_of(triples), SetOptions())
    expected = np.zeros((found.size, found.size))
    for row, weight in rows(found).items():
        for i in row:
            for j in row:
                expected[i, j] += weight
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interactions, "ROWS_PER_PASS", at_once)
        np.testing.assert_array_equal(found.gram(), expected)
    dense = found.dense()
    np.testing.assert_array_equal(dense.T @ (dense * found.weights[:, None]), expected)


def test_users_are_the_rows_of_items() -> None:
    found = Interactions(Ragged.of([2, 1]), np.array([2, 3, 2]), np.array([1.0, 4.0]), 4)
    assert found.users.tolist() == [0, 0, 1]
    assert found.dense().tolist() == [[0, 0, 1, 1], [0, 0, 1, 0]]
    assert found.fits()


@pytest.mark.parametrize(
    "broken",
    [
        {"rows": Ragged.of([2, 2])},
        {"rows": Ragged.of([3])},
        {"rows": Ragged.of([3, 0])},
        {"items": np.array([2, 3])},
        {"items": np.array([2, 3, 1])},
        {"items": np.array([2, 4, 2])},
        {"size": 3},
        {"weights": np.array([1.0])},
        {"weights": np.array([1.0, 0.0])},
        {"weights": np.array([1.0, -1.0])},
        {"weights": np.array([1.0, np.nan])},
        {"weights": np.array([1.0, np.inf])},
    ],
)
def test_arrays_that_do_not_belong_together_do_not_fit(broken: dict[str, object]) -> None:
    whole = Interactions(Ragged.of([2, 1]), np.array([2, 3, 2]), np.array([1.0, 4.0]), 4)
    assert whole.fits()
    assert not replace(whole, **broken).fits()  # type: ignore[arg-type]


def test_compositions_with_equal_sets_are_one_row() -> None:
    made = [composition(str(i), ("table_a", "extract", "clean")) for i in range(3)]
    made.append(composition("other", ("table_a", "clean")))
    data = TrainingData.of(extract(made)[0])
    found = Interactions.of_compositions(data)
    assert sorted(found.weights.tolist()) == [1, 3]
