from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context, context_at
from dagrec.data.vocabulary import PADDING, UNKNOWN, Contexts
from dagrec.errors import ConfigError
from dagrec.models.registry import create
from dagrec.models.sequence.base import SequenceOptions, SequenceRecommender
from dagrec.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig
from dagrec.models.sequence.paths import ForestInputs, Leaves, PathForest, PathRows, RowInputs
from dagrec.training.data import TrainingData
from tests.worlds import chain, composition, diamond, everything

Path = tuple[int, ...]

SOME_PATHS = st.lists(
    st.lists(st.integers(UNKNOWN, 4), min_size=1, max_size=6).map(tuple), min_size=1, max_size=14
)
"""Paths of few nodes, so that many of them begin alike, and some are equal."""


def encoded(paths: Sequence[Path], padding: int = 0) -> Contexts:
    width = max(map(len, paths)) + padding
    nodes = np.array([[*path, *[PADDING] * (width - len(path))] for path in paths], dtype=np.int64)
    lengths = np.array([len(path) for path in paths], dtype=np.int64)
    return Contexts(nodes, lengths, tuple(Context(tuple(map(str, path))) for path in paths))


def prefixes(paths: Sequence[Path]) -> set[Path]:
    return {path[:n] for path in paths for n in range(1, len(path) + 1)}


def walk(inputs: ForestInputs) -> list[Path]:
    """The path to each node of a forest, from its root on."""
    found: list[Path] = []
    start = above = 0
    for size in inputs.levels:
        for place in range(start, start + size):
            node = int(inputs.nodes[place])
            parent = int(inputs.parents[place])
            found.append((*found[above + parent], node) if start else (node,))
        above, start = start, start + size
    return found


# Leaves


@given(SOME_PATHS)
def test_every_context_is_answered_by_one_unit_that_begins_with_it(paths: list[Path]) -> None:
    leaves = Leaves.of(encoded(paths), shared=True)
    answered, which = leaves.answered(np.arange(len(leaves.rows)))
    assert sorted(answered.tolist()) == list(range(len(paths)))
    assert np.array_equal(leaves.owner[answered], which)
    for context, unit in zip(answered, which, strict=True):
        assert paths[leaves.rows[unit]][: len(paths[context])] == paths[context]


@given(SOME_PATHS)
def test_units_are_the_paths_that_begin_no_other(paths: list[Path]) -> None:
    leaves = Leaves.of(encoded(paths), shared=True)
    found = [paths[row] for row in leaves.rows]
    proper = {path for path in paths if any(o != path and o[: len(path)] == path for o in paths)}
    assert len(set(found)) == len(found)
    assert set(found) == set(paths) - proper


@given(SOME_PATHS)
def test_without_sharing_each_context_is_its_own_unit(paths: list[Path]) -> None:
    leaves = Leaves.of(encoded(paths), shared=False)
    assert leaves.rows.tolist() == leaves.owner.tolist() == list(range(len(paths)))


@given(SOME_PATHS, st.data())
def test_units_answer_in_the_order_in_which_they_are_taken(
    paths: list[Path], data: st.DataObject
) -> None:
    leaves = Leaves.of(encoded(paths), shared=True)
    units = np.array(data.draw(st.permutations(range(len(leaves.rows)))), dtype=np.int64)
    answered, which = leaves.answered(units)
    assert np.array_equal(which, np.sort(which))
    assert np.array_equal(units[which], leaves.owner[answered])


# Rows


@given(SOME_PATHS, st.booleans(), st.integers(0, 3), st.data())
def test_rows_hold_the_paths_and_the_ends_of_the_contexts(
    paths: list[Path], shared: bool, padding: int, data: st.DataObject
) -> None:
    rows = PathRows.of(encoded(paths, padding), shared=shared)
    units = np.array(data.draw(st.permutations(range(len(rows.sizes)))), dtype=np.int64)
    units = units[: data.draw(st.integers(1, len(units)))]
    inputs, answered = rows.take(units)
    assert isinstance(inputs, RowInputs)
    assert inputs.nodes.shape == (len(units), int(inputs.lengths.max()))
    assert inputs.lengths.tolist() == rows.sizes[units].tolist()
    for context, row, place in zip(answered, inputs.rows.tolist(), inputs.places.tolist(), strict=True):
        assert tuple(inputs.nodes[row, : place + 1].tolist()) == paths[context]
    past = torch.arange(inputs.nodes.shape[1]) >= inputs.lengths[:, None]
    assert (inputs.nodes[past] == PADDING).all()


# Forests


@given(SOME_PATHS, st.integers(0, 3))
def test_a_forest_has_a_node_for_each_different_beginning(paths: list[Path], padding: int) -> None:
    forest = PathForest.of(encoded(paths, padding), shared=True)
    inputs, _ = forest.take(np.arange(len(forest.sizes)))
    found = walk(inputs)
    assert len(found) == len(set(found)) == len(prefixes(paths))
    assert set(found) == prefixes(paths)


@given(SOME_PATHS)
def test_without_sharing_a_forest_has_every_node_of_every_path(paths: list[Path]) -> None:
    forest = PathForest.of(encoded(paths), shared=False)
    inputs, answered = forest.take(np.arange(len(paths)))
    assert sum(inputs.levels) == len(inputs.nodes) == sum(map(len, paths))
    assert answered.tolist() == list(range(len(paths)))
    assert len(set(inputs.answered.tolist())) == len(paths)


