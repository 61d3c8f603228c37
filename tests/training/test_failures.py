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
    faulty_gru,
    fitted,
    gru,
    on_cpu,
    table,
    weight_vector,
)
from tests.worlds import chain, everything

SETTINGS = {"batch_size": 5, "learning_rate": 0.02}


class ThreeParameters(TableNetwork):
    """A table with two additional parameters."""

    def __init__(self, nodes: int, services: int, start: float) -> None:
        super().__init__(nodes, services, start)
        self.second = nn.Parameter(torch.zeros(()))
        self.third = nn.Parameter(torch.zeros(()))

    def states(self, inputs: LastInputs) -> Tensor:
        return super().states(inputs) * (1 + self.second + self.third)


class NanScores(TableNetwork):
    def states(self, inputs: LastInputs) -> Tensor:
        return super().states(inputs) * math.nan


class InfiniteGradient(ThreeParameters):
    """Finite scores whose gradient is infinite for ``second`` and finite for the others."""

    def states(self, inputs: LastInputs) -> Tensor:
        return super().states(inputs) + self.second.sqrt()[None, None] * torch.eye(
            1, self.weight.shape[1]
        )


class NanGradient(ThreeParameters):
    """Finite scores whose gradient is NaN for ``second`` and finite for the others."""

    def states(self, inputs: LastInputs) -> Tensor:
        zero = self.second.abs().sqrt() * torch.zeros(())
        return super().states(inputs) + zero


class UnusedParameter(ThreeParameters):
    """Scores that do not depend on ``third``."""

    def states(self, inputs: LastInputs) -> Tensor:
        return TableNetwork.states(self, inputs) * (1 + self.second)


def learner(network_: type[TableNetwork], **options: Any) -> Table:
    class CustomTable(Table):
        network: ClassVar[type[TableNetwork]] = network_

    return CustomTable(TableConfig(**options))


def fit_error(model: Table | Any, data: Any) -> NumericalError:
    with pytest.raises(NumericalError) as error:
        fitted(model, data)
    assert says(error, f"{model.name}, epoch ", "must be finite", "lower learning_rate")
    return error.value


# Errors


def test_training_fails_on_infinite_loss() -> None:
    error = fit_error(learner(NanScores, epochs=3), everything().data)
    assert "table, epoch 1: the loss must be finite, found nan" in str(error)


@pytest.mark.parametrize("network", [InfiniteGradient, NanGradient])
def test_training_fails_on_infinite_gradient_and_names_parameter(network: type[TableNetwork]) -> None:
    """Clipping would spread a NaN to all gradients. The message names the parameter that caused it."""
    error = fit_error(learner(network, epochs=3), everything().data)
    assert "table, epoch 1: the gradient of second must be finite" in str(error)


def test_training_fails_on_infinite_weights_and_names_parameter() -> None:
    """The weights are close to the largest float32 number."""
    model = table(epochs=1, batch_size=1000, learning_rate=3e37, start=3.4e38)
    error = fit_error(model, everything().data)
    assert "table, epoch 1: weight must be finite, found NaN or infinity" in str(error)


def test_training_fails_on_parameter_without_gradient() -> None:
    with pytest.raises(DagrecError) as error:
        fitted(learner(UnusedParameter, epochs=3), everything().data)
    assert says(error, "table, epoch 1", "every parameter must have a gradient", "found none for third")
    assert not isinstance(error.value, NumericalError)


def test_training_fails_on_divergence_and_names_epoch() -> None:
    error = fit_error(gru(epochs=30, batch_size=1000, learning_rate=1e37), everything().data)
    assert "gru4rec, epoch 2" in str(error)


@pytest.mark.parametrize("rate", [1e36, 1e37])
def test_history_has_only_finite_losses(rate: float) -> None:
    """The loss can overflow even if all gradients are finite."""
    model = gru(layers=2, tied=True, epochs=10, learning_rate=rate)
    fit_error(model, everything().data)
    assert all(math.isfinite(epoch.loss) for epoch in model.history)


# State after a failure


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("epochs", [1, 4])
def test_last_good_weights_are_those_of_last_complete_epoch(epochs: int, batch: int) -> None:
    """The failure is in batch number ``batch`` of the next epoch."""
    data = everything().data
    good = fitted(gru(epochs=epochs, **SETTINGS), data)
    batches = math.ceil(len(Batches.of(gru(), data)) / 5)
    # Weights with which the first batch of an epoch fails are not good.
    failing = faulty_gru(batches * (epochs + (batch == 0)) + batch, "fill", epochs=30, **SETTINGS)
    error = fit_error(failing, data)
    assert error.last_good is not None
    assert failing.history == good.history == error.last_good[1]
    assert np.array_equal(weight_vector(failing), weight_vector(good))
    assert np.array_equal(failing.score(data.contexts), good.score(data.contexts))


def test_last_good_weights_are_a_network_on_the_cpu_in_evaluation_mode() -> None:
    error = fit_error(faulty_gru(10, "fill", epochs=30), everything().data)
    network, history = error.last_good
    assert isinstance(network, Network)
    assert not network.training
    assert all(isinstance(epoch, Epoch) for epoch in history)


@pytest.mark.parametrize("pass_", [0, 1, 2])
def test_failure_in_first_epoch_keeps_previous_network(pass_: int) -> None:
    small, large = chain().data, everything().data
    model = faulty_gru(10**6, "fill", epochs=3, **SETTINGS)
    fitted(model, small)
    before = model.score(small.contexts), model.history, model.state()
    model.pass_ = pass_
    error = fit_error(model, large)
    assert error.last_good is None
    assert np.array_equal(model.score(small.contexts), before[0])
    assert model.history == before[1] != []
    assert all(np.array_equal(array, before[2][name]) for name, array in model.state().items())


def test_weights_that_fail_in_next_epoch_are_not_good() -> None:
    """A learning rate of 1e37 gives a finite loss in the first epoch and an infinite one afterwards."""
    data = everything().data
    model = gru(epochs=30, batch_size=1000, learning_rate=1e37)
    assert fit_error(model, data).last_good is None
    assert model.history == []
    with pytest.raises(NotFittedError):
        model.score(data.contexts)


def test_interrupted_training_keeps_previous_network() -> None:
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
