from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from dagrec.data.vocabulary import UNKNOWN
from dagrec.errors import ConfigError
from dagrec.models.network import NetworkRecommender
from dagrec.training.batches import Batch, Batches
from dagrec.training.data import TrainingData
from dagrec.training.distributed import Processes
from tests.checks import says
from tests.training.learners import LastNodeUnits, Table, TableConfig, gru, table
from tests.worlds import WORLDS, World, chain, diamond, everything

SINGLE_PROCESS = Processes()
Pairs = dict[tuple[tuple[str, ...], str], float]


class NodeInputs(NamedTuple):
    """nodes: [R, L] nodes of each context; lengths: [R]."""

    nodes: Tensor
    lengths: Tensor


class AllNodesUnits(LastNodeUnits):
    """Like :class:`LastNodeUnits`, with all nodes of the contexts as inputs."""

    def take(self, units: np.ndarray) -> tuple[Any, np.ndarray]:
        nodes = torch.from_numpy(self.contexts.nodes[units])
        return NodeInputs(nodes, torch.from_numpy(self.contexts.lengths[units])), units


class AllNodesTable(Table):
    """A table whose inputs show the complete contexts."""

    def units(self, contexts: Any, *, training: bool) -> AllNodesUnits:  # noqa: ARG002
        return AllNodesUnits(contexts)


def batches(learner: NetworkRecommender, data: TrainingData, epoch: int = 0) -> list[Batch]:
    return list(Batches.of(learner, data).epoch(epoch, 0, SINGLE_PROCESS))


def pairs_of(batch: Batch, data: TrainingData) -> Pairs:
    """The pairs of a batch of :class:`AllNodesTable`, as keys."""
    keys = ("", "?", *data.vocabulary.services, *data.vocabulary.others)
    paths = [
        tuple(keys[node] for node in row[:length])
        for row, length in zip(batch.inputs.nodes.tolist(), batch.inputs.lengths.tolist(), strict=True)
    ]
    return {
        (paths[row], data.vocabulary.services[column]): count
        for row, column, count in zip(
            batch.rows.tolist(), batch.columns.tolist(), batch.counts.tolist(), strict=True
        )
    }


def all_nodes_table(**options: Any) -> AllNodesTable:
    return AllNodesTable(TableConfig(**options))


# Contents of batches


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_batches_of_epoch_have_every_pair_once(world: World, size: int) -> None:
    pairs: Pairs = {}
    for batch in batches(all_nodes_table(batch_size=size), world.data):
        batch_pairs = pairs_of(batch, world.data)
        assert not batch_pairs.keys() & pairs.keys()
        pairs |= batch_pairs
    assert pairs == {
        (path, y): n for path, targets in world.follows.items() for y, n in targets.items()
    }


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_shared_units_have_every_example(size: int) -> None:
    data = everything().data
    counts: Counter[int] = Counter()
    for batch in batches(gru(batch_size=size), data):
        for column, count in zip(batch.columns.tolist(), batch.counts.tolist(), strict=True):
            counts[column] += count
    assert counts == Counter(data.targets.tolist())


def test_batch_rows_are_numbers_of_its_states() -> None:
    data = everything().data
    for batch in batches(gru(batch_size=4), data):
        assert sorted(set(batch.rows.tolist())) == list(range(len(batch.inputs.ends)))


def test_batch_has_requested_number_of_units() -> None:
    sizes = [len(batch.inputs.last) for batch in batches(table(batch_size=7), everything().data)]
    assert sizes == [7, 7, 7, 4]


def test_batch_mask_has_observed_successors() -> None:
    data = everything().data
    for batch in batches(table(batch_size=7, mask_training=True), data):
        assert batch.mask is not None
        assert batch.mask[batch.rows, batch.columns].all()
        degrees = data.graph.observed.degrees[batch.inputs.last.numpy()]
        assert batch.mask.sum(dim=1).tolist() == degrees.tolist()
    assert all(batch.mask is None for batch in batches(table(), data))


def test_batch_moves_all_tensors_to_device() -> None:
    batch = batches(gru(mask_training=True), everything().data)[0]
    assert batch.to(torch.device("cpu")) is batch
    nested = batch._replace(inputs=(batch.inputs, batch.rows, 3))
    moved = nested.to(torch.device("meta"))

    def tensors(part: Any) -> list[Tensor]:
        if isinstance(part, tuple):
            return [tensor for inner in part for tensor in tensors(inner)]
        return [part] if isinstance(part, Tensor) else []

    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert [t.shape for t in tensors(moved)] == [t.shape for t in tensors(nested)]
    assert type(moved.inputs[0]) is type(batch.inputs)
    assert moved.inputs[0].levels == batch.inputs.levels
    assert isinstance(moved, Batch)
    assert moved.mask is not None


# Order


def order(seed: int, number: int) -> list[int]:
    epoch = Batches.of(table(batch_size=3), everything().data).epoch(number, seed, SINGLE_PROCESS)
    return [node for batch in epoch for node in batch.inputs.last.tolist()]


