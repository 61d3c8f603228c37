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
from dagrec.data.vocabulary import FIRST_SERVICE, UNKNOWN
from dagrec.models.interactions import Interactions, Read, SetOptions, Sets, set_key
from dagrec.training.data import TrainingData
from dagrec.types import Ragged
from tests.worlds import composition, everything

WORLD = everything()
READS: tuple[Read, ...] = ("path", "upstream")
Triple = tuple[int, tuple[str, ...], str]

paths = st.lists(st.sampled_from("abcde"), min_size=1, max_size=6).map(tuple)
"""Paths in which keys may repeat."""
examples = st.lists(
    st.tuples(st.integers(0, 4), paths, st.sampled_from("abXY")), min_size=1, max_size=25
)
"""(composition, path, target); a target may also be in contexts, including its own."""


def data_of(triples: list[Triple]) -> TrainingData:
    return TrainingData.of(
        [
            Example(Context(path), target, str(i), composition)
            for i, (composition, path, target) in enumerate(triples)
        ]
    )


def rows_of(interactions: Interactions) -> Counter[tuple[int, ...]]:
    """Return the weight of each row."""
    ends = interactions.rows.starts.tolist()
    rows = [tuple(interactions.items[a:b].tolist()) for a, b in itertools.pairwise(ends)]
    assert len(set(rows)) == len(rows)
    return Counter(dict(zip(rows, interactions.weights.astype(int).tolist(), strict=True)))


# Sets


@given(st.lists(st.lists(st.sampled_from("abcde?!"), max_size=6).map(tuple), max_size=6))
def test_sets_are_distinct_known_nodes(paths: list[tuple[str, ...]]) -> None:
    vocabulary = data_of([(0, ("a", "b", "c", "d", "e"), "X")]).vocabulary
    sets = Sets.of(vocabulary.encode([Context(path) for path in paths]), vocabulary, "path")
    assert len(sets) == len(paths)
    assert sets.nodes.min(initial=FIRST_SERVICE) >= FIRST_SERVICE
    unmarked, marked = (sets.multi_hot(vocabulary, last=last) for last in (False, True))
    assert unmarked.shape == (len(paths), len(vocabulary))
    assert marked.shape == (len(paths), 2 * len(vocabulary))
    np.testing.assert_array_equal(marked[:, : len(vocabulary)], unmarked)
    for i, path in enumerate(paths):
        nodes = sets.nodes[sets.rows.starts[i] : sets.rows.starts[i + 1]].tolist()
        known = {vocabulary.ids[key] for key in path if key in vocabulary.ids}
        assert nodes == sorted(known)
        assert set(np.flatnonzero(unmarked[i]).tolist()) == known
        last = [vocabulary.ids[key] for key in path[-1:] if key in vocabulary.ids]
        assert np.flatnonzero(marked[i, len(vocabulary) :]).tolist() == last
    assert set(np.unique(marked).tolist()) <= {0.0, 1.0}


def test_set_with_unknown_last_node_has_no_mark() -> None:
    vocabulary = WORLD.data.vocabulary
    sets = Sets.of(vocabulary.encode([Context(("extract", "unknown"))]), vocabulary, "path")
    assert sets.last.tolist() == [UNKNOWN]
    assert sets.multi_hot(vocabulary, last=True).sum() == 1


@given(paths, paths)
def test_set_key_is_equal_only_for_equal_set_and_last_node(
    a: tuple[str, ...], b: tuple[str, ...]
) -> None:
    same = set(a) == set(b) and a[-1] == b[-1]
    for read in READS:
        assert (set_key(Context(a), read) == set_key(Context(b), read)) is same


def test_only_upstream_sets_contain_other_branches() -> None:
    nodes = [Node("1", "table_a", "table"), Node("2", "extract"), Node("3", "clean"), Node("4", "join")]
    merged, _ = compose("two branches", nodes, [("1", "3"), ("2", "3"), ("3", "4"), ("1", "4")])
    vocabulary = WORLD.data.vocabulary
    context = context_at(merged, "3")
    sets = {
        read: Sets.of(vocabulary.encode([context]), vocabulary, read).nodes.tolist() for read in READS
    }
    ids = vocabulary.ids
    assert sets["upstream"] == sorted(ids[key] for key in ("table_a", "extract", "clean"))
    assert sets["path"] == sorted(ids[key] for key in context.path)
    assert len(sets["path"]) == 2


def test_nodes_with_equal_keys_are_one_item() -> None:
    nodes = [Node("1", "extract"), Node("2", "clean"), Node("3", "extract")]
    repeated, _ = compose("twice", nodes, [("1", "2"), ("2", "3")])
    vocabulary = WORLD.data.vocabulary
    for read in READS:
        sets = Sets.of(vocabulary.encode([context_at(repeated, "3")]), vocabulary, read)
        assert sets.nodes.tolist() == sorted([vocabulary.ids["extract"], vocabulary.ids["clean"]])


