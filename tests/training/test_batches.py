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
from tests.training.learners import Lasts, Table, TableConfig, gru, table
from tests.worlds import WORLDS, World, chain, diamond, everything

ALONE = Processes()
Pairs = dict[tuple[tuple[str, ...], str], float]


class Noted(NamedTuple):
    """nodes: [R, L] of the contexts of a batch."""

    nodes: Tensor
    lengths: Tensor


class Whole(Lasts):
    """As :class:`Lasts`, with all nodes of the contexts as inputs."""

    def take(self, units: np.ndarray) -> tuple[Any, np.ndarray]:
        nodes = torch.from_numpy(self.contexts.nodes[units])
        return Noted(nodes, torch.from_numpy(self.contexts.lengths[units])), units


class WholeTable(Table):
    """Shows what contexts a network would read, after whatever is done to them."""

    def units(self, contexts: Any, *, training: bool) -> Whole:  # noqa: ARG002
        return Whole(contexts)


def batches(learner: NetworkRecommender, data: TrainingData, epoch: int = 0) -> list[Batch]:
    return list(Batches.of(learner, data).epoch(epoch, 0, ALONE))


def pairs_of(batch: Batch, data: TrainingData) -> Pairs:
    """The pairs of a batch of :class:`WholeTable`, as keys."""
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


def whole(**options: Any) -> WholeTable:
    return WholeTable(TableConfig(**options))


# What a batch holds


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_the_batches_of_an_epoch_hold_every_pair_once(world: World, size: int) -> None:
    found: Pairs = {}
    for batch in batches(whole(batch_size=size), world.data):
        own = pairs_of(batch, world.data)
        assert not own.keys() & found.keys()
        found |= own
    assert found == {(path, y): n for path, nexts in world.follows.items() for y, n in nexts.items()}


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_units_that_are_shared_hold_every_example(size: int) -> None:
    data = everything().data
    found: Counter[int] = Counter()
    for batch in batches(gru(batch_size=size), data):
        for column, count in zip(batch.columns.tolist(), batch.counts.tolist(), strict=True):
            found[column] += count
    assert found == Counter(data.targets.tolist())


def test_rows_of_a_batch_are_the_contexts_that_its_inputs_answer() -> None:
    data = everything().data
    for batch in batches(gru(batch_size=4), data):
        assert sorted(set(batch.rows.tolist())) == list(range(len(batch.inputs.ends)))


def test_a_batch_has_as_many_units_as_was_asked_for() -> None:
    sizes = [len(batch.inputs.last) for batch in batches(table(batch_size=7), everything().data)]
    assert sizes == [7, 7, 7, 4]


def test_masks_hold_the_observed_successors() -> None:
    data = everything().data
    for batch in batches(table(batch_size=7, mask_training=True), data):
        assert batch.mask is not None
        assert batch.mask[batch.rows, batch.columns].all()
        degrees = data.graph.observed.degrees[batch.inputs.last.numpy()]
        assert batch.mask.sum(dim=1).tolist() == degrees.tolist()
    assert all(batch.mask is None for batch in batches(table(), data))


def test_a_batch_goes_to_a_device_with_everything_in_it() -> None:
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
    found = Batches.of(table(batch_size=3), everything().data)
    return [node for batch in found.epoch(number, seed, ALONE) for node in batch.inputs.last.tolist()]


def test_seed_and_epoch_decide_the_order() -> None:
    assert order(1, 4) == order(1, 4)
    assert order(1, 4) != order(1, 5)
    assert order(1, 4) != order(2, 4)
    assert sorted(order(1, 4)) == sorted(order(2, 5))


