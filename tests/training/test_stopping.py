from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from torch import Tensor

from dagrec.errors import DataError, NumericalError
from dagrec.graph.mask import MaskPolicy, apply_mask
from dagrec.metrics.ranking import METRICS, Outcome
from dagrec.models.network import NetworkRecommender
from dagrec.training.data import TrainingData
from dagrec.training.options import LOWER_IS_BETTER, TrainingOptions
from dagrec.training.trainer import VALIDATION_SHARE
from tests.checks import says
from tests.training.learners import (
    NO_DROPOUT,
    LastInputs,
    Table,
    TableConfig,
    TableNetwork,
    faulty_gru,
    fitted,
    gru,
    mean_loss,
    table,
    weight_vector,
)
from tests.worlds import chain, everything, memory

QUICK: dict[str, Any] = {"learning_rate": 0.05}
VALIDATION_METRICS = get_args(TrainingOptions.model_fields["validation_metric"].annotation)


def values(learner: NetworkRecommender) -> list[float]:
    """The validation values of the epochs with validation."""
    return [epoch.validation for epoch in learner.history if epoch.validation is not None]


def test_early_stopping_restores_the_best_weights() -> None:
    data = everything().data
    model = fitted(gru(epochs=200, patience=3, seed=5, **QUICK), data)
    losses = values(model)
    best = min(losses)
    assert len(losses) == len(model.history)
    assert len(losses) == losses.index(best) + 1 + 3 < 200
    assert losses[-1] > best
    _, held_out = data.hold_out(VALIDATION_SHARE, seed=5)
    assert mean_loss(model, held_out) == pytest.approx(best, abs=1e-6)


def test_held_out_part_is_not_trained_on() -> None:
    """The table does not change for nodes that occur only in held-out compositions."""
    data = memory(copies=1).data
    model = fitted(table(epochs=5, patience=5, seed=1), data)
    rest, held_out = data.hold_out(VALIDATION_SHARE, seed=1)
    trained = set(rest.contexts.last.tolist())
    untrained = set(held_out.contexts.last.tolist()) - trained
    changed = {node for node, row in enumerate(model.state()["weight"]) if row.any()}
    assert untrained
    assert changed == trained


def test_all_data_are_trained_on_without_patience() -> None:
    data = memory(copies=1).data
    model = fitted(table(epochs=5), data)
    assert all(epoch.validation is None for epoch in model.history)
    changed = {node for node, row in enumerate(model.state()["weight"]) if row.any()}
    assert changed == set(data.contexts.last.tolist())


def test_training_ends_after_epochs_with_large_patience() -> None:
    data = everything().data
    model = fitted(gru(epochs=4, patience=50), data)
    assert len(model.history) == 4
    _, held_out = data.hold_out(VALIDATION_SHARE, seed=0)
    assert mean_loss(model, held_out) == pytest.approx(min(values(model)), abs=1e-6)


def test_patience_requires_two_compositions() -> None:
    with pytest.raises(DataError) as error:
        fitted(table(epochs=2, patience=2), chain(copies=1).data)
    assert says(error, "at least two", "found 1")


# Validation metrics


def metric_of(model: NetworkRecommender, part: TrainingData, metric: str, *, masked: bool) -> float:
    """A metric over all examples, as computed in evaluations."""
    policy = MaskPolicy.OBSERVED if masked else MaskPolicy.NONE
    predictions = apply_mask(model.score(part.contexts), part.contexts.last, part.graph, policy)
    logs = predictions.log_probabilities[part.rows]
    weights = np.full(len(part.examples), 1 / len(part.examples))
    return METRICS[metric](Outcome(logs, part.targets, weights))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("metric", VALIDATION_METRICS)
def test_best_weights_are_restored_for_every_metric(metric: str, masked: bool) -> None:
    data = everything().data
    options = {"epochs": 12, "patience": 12, "mask_training": masked, "validation_metric": metric}
    model = fitted(gru(seed=3, **QUICK, **options), data)
    of_epochs = values(model)
    assert len(of_epochs) == 12
    best = min(of_epochs) if metric in LOWER_IS_BETTER else max(of_epochs)
    _, held_out = data.hold_out(VALIDATION_SHARE, seed=3)
    name = "nll" if metric == "loss" else metric
    assert metric_of(model, held_out, name, masked=masked) == pytest.approx(best, abs=1e-5)


def test_first_of_equal_values_is_best() -> None:
    """The accuracy is constant while the weights change."""
    data = chain().data
    options = {"patience": 4, "validation_metric": "accuracy", "learning_rate": 1e-6}
    model = fitted(gru(epochs=50, **options), data)
    assert len(model.history) == 5
    assert len(set(values(model))) == 1
    single_epoch = fitted(gru(epochs=1, **options), data)
    assert np.array_equal(weight_vector(model), weight_vector(single_epoch))


def test_patience_counts_epochs_not_validations() -> None:
    """The value does not improve after the first validation, and patience ends with the third one."""
    data = everything().data
    options = {"validate_every": 3, "patience": 5, "learning_rate": 1e-30}
    history = fitted(table(epochs=50, **options), data).history
    validated = [epoch.epoch for epoch in history if epoch.validation is not None]
    assert validated == [3, 6, 9]
    assert len(history) == 9


def test_last_epoch_is_always_validated() -> None:
    history = fitted(table(epochs=8, validate_every=3, patience=50), everything().data).history
    assert [epoch.epoch for epoch in history if epoch.validation is not None] == [3, 6, 8]


@pytest.mark.parametrize("sampling", ["rows", "shared", "batch"])
def test_validation_has_same_negatives_in_every_epoch(sampling: str) -> None:
    """With a learning rate close to 0, the validation loss is constant."""
    options = {"epochs": 4, "learning_rate": 1e-30, "patience": 10, "negatives": 3, **NO_DROPOUT}
    history = fitted(gru(loss="bpr", sampling=sampling, **options), everything().data).history
    assert len({epoch.validation for epoch in history}) == 1
    assert len({epoch.loss for epoch in history}) > 1


# Infinite values


class NanForUntrainedNodes(TableNetwork):
    """Scores are NaN for nodes that were not trained."""

    def states(self, inputs: LastInputs) -> Tensor:
        rows = super().states(inputs)
        return rows.masked_fill(~rows.any(dim=1, keepdim=True) & (not self.training), math.nan)


class NanForUntrainedNodesTable(Table):
    network = NanForUntrainedNodes


@pytest.mark.parametrize("metric", VALIDATION_METRICS)
def test_training_fails_on_infinite_validation_value(metric: str) -> None:
    """Including rank metrics, which do not propagate NaN."""
    options = {"epochs": 3, "patience": 1, "validation_metric": metric}
    with pytest.raises(NumericalError) as error:
        fitted(NanForUntrainedNodesTable(TableConfig(**options), seed=1), memory(copies=1).data)
    where = f"table, epoch 1: the validation {metric} must be finite, found nan"
    assert says(error, where, "lower learning_rate")
    assert error.value.last_good is None


def test_best_weights_are_kept_after_failure() -> None:
    data = everything().data
    options = {"epochs": 60, "patience": 60, **QUICK}
    best = fitted(gru(**options), data)
    epoch = values(best).index(min(values(best))) + 1
    # An epoch has one forward pass in training and one in validation.
    failing = faulty_gru(2 * (epoch + 2), "fill", **options)
    with pytest.raises(NumericalError):
        fitted(failing, data)
    assert failing.history == best.history[: epoch + 2]
    assert np.array_equal(failing.score(data.contexts), best.score(data.contexts))