# Rows of examples and of compositions


@given(examples, st.booleans())
def test_example_rows_contain_path_mark_and_target(triples: list[Triple], last: bool) -> None:
    data = data_of(triples)
    ids, nodes = data.vocabulary.ids, len(data.vocabulary)
    expected: Counter[tuple[int, ...]] = Counter()
    for _, path, target in triples:
        items = {ids[key] for key in path} | {ids[target]}
        items |= {nodes + ids[path[-1]]} if last else set()
        expected[tuple(sorted(items))] += 1
    interactions = Interactions.of_examples(data, SetOptions(read="path", last=last))
    assert rows_of(interactions) == expected
    assert interactions.size == nodes * (1 + last)
    assert interactions.is_valid()


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("form", ["paths", "links"])
def test_example_rows_contain_upstream_nodes(form: str, last: bool) -> None:
    data = TrainingData.of(
        extract(WORLD.compositions, ExampleOptions.model_validate({"form": form}))[0]
    )
    ids, nodes = data.vocabulary.ids, len(data.vocabulary)
    expected: Counter[tuple[int, ...]] = Counter()
    for example in data.examples:
        source = example.context.composition
        assert source is not None
        items = {ids[source.by_id[node].key] for node in example.context.upstream()}
        items |= {nodes + ids[example.context.path[-1]]} if last else set()
        expected[tuple(sorted(items | {ids[example.target]}))] += 1
    assert rows_of(Interactions.of_examples(data, SetOptions(last=last))) == expected


@given(examples)
def test_composition_rows_contain_all_nodes_of_their_examples(triples: list[Triple]) -> None:
    data = data_of(triples)
    ids = data.vocabulary.ids
    nodes: dict[int, set[int]] = {}
    for number, path, target in triples:
        nodes.setdefault(number, set()).update(ids[key] for key in (*path, target))
    interactions = Interactions.of_compositions(data)
    assert rows_of(interactions) == Counter(tuple(sorted(items)) for items in nodes.values())
    assert interactions.size == len(data.vocabulary)
    assert interactions.is_valid()


@given(examples)
def test_row_order_follows_data_and_not_names(triples: list[Triple]) -> None:
    """Random numbers that are drawn row by row then do not depend on names."""
    names = dict(zip("abcdeXY", "gfedcba", strict=True))
    renamed_triples = [
        (c, tuple(names[key] for key in path), names[target]) for c, path, target in triples
    ]
    data, renamed_data = data_of(triples), data_of(renamed_triples)
    ids, renamed_ids = data.vocabulary.ids, renamed_data.vocabulary.ids
    new_id = {ids[key]: renamed_ids[names[key]] for key in ids}
    options = SetOptions(last=False)
    original, renamed = (Interactions.of_examples(part, options) for part in (data, renamed_data))
    expected = [tuple(sorted(new_id[item] for item in row)) for row in rows_of(original)]
    assert list(rows_of(renamed)) == expected
    assert renamed.weights.tolist() == original.weights.tolist()


# The matrix


@given(examples)
def test_gram_counts_examples_with_both_items(triples: list[Triple]) -> None:
    interactions = Interactions.of_examples(data_of(triples), SetOptions())
    expected = np.zeros((interactions.size, interactions.size))
    for row, weight in rows_of(interactions).items():
        for i in row:
            for j in row:
                expected[i, j] += weight
    np.testing.assert_array_equal(interactions.gram(), expected)
    np.testing.assert_array_equal(interactions.totals(), expected.diagonal())


def test_users_and_matrix_equal_manual_calculation() -> None:
    interactions = Interactions(Ragged.of([2, 1]), np.array([2, 3, 2]), np.array([1.0, 4.0]), 4)
    assert interactions.users.tolist() == [0, 0, 1]
    assert interactions.totals().tolist() == [0, 0, 5, 1]
    assert interactions.matrix().toarray().tolist() == [[0, 0, 1, 1], [0, 0, 1, 0]]
    assert interactions.is_valid()


@pytest.mark.parametrize(
    "changes",
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
def test_inconsistent_interactions_are_invalid(changes: dict[str, object]) -> None:
    valid = Interactions(Ragged.of([2, 1]), np.array([2, 3, 2]), np.array([1.0, 4.0]), 4)
    assert valid.is_valid()
    assert not replace(valid, **changes).is_valid()  # type: ignore[arg-type]


def test_compositions_with_equal_sets_are_merged() -> None:
    compositions = [composition(str(i), ("table_a", "extract", "clean")) for i in range(3)]
    compositions.append(composition("other", ("table_a", "clean")))
    data = TrainingData.of(extract(compositions)[0])
    interactions = Interactions.of_compositions(data)
    assert sorted(interactions.weights.tolist()) == [1, 3]
