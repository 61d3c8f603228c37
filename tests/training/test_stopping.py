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
    STILL,
    LastInputs,
    Table,
    TableConfig,
    TableNetwork,
    fitted,
    gru,
    mean_loss,
    spoiled,
    table,
    vector,
)
from tests.worlds import chain, everything, memory

QUICK: dict[str, Any] = {"learning_rate": 0.05}
VALIDATION_METRICS = get_args(TrainingOptions.model_fields["validation_metric"].annotation)


def values(learner: NetworkRecommender) -> list[float]:
    """The validation value of each epoch that has one."""
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


def test_the_held_out_part_is_not_trained_on() -> None:
    """A table learns no node that occurs in held-out compositions alone."""
    data = memory(copies=1).data
    model = fitted(table(epochs=5, patience=5, seed=1), data)
    kept, held_out = data.hold_out(VALIDATION_SHARE, seed=1)
    trained = set(kept.contexts.last.tolist())
    untrained = set(held_out.contexts.last.tolist()) - trained
    moved = {node for node, row in enumerate(model.state()["weight"]) if row.any()}
    assert untrained
    assert moved == trained


def test_without_patience_all_data_are_trained_on() -> None:
    data = memory(copies=1).data
    model = fitted(table(epochs=5), data)
    assert all(epoch.validation is None for epoch in model.history)
    moved = {node for node, row in enumerate(model.state()["weight"]) if row.any()}
    assert moved == set(data.contexts.last.tolist())


def test_epochs_end_training_before_patience_does() -> None:
    data = everything().data
    model = fitted(gru(epochs=4, patience=50), data)
    assert len(model.history) == 4
    _, held_out = data.hold_out(VALIDATION_SHARE, seed=0)
    assert mean_loss(model, held_out) == pytest.approx(min(values(model)), abs=1e-6)


def test_nothing_can_be_held_out_of_one_composition() -> None:
    with pytest.raises(DataError) as error:
        fitted(table(epochs=2, patience=2), chain(copies=1).data)
    assert says(error, "at least two", "found 1")


# The metric


def metric_of(model: NetworkRecommender, part: TrainingData, metric: str, *, masked: bool) -> float:
    """A metric over single examples, by the functions that experiments use."""
    policy = MaskPolicy.OBSERVED if masked else MaskPolicy.NONE
    answers = apply_mask(model.score(part.contexts), part.contexts.last, part.graph, policy)
    logs = answers.log_probabilities[part.rows]
    weights = np.full(len(part.examples), 1 / len(part.examples))
    return METRICS[metric](Outcome(logs, part.targets, weights))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("metric", VALIDATION_METRICS)
def test_the_weights_are_those_with_the_best_value_of_the_chosen_metric(
    metric: str, masked: bool
) -> None:
    data = everything().data
    options = {"epochs": 12, "patience": 12, "mask_training": masked, "validation_metric": metric}
    model = fitted(gru(seed=3, **QUICK, **options), data)
    found = values(model)
    assert len(found) == 12
    best = min(found) if metric in LOWER_IS_BETTER else max(found)
    _, held_out = data.hold_out(VALIDATION_SHARE, seed=3)
    name = "nll" if metric == "loss" else metric
    assert metric_of(model, held_out, name, masked=masked) == pytest.approx(best, abs=1e-5)


def test_the_first_of_equal_values_is_the_best() -> None:
    """Accuracy stays where it is while the weights go on."""
    data = chain().data
    still = {"patience": 4, "validation_metric": "accuracy", "learning_rate": 1e-6}
    model = fitted(gru(epochs=50, **still), data)
    assert len(model.history) == 5
    assert len(set(values(model))) == 1
    once = fitted(gru(epochs=1, **still), data)
    assert np.array_equal(vector(model), vector(once))


def test_patience_counts_epochs_and_not_looks() -> None:
    """The value gets worse from the first look on; the third look is at the end of patience."""
    data = everything().data
    options = {"validate_every": 3, "patience": 5, "learning_rate": 1e-30}
    history = fitted(table(epochs=50, **options), data).history
    looked = [epoch.epoch for epoch in history if epoch.validation is not None]
    assert looked == [3, 6, 9]
    assert len(history) == 9


def test_the_last_epoch_is_always_looked_at() -> None:
    history = fitted(table(epochs=8, validate_every=3, patience=50), everything().data).history
    assert [epoch.epoch for epoch in history if epoch.validation is not None] == [3, 6, 8]


@pytest.mark.parametrize("sampling", ["rows", "shared", "batch"])
def test_validation_draws_the_same_negatives_in_every_epoch(sampling: str) -> None:
    """With a learning rate that moves nothing, the sampled validation loss stays where it is."""
    still = {"epochs": 4, "learning_rate": 1e-30, "patience": 10, "negatives": 3, **STILL}
    history = fitted(gru(loss="bpr", sampling=sampling, **still), everything().data).history
    assert len({epoch.validation for epoch in history}) == 1
    assert len({epoch.loss for epoch in history}) > 1


# Values that are not finite


class Unseen(TableNetwork):
    """Gives NaN for a node that has not been trained."""

    def states(self, inputs: LastInputs) -> Tensor:
        rows = super().states(inputs)
        return rows.masked_fill(~rows.any(dim=1, keepdim=True) & (not self.training), math.nan)


class UnseenTable(Table):
    network = Unseen


@pytest.mark.parametrize("metric", VALIDATION_METRICS)
def test_a_validation_value_that_is_not_finite_is_refused(metric: str) -> None:
    """Also by metrics of ranks, for which NaN is a number like any other."""
    options = {"epochs": 3, "patience": 1, "validation_metric": metric}
    with pytest.raises(NumericalError) as error:
        fitted(UnseenTable(TableConfig(**options), seed=1), memory(copies=1).data)
    where = f"table, epoch 1: the validation {metric} must be finite, found nan"
    assert says(error, where, "lower learning_rate")
    assert error.value.last_good is None


def test_the_best_weights_are_left_after_a_failure() -> None:
    data = everything().data
    options = {"epochs": 60, "patience": 60, **QUICK}
    best = fitted(gru(**options), data)
    epoch = values(best).index(min(values(best))) + 1
    # An epoch has one pass in training and one to validate.
    failing = spoiled(2 * (epoch + 2), "fill", **options)
    with pytest.raises(NumericalError):
        fitted(failing, data)
    assert failing.history == best.history[: epoch + 2]
    assert np.array_equal(failing.score(data.contexts), best.score(data.contexts))