@given(SOME_PATHS, st.booleans(), st.data())
def test_any_units_can_be_taken_from_a_forest(
    paths: list[Path], shared: bool, data: st.DataObject
) -> None:
    """They have the nodes of their own paths alone, and answer at the ends of their own contexts."""
    forest = PathForest.of(encoded(paths), shared=shared)
    units = np.array(data.draw(st.permutations(range(len(forest.sizes)))), dtype=np.int64)
    units = units[: data.draw(st.integers(1, len(units)))]
    inputs, answered = forest.take(units)
    own = [paths[row] for row in forest.leaves.rows[units]]
    found = walk(inputs)
    assert set(found) == prefixes(own)
    assert len(found) == (len(prefixes(own)) if shared else sum(map(len, own)))
    assert [found[place] for place in inputs.answered.tolist()] == [paths[i] for i in answered]
    assert set(answered.tolist()) == {i for i, unit in enumerate(forest.leaves.owner) if unit in units}


@given(SOME_PATHS)
def test_a_unit_has_as_many_nodes_as_its_path(paths: list[Path]) -> None:
    for kind in (PathForest, PathRows):
        units = kind.of(encoded(paths), shared=True)
        assert units.sizes.tolist() == [len(paths[row]) for row in units.leaves.rows]


def test_parts_of_an_epoch_answer_every_context_once(examples: tuple[object, ...]) -> None:
    contexts = TrainingData.of(examples).contexts  # type: ignore[arg-type]
    forest = PathForest.of(contexts, shared=True)
    order = np.random.default_rng(0).permutation(len(forest.sizes))
    parts = [forest.take(part)[1] for part in np.array_split(order, 7)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(contexts)))
    assert len(forest.sizes) < len(contexts)


# What of a context is read


def sequence(**options: object) -> SequenceRecommender:
    return GRU4Rec(GRU4RecConfig(**{"embedding": 4, "hidden": 4, "epochs": 2, **options}))


def keys_read(model: SequenceRecommender, contexts: Sequence[Context]) -> list[list[str]]:
    vocabulary = everything().data.vocabulary
    keys = ("", "?", *vocabulary.services, *vocabulary.others)
    read = model.read(vocabulary.encode(contexts), vocabulary)
    assert read.origins == tuple(contexts)
    return [[keys[n] for n in row[:size]] for row, size in zip(read.nodes, read.lengths, strict=True)]


def test_a_path_is_read_as_it_is() -> None:
    contexts = everything().data.contexts
    assert sequence().read(contexts, everything().data.vocabulary) is contexts
    assert sequence().key(contexts.origins[3]) == contexts.origins[3].path


def test_a_diamond_is_read_with_both_of_its_branches() -> None:
    made = diamond().compositions[0]
    contexts = [context_at(made, at) for at in ("split", "left", "merge")]
    assert [len(context.path) for context in contexts] == [2, 3, 4]
    assert keys_read(sequence(read="upstream"), contexts) == [
        ["table_d", "split"],
        ["table_d", "split", "left"],
        ["table_d", "split", "left", "right", "merge"],
    ]


def test_paths_that_have_one_upstream_dag_are_one_context() -> None:
    data = diamond().data
    model = sequence(read="upstream")
    assert len(data.grouped(model.key).contexts) == 5
    assert len(data.contexts) == len(data.grouped(sequence().key).contexts) == 6


def test_the_frontier_is_last_whatever_is_read() -> None:
    contexts, vocabulary = everything().data.contexts, everything().data.vocabulary
    for read in ("path", "upstream"):
        assert np.array_equal(sequence(read=read).read(contexts, vocabulary).last, contexts.last)


def test_a_context_without_a_composition_is_read_as_its_path() -> None:
    made = diamond().compositions[0]
    path = ("table_d", "split", "right", "merge")
    contexts = [Context(path), Context(path, made), Context(("nobody", "split"))]
    assert keys_read(sequence(read="upstream"), contexts) == [
        list(path),
        list(path),
        ["?", "split"],
    ]
    assert [sequence(read="upstream").key(context) for context in contexts[:2]] == [path, path]


def test_a_long_upstream_dag_keeps_its_newest_nodes() -> None:
    keys = [f"s{i:03}" for i in range(MAX_CONTEXT_LENGTH + 9)]
    context = context_at(composition("long", keys), keys[-1])
    found = sequence(read="upstream").read(
        chain().data.vocabulary.encode([context]), chain().data.vocabulary
    )
    assert found.lengths.tolist() == [MAX_CONTEXT_LENGTH]


def test_reading_upstream_tells_diamonds_from_paths() -> None:
    made = diamond().compositions[0]
    data = everything().data
    at_merge = context_at(made, "merge")
    contexts = data.vocabulary.encode([at_merge, Context(at_merge.path)])
    for read, differs in (("path", False), ("upstream", True)):
        scores = sequence(read=read).fit(data).score(contexts)
        assert (not np.allclose(scores[0], scores[1])) is differs


def test_another_order_needs_an_upstream_dag() -> None:
    with pytest.raises(ConfigError) as error:
        create("gru4rec", {"augmentation": {"reorder": 0.5}})
    assert "gru4rec" in str(error.value)
    assert "augmentation.reorder needs read='upstream'" in str(error.value)
    with pytest.raises(ValidationError):
        SequenceOptions(augmentation={"reorder": 0.5})
    assert SequenceOptions(augmentation={"reorder": 0.5}, read="upstream").augmentation.active


def test_only_what_changes_something_is_an_augmentation() -> None:
    assert sequence().augmentation is None
    for name in ("node_mask", "crop"):
        assert getattr(sequence(augmentation={name: 0.5}).augmentation, name) == 0.5
