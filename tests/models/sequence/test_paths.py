from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dagrec.data.examples import MAX_CONTEXT_LENGTH, Context, context_at
from dagrec.data.vocabulary import PADDING, UNKNOWN
from dagrec.errors import ConfigError
from dagrec.models.registry import create
from dagrec.models.sequence.base import SequenceOptions, SequenceRecommender
from dagrec.models.sequence.gru4rec import GRU4Rec, GRU4RecConfig
from dagrec.models.sequence.paths import ForestInputs, Leaves, PathForest, PathRows, RowInputs
from dagrec.training.data import TrainingData
from tests.models.sequence.rows import encode
from tests.worlds import chain, composition, diamond, everything

Path = tuple[int, ...]

SOME_PATHS = st.lists(
    st.lists(st.integers(UNKNOWN, 4), min_size=1, max_size=6).map(tuple), min_size=1, max_size=14
)
"""Paths of few node ids, so that many share prefixes and some are equal."""


def prefixes(paths: Sequence[Path]) -> set[Path]:
    return {path[:n] for path in paths for n in range(1, len(path) + 1)}


def paths_of(inputs: ForestInputs) -> list[Path]:
    """Return the path from the root to each node of a forest."""
    paths: list[Path] = []
    start = parents_start = 0
    for size in inputs.levels:
        for index in range(start, start + size):
            node = int(inputs.nodes[index])
            parent = int(inputs.parents[index])
            paths.append((*paths[parents_start + parent], node) if start else (node,))
        parents_start, start = start, start + size
    return paths


# Leaves


@given(SOME_PATHS)
def test_context_is_prefix_of_its_unit(paths: list[Path]) -> None:
    leaves = Leaves.of(encode(paths), shared=True)
    contexts, unit_indices = leaves.contexts_of(np.arange(len(leaves.rows)))
    assert sorted(contexts.tolist()) == list(range(len(paths)))
    assert np.array_equal(leaves.unit_of[contexts], unit_indices)
    for context, unit in zip(contexts, unit_indices, strict=True):
        assert paths[leaves.rows[unit]][: len(paths[context])] == paths[context]


@given(SOME_PATHS)
def test_units_are_paths_that_are_not_proper_prefixes(paths: list[Path]) -> None:
    leaves = Leaves.of(encode(paths), shared=True)
    unit_paths = [paths[row] for row in leaves.rows]
    prefixes_of_others = {
        path for path in paths if any(o != path and o[: len(path)] == path for o in paths)
    }
    assert len(set(unit_paths)) == len(unit_paths)
    assert set(unit_paths) == set(paths) - prefixes_of_others


@given(SOME_PATHS)
def test_unshared_units_are_contexts(paths: list[Path]) -> None:
    leaves = Leaves.of(encode(paths), shared=False)
    assert leaves.rows.tolist() == leaves.unit_of.tolist() == list(range(len(paths)))


@given(SOME_PATHS, st.data())
def test_contexts_follow_order_of_units(paths: list[Path], data: st.DataObject) -> None:
    leaves = Leaves.of(encode(paths), shared=True)
    units = np.array(data.draw(st.permutations(range(len(leaves.rows)))), dtype=np.int64)
    contexts, unit_indices = leaves.contexts_of(units)
    assert np.array_equal(unit_indices, np.sort(unit_indices))
    assert np.array_equal(units[unit_indices], leaves.unit_of[contexts])


# Rows


@given(SOME_PATHS, st.booleans(), st.integers(0, 3), st.data())
def test_rows_hold_paths_and_last_positions(
    paths: list[Path], shared: bool, padding: int, data: st.DataObject
) -> None:
    rows = PathRows.of(encode(paths, padding), shared=shared)
    units = np.array(data.draw(st.permutations(range(len(rows.sizes)))), dtype=np.int64)
    units = units[: data.draw(st.integers(1, len(units)))]
    inputs, context_rows = rows.take(units)
    assert isinstance(inputs, RowInputs)
    assert inputs.nodes.shape == (len(units), int(inputs.lengths.max()))
    assert inputs.lengths.tolist() == rows.sizes[units].tolist()
    for context, row, position in zip(
        context_rows, inputs.rows.tolist(), inputs.positions.tolist(), strict=True
    ):
        assert tuple(inputs.nodes[row, : position + 1].tolist()) == paths[context]
    is_padding = torch.arange(inputs.nodes.shape[1]) >= inputs.lengths[:, None]
    assert (inputs.nodes[is_padding] == PADDING).all()


# Forests


@given(SOME_PATHS, st.integers(0, 3))
def test_forest_has_one_node_per_prefix(paths: list[Path], padding: int) -> None:
    forest = PathForest.of(encode(paths, padding), shared=True)
    inputs, _ = forest.take(np.arange(len(forest.sizes)))
    node_paths = paths_of(inputs)
    assert len(node_paths) == len(set(node_paths)) == len(prefixes(paths))
    assert set(node_paths) == prefixes(paths)


@given(SOME_PATHS)
def test_unshared_forest_has_every_node_of_every_path(paths: list[Path]) -> None:
    forest = PathForest.of(encode(paths), shared=False)
    inputs, context_rows = forest.take(np.arange(len(paths)))
    assert sum(inputs.levels) == len(inputs.nodes) == sum(map(len, paths))
    assert context_rows.tolist() == list(range(len(paths)))
    assert len(set(inputs.ends.tolist())) == len(paths)


