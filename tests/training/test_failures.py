from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dagrec.errors import DagrecError, NotFittedError, NumericalError
from dagrec.training.batches import Batches
from dagrec.training.network import Network
from dagrec.training.runtime import Epoch
from tests.checks import says
from tests.training.learners import (
    LastInputs,
    Table,
    TableConfig,
    TableNetwork,
    fitted,
    gru,
    on_cpu,
    spoiled,
    table,
    vector,
)
from tests.worlds import chain, everything

OTHER = {"batch_size": 5, "learning_rate": 0.02}


class Named(TableNetwork):
    """A table with two more parameters, which may spoil something."""

    def __init__(self, nodes: int, services: int, start: float) -> None:
        super().__init__(nodes, services, start)
        self.second = nn.Parameter(torch.zeros(()))
        self.third = nn.Parameter(torch.zeros(()))

    def states(self, inputs: LastInputs) -> Tensor:
        return super().states(inputs) * (1 + self.second + self.third)


class NanScores(TableNetwork):
    def states(self, inputs: LastInputs) -> Tensor:
        return super().states(inputs) * math.nan


class SteepScores(Named):
    """Finite scores with a gradient that is infinite at ``second``, and finite everywhere else."""

    def states(self, inputs: LastInputs) -> Tensor:
        return super().states(inputs) + self.second.sqrt()[None, None] * torch.eye(
            1, self.weight.shape[1]
        )


class NanGradient(Named):
    """Finite scores with a gradient that is NaN at ``second``, and finite everywhere else."""

    def states(self, inputs: LastInputs) -> Tensor:
        zero = self.second.abs().sqrt() * torch.zeros(())
        return super().states(inputs) + zero


class Deaf(Named):
    """Nothing reaches ``third``."""

    def states(self, inputs: LastInputs) -> Tensor:
        return TableNetwork.states(self, inputs) * (1 + self.second)


def learner(network_: type[TableNetwork], **options: Any) -> Table:
    class Spoiled(Table):
        network: ClassVar[type[TableNetwork]] = network_

    return Spoiled(TableConfig(**options))


def fails(model: Table | Any, data: Any) -> NumericalError:
    with pytest.raises(NumericalError) as error:
        fitted(model, data)
    assert says(error, f"{model.name}, epoch ", "must be finite", "lower learning_rate")
    return error.value


# What is refused


def test_a_loss_that_is_not_finite_is_refused() -> None:
    error = fails(learner(NanScores, epochs=3), everything().data)
    assert "table, epoch 1: the loss must be finite, found nan" in str(error)


@pytest.mark.parametrize("network", [SteepScores, NanGradient])
def test_a_gradient_that_is_not_finite_is_refused_by_name(network: type[TableNetwork]) -> None:
    """Clipping spreads a NaN over all gradients; the name is that of the first to have it."""
    error = fails(learner(network, epochs=3), everything().data)
    assert "table, epoch 1: the gradient of second must be finite" in str(error)


def test_weights_that_are_not_finite_are_refused_by_name_in_their_own_epoch() -> None:
    """A step from almost the largest number that float32 has."""
    model = table(epochs=1, batch_size=1000, learning_rate=3e37, start=3.4e38)
    error = fails(model, everything().data)
    assert "table, epoch 1: weight must be finite, found NaN or infinity" in str(error)


def test_a_parameter_that_the_gradient_does_not_reach_is_refused_by_name() -> None:
    with pytest.raises(DagrecError) as error:
        fitted(learner(Deaf, epochs=3), everything().data)
    assert says(error, "table, epoch 1", "reach every parameter", "found none at third")
    assert not isinstance(error.value, NumericalError)


def test_a_network_that_runs_away_is_refused_with_its_epoch() -> None:
    error = fails(gru(epochs=30, batch_size=1000, learning_rate=1e37), everything().data)
    assert "gru4rec, epoch 2" in str(error)


@pytest.mark.parametrize("rate", [1e36, 1e37])
def test_no_history_holds_a_loss_that_is_not_finite(rate: float) -> None:
    """A difference of scores can overflow while all gradients, being probabilities, stay small."""
    model = gru(layers=2, tied=True, epochs=10, learning_rate=rate)
    fails(model, everything().data)
    assert all(math.isfinite(epoch.loss) for epoch in model.history)


# What is left


@pytest.mark.parametrize("late", [0, 1, 2])
@pytest.mark.parametrize("epochs", [1, 4])
def test_the_last_good_weights_are_those_of_whole_epochs(epochs: int, late: int) -> None:
    """The failure comes in batch ``late`` of the epoch after them; history and weights end before."""
    data = everything().data
    good = fitted(gru(epochs=epochs, **OTHER), data)
    batches = math.ceil(len(Batches.of(gru(), data)) / 5)
    # Weights that a batch cannot be computed with are not good: then those of the epoch before are.
    failing = spoiled(batches * (epochs + (late == 0)) + late, "fill", epochs=30, **OTHER)
    error = fails(failing, data)
    assert error.last_good is not None
    assert failing.history == good.history == error.last_good[1]
    assert np.array_equal(vector(failing), vector(good))
    assert np.array_equal(failing.score(data.contexts), good.score(data.contexts))


def test_last_good_weights_are_a_network_on_the_cpu_in_evaluation_mode() -> None:
    error = fails(spoiled(10, "fill", epochs=30), everything().data)
    network, history = error.last_good
    assert isinstance(network, Network)
    assert not network.training
    assert all(isinstance(epoch, Epoch) for epoch in history)


@pytest.mark.parametrize("pass_", [0, 1, 2])
def test_a_failure_in_the_first_epoch_leaves_what_was_there_before(pass_: int) -> None:
    small, large = chain().data, everything().data
    model = spoiled(10**6, "fill", epochs=3, **OTHER)
    fitted(model, small)
    before = model.score(small.contexts), model.history, model.state()
    model.pass_ = pass_
    error = fails(model, large)
    assert error.last_good is None
    assert np.array_equal(model.score(small.contexts), before[0])
    assert model.history == before[1] != []
    assert all(np.array_equal(array, before[2][name]) for name, array in model.state().items())


def test_useless_weights_are_not_good() -> None:
    """One step of 1e37 ends the first epoch with a finite loss, and weights that no batch can use."""
    data = everything().data
    model = gru(epochs=30, batch_size=1000, learning_rate=1e37)
    assert fails(model, data).last_good is None
    assert model.history == []
    with pytest.raises(NotFittedError):
        model.score(data.contexts)


def test_an_interrupted_training_leaves_what_was_there_before() -> None:
    def stop(_name: str, epoch: Epoch, _epochs: int) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    small, large = chain().data, everything().data
    model = gru(epochs=3)
    before = fitted(model, small).score(small.contexts)
    with pytest.raises(KeyboardInterrupt), on_cpu(progress=stop):
        model.fit(large)
    assert np.array_equal(model.score(small.contexts), before)
    assert len(model.history) == 3