def test_order_depends_on_seed_and_epoch() -> None:
    assert order(1, 4) == order(1, 4)
    assert order(1, 4) != order(1, 5)
    assert order(1, 4) != order(2, 4)
    assert sorted(order(1, 4)) == sorted(order(2, 5))


def test_validation_batches_are_in_order() -> None:
    in_order = Batches.of(table(), everything().data).in_order(4)
    last_nodes = [node for batch in in_order for node in batch.inputs.last.tolist()]
    assert last_nodes == everything().data.contexts.last.tolist()


# Several processes


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("size", [3, 4, 8, 12, 24, 1000])
def test_processes_divide_every_batch(size: int, count: int) -> None:
    data = everything().data
    learner = table(batch_size=size)
    shares = [
        [batch.inputs.last.tolist() for batch in Batches.of(learner, data).epoch(3, 5, process)]
        for process in (Processes(rank, count) for rank in range(count))
    ]
    undivided = [
        batch.inputs.last.tolist() for batch in Batches.of(learner, data).epoch(3, 5, SINGLE_PROCESS)
    ]
    assert len({len(share) for share in shares}) == 1
    assert all(part for share in shares for part in share)
    nodes = [node for parts in zip(*shares, strict=True) for part in parts for node in part]
    assert sorted(nodes) == sorted(node for part in undivided for node in part)
    for number, parts in enumerate(zip(*shares, strict=True)):
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
        if number < len(shares[0]) - 1:
            assert sum(lengths) == size


def test_fewer_units_than_processes_are_rejected() -> None:
    data = chain().data
    with pytest.raises(ConfigError) as error:
        next(Batches.of(gru(), data).epoch(0, 0, Processes(0, 2)))
    assert says(error, "gru4rec", "2 processes", "as many units", "found 1", "fewer processes")
    with pytest.raises(ConfigError) as error:
        next(Batches.of(table(batch_size=2), data).epoch(0, 0, Processes(0, 3)))
    assert says(error, "table", "3 processes", "as many units in a batch", "found 2")


# Augmentation


def augmented(epoch: int, world: World, **augmentation: float) -> list[list[int]]:
    """The augmented contexts of an epoch, in the order of the contexts."""
    read = "upstream" if augmentation.get("reorder") else "path"
    learner = gru(augmentation=augmentation, read=read)
    batches = Batches.of(learner, world.data)
    units = batches._augmented_units(np.random.default_rng((0, epoch)))
    contexts = units.leaves.contexts  # type: ignore[attr-defined]
    return [row[:n].tolist() for row, n in zip(contexts.nodes, contexts.lengths, strict=True)]


@pytest.mark.parametrize("augmentation", [{"node_mask": 0.5}, {"crop": 0.9}], ids=str)
def test_contexts_are_augmented_in_every_epoch(augmentation: dict[str, float]) -> None:
    world = everything()
    first, second, other = (augmented(number, world, **augmentation) for number in (1, 1, 2))
    assert first == second
    assert first != other
    contexts = world.data.contexts
    original = [row[:n].tolist() for row, n in zip(contexts.nodes, contexts.lengths, strict=True)]
    assert [row[-1] for row in first] == [row[-1] for row in original]
    rows = list(zip(first, original, strict=True))
    if "crop" in augmentation:
        assert all(changed == row[-len(changed) :] for changed, row in rows)
        assert any(len(changed) < len(row) for changed, row in rows)
    else:
        assert all(a in (UNKNOWN, b) for pair in rows for a, b in zip(*pair, strict=True))


def test_upstream_nodes_are_reordered() -> None:
    world = diamond()
    epochs = {tuple(map(tuple, augmented(number, world, reorder=0.5))) for number in range(20)}
    assert len(epochs) > 1
    for rows in epochs:
        assert {frozenset(row) for row in rows} == {frozenset(row) for row in next(iter(epochs))}


@pytest.mark.parametrize("augmentation", [{"node_mask": 0.5}, {"crop": 0.9}], ids=str)
def test_augmentation_does_not_change_targets(augmentation: dict[str, float]) -> None:
    data = everything().data
    learner = gru(augmentation=augmentation)
    for epoch in range(3):
        of_epoch = batches(learner, data, epoch)
        columns = torch.cat([batch.columns for batch in of_epoch])
        counts = torch.cat([batch.counts for batch in of_epoch])
        totals = np.bincount(columns, counts, len(data.vocabulary.services))
        assert totals.tolist() == data.graph.popularity.tolist()


def test_validation_batches_are_not_augmented() -> None:
    data = everything().data
    learner = gru(augmentation={"node_mask": 0.9, "crop": 0.9})
    inputs = next(Batches.of(learner, data).in_order(1000)).inputs
    assert len(inputs.nodes) == data.contexts.lengths.sum()
    assert sorted(inputs.nodes.tolist()) == sorted(
        data.contexts.nodes[data.contexts.nodes > 0].tolist()
    )