@given(SOME_PATHS, st.booleans(), st.data())
def test_take_returns_nodes_of_selected_units(
    paths: list[Path], shared: bool, data: st.DataObject
) -> None:
    """The inputs have only the nodes of the selected paths, and the ends of their contexts."""
    forest = PathForest.of(encode(paths), shared=shared)
    units = np.array(data.draw(st.permutations(range(len(forest.sizes)))), dtype=np.int64)
    units = units[: data.draw(st.integers(1, len(units)))]
    inputs, context_rows = forest.take(units)
    unit_paths = [paths[row] for row in forest.leaves.rows[units]]
    node_paths = paths_of(inputs)
    assert set(node_paths) == prefixes(unit_paths)
    assert len(node_paths) == (len(prefixes(unit_paths)) if shared else sum(map(len, unit_paths)))
    assert [node_paths[index] for index in inputs.ends.tolist()] == [paths[i] for i in context_rows]
    assert set(context_rows.tolist()) == {
        i for i, unit in enumerate(forest.leaves.unit_of) if unit in units
    }


@given(SOME_PATHS)
def test_unit_size_is_path_length(paths: list[Path]) -> None:
    for kind in (PathForest, PathRows):
        units = kind.of(encode(paths), shared=True)
        assert units.sizes.tolist() == [len(paths[row]) for row in units.leaves.rows]


def test_parts_of_an_epoch_cover_every_context_once(examples: tuple[object, ...]) -> None:
    contexts = TrainingData.of(examples).contexts  # type: ignore[arg-type]
    forest = PathForest.of(contexts, shared=True)
    order = np.random.default_rng(0).permutation(len(forest.sizes))
    parts = [forest.take(part)[1] for part in np.array_split(order, 7)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(contexts)))
    assert len(forest.sizes) < len(contexts)


# Nodes that are read


def gru4rec(**options: object) -> SequenceRecommender:
    return GRU4Rec(GRU4RecConfig(**{"embedding": 4, "hidden": 4, "epochs": 2, **options}))


def keys_read(model: SequenceRecommender, contexts: Sequence[Context]) -> list[list[str]]:
    vocabulary = everything().data.vocabulary
    keys = ("", "?", *vocabulary.services, *vocabulary.others)
    read = model.read(vocabulary.encode(contexts), vocabulary)
    assert read.origins == tuple(contexts)
    return [[keys[n] for n in row[:size]] for row, size in zip(read.nodes, read.lengths, strict=True)]


def test_read_path_returns_contexts_unchanged() -> None:
    contexts = everything().data.contexts
    assert gru4rec().read(contexts, everything().data.vocabulary) is contexts
    assert gru4rec().key(contexts.origins[3]) == contexts.origins[3].path


def test_read_upstream_includes_all_branches() -> None:
    composition = diamond().compositions[0]
    contexts = [context_at(composition, at) for at in ("split", "left", "merge")]
    assert [len(context.path) for context in contexts] == [2, 3, 4]
    assert keys_read(gru4rec(read="upstream"), contexts) == [
        ["table_d", "split"],
        ["table_d", "split", "left"],
        ["table_d", "split", "left", "right", "merge"],
    ]


def test_paths_with_equal_upstream_dag_are_grouped() -> None:
    data = diamond().data
    model = gru4rec(read="upstream")
    assert len(data.grouped(model.key).contexts) == 5
    assert len(data.contexts) == len(data.grouped(gru4rec().key).contexts) == 6


def test_frontier_is_last_node_read() -> None:
    contexts, vocabulary = everything().data.contexts, everything().data.vocabulary
    for read in ("path", "upstream"):
        assert np.array_equal(gru4rec(read=read).read(contexts, vocabulary).last, contexts.last)


def test_read_upstream_without_composition_returns_path() -> None:
    composition = diamond().compositions[0]
    path = ("table_d", "split", "right", "merge")
    contexts = [Context(path), Context(path, composition), Context(("nobody", "split"))]
    assert keys_read(gru4rec(read="upstream"), contexts) == [
        list(path),
        list(path),
        ["?", "split"],
    ]
    assert [gru4rec(read="upstream").key(context) for context in contexts[:2]] == [path, path]


def test_long_upstream_dag_is_cut_to_max_length() -> None:
    keys = [f"s{i:03}" for i in range(MAX_CONTEXT_LENGTH + 9)]
    context = context_at(composition("long", keys), keys[-1])
    contexts = gru4rec(read="upstream").read(
        chain().data.vocabulary.encode([context]), chain().data.vocabulary
    )
    assert contexts.lengths.tolist() == [MAX_CONTEXT_LENGTH]


def test_upstream_scores_distinguish_diamond_from_path() -> None:
    composition = diamond().compositions[0]
    data = everything().data
    at_merge = context_at(composition, "merge")
    contexts = data.vocabulary.encode([at_merge, Context(at_merge.path)])
    for read, differs in (("path", False), ("upstream", True)):
        scores = gru4rec(read=read).fit(data).score(contexts)
        assert (not np.allclose(scores[0], scores[1])) is differs


def test_reorder_requires_read_upstream() -> None:
    with pytest.raises(ConfigError) as error:
        create("gru4rec", {"augmentation": {"reorder": 0.5}})
    assert "gru4rec" in str(error.value)
    assert "augmentation.reorder needs read='upstream'" in str(error.value)
    with pytest.raises(ValidationError):
        SequenceOptions(augmentation={"reorder": 0.5})
    assert SequenceOptions(augmentation={"reorder": 0.5}, read="upstream").augmentation.active


def test_augmentation_is_none_if_inactive() -> None:
    assert gru4rec().augmentation is None
    for name in ("node_mask", "crop"):
        assert getattr(gru4rec(augmentation={name: 0.5}).augmentation, name) == 0.5