def test_units_come_in_order_to_be_validated() -> None:
    found = Batches.of(table(), everything().data)
    lasts = [node for batch in found.in_order(4) for node in batch.inputs.last.tolist()]
    assert lasts == everything().data.contexts.last.tolist()


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
    together = [batch.inputs.last.tolist() for batch in Batches.of(learner, data).epoch(3, 5, ALONE)]
    assert len({len(share) for share in shares}) == 1
    assert all(part for share in shares for part in share)
    every = [node for parts in zip(*shares, strict=True) for part in parts for node in part]
    assert sorted(every) == sorted(node for part in together for node in part)
    for number, parts in enumerate(zip(*shares, strict=True)):
        lengths = [len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
        if number < len(shares[0]) - 1:
            assert sum(lengths) == size


def test_fewer_units_than_processes_are_refused() -> None:
    data = chain().data
    with pytest.raises(ConfigError) as error:
        next(Batches.of(gru(), data).epoch(0, 0, Processes(0, 2)))
    assert says(error, "gru4rec", "2 processes", "as many units", "found 1", "fewer processes")
    with pytest.raises(ConfigError) as error:
        next(Batches.of(table(batch_size=2), data).epoch(0, 0, Processes(0, 3)))
    assert says(error, "table", "3 processes", "as many units in a batch", "found 2")


# Augmentation


def varied(number: int, world: World, **augmentation: float) -> list[list[int]]:
    """What a network reads of each context in an epoch, in the order of the contexts."""
    read = "upstream" if augmentation.get("reorder") else "path"
    learner = gru(augmentation=augmentation, read=read)
    found = Batches.of(learner, world.data)
    units = found._augmented(np.random.default_rng((0, number)))
    contexts = units.leaves.contexts  # type: ignore[attr-defined]
    return [row[:n].tolist() for row, n in zip(contexts.nodes, contexts.lengths, strict=True)]


@pytest.mark.parametrize("augmentation", [{"node_mask": 0.5}, {"crop": 0.9}], ids=str)
def test_contexts_are_varied_anew_in_every_epoch(augmentation: dict[str, float]) -> None:
    world = everything()
    first, again, other = (varied(number, world, **augmentation) for number in (1, 1, 2))
    assert first == again
    assert first != other
    plain = [row[:n].tolist() for row, n in zip(world.data.contexts.nodes, world.data.contexts.lengths,
                                                strict=True)]  # fmt: skip
    assert [row[-1] for row in first] == [row[-1] for row in plain]
    if "crop" in augmentation:
        assert all(own == row[-len(own) :] for own, row in zip(first, plain, strict=True))
        assert any(len(own) < len(row) for own, row in zip(first, plain, strict=True))
    else:
        assert all(
            a in (UNKNOWN, b) for own, row in zip(first, plain, strict=True)
            for a, b in zip(own, row, strict=True)
        )  # fmt: skip


def test_upstream_nodes_are_read_in_another_order() -> None:
    world = diamond()
    found = {tuple(map(tuple, varied(number, world, reorder=0.5))) for number in range(20)}
    assert len(found) > 1
    for rows in found:
        assert {frozenset(row) for row in rows} == {frozenset(row) for row in next(iter(found))}


@pytest.mark.parametrize("augmentation", [{"node_mask": 0.5}, {"crop": 0.9}], ids=str)
def test_targets_stay_what_they_are(augmentation: dict[str, float]) -> None:
    data = everything().data
    learner = gru(augmentation=augmentation)
    for number in range(3):
        found = batches(learner, data, number)
        columns = torch.cat([batch.columns for batch in found])
        counts = torch.cat([batch.counts for batch in found])
        totals = np.bincount(columns, counts, len(data.vocabulary.services))
        assert totals.tolist() == data.graph.popularity.tolist()


def test_what_is_validated_is_never_varied() -> None:
    data = everything().data
    learner = gru(augmentation={"node_mask": 0.9, "crop": 0.9})
    inputs = next(Batches.of(learner, data).in_order(1000)).inputs
    assert len(inputs.nodes) == data.contexts.lengths.sum()
    assert sorted(inputs.nodes.tolist()) == sorted(
        data.contexts.nodes[data.contexts.nodes > 0].tolist()
    )
