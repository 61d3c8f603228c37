"""The search space: values that every recommender takes, its defaults among them."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest

from dagrec.jobs.search_space import SPACE, Around, Choice, Range, defaults, suggest, tunable
from dagrec.models.registry import MODELS, create, recommender_class

DRAWS = 200
WITHOUT = {"popularity"}
"""Recommenders without a hyperparameter."""


def draws(name: str, fixed: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [suggest(study.ask(), name, fixed or {}) for _ in range(DRAWS)]


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Any:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def test_every_entry_is_a_hyperparameter_of_some_recommender() -> None:
    known = {key for name in MODELS for key in recommender_class(name).Config.model_fields}
    assert set(SPACE) <= known, f"{sorted(set(SPACE) - known)}: no recommender has them (any more)"


def test_only_recommenders_without_hyperparameters_have_nothing_to_search() -> None:
    assert {name for name in MODELS if not tunable(name)} == WITHOUT
    for name in WITHOUT:
        assert not recommender_class(name).Config.model_fields


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WITHOUT])
def test_every_suggested_value_is_accepted(name: str) -> None:
    found = draws(name)
    for options in found:
        config = create(name, options).config
        assert {key: getattr(config, key) for key in options} == options
    for key in tunable(name):
        assert len({repr(options[key]) for options in found}) > 1, f"{key} is always the same"


@pytest.mark.parametrize("name", [name for name in MODELS if name not in WITHOUT])
def test_the_defaults_can_be_enqueued(name: str) -> None:
    study = optuna.create_study()
    study.enqueue_trial(defaults(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of a value that its range does not hold
        options = suggest(study.ask(), name)
    assert create(name, options).config == create(name).config
    assert set(options) == set(tunable(name))


def test_what_is_fixed_is_not_searched() -> None:
    fixed = {"hidden": 24, "epochs": 3}
    assert not set(tunable("gru4rec", fixed)) & set(fixed)
    study = optuna.create_study()
    trial = study.ask()
    options = suggest(trial, "gru4rec", fixed)
    assert options.items() >= fixed.items()
    assert not set(trial.params) & set(fixed)
    assert not set(defaults("gru4rec", fixed)) & set(fixed)


@pytest.mark.parametrize("loss", ["ce", "bpr"])
@pytest.mark.parametrize("name", ["gru4rec", "bprmf", "lightgcn"])
def test_smoothing_is_searched_with_cross_entropy_alone(name: str, loss: str) -> None:
    fixed = {"loss": loss}
    assert ("label_smoothing" in tunable(name, fixed)) == (loss == "ce")
    for options in draws(name, fixed)[:20]:
        create(name, options)


def test_layers_are_searched_where_nothing_is_given_for_each() -> None:
    assert "layers" not in tunable("dgr")
    assert "layers" in tunable("dgr", {"alphas": 0.1})
    for options in draws("dgr", {"alphas": 0.1})[:20]:
        create("dgr", options)


def test_a_value_that_is_unset_by_default_is_tried_set_and_unset() -> None:
    values = {options["mu"] for options in draws("markov")}
    assert None in values
    assert len(values) > 10


def suggested(space: Choice | Range | Around, default: Any) -> list[Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.suggest(study.ask(), "x", default) for _ in range(DRAWS)]


def test_ranges_around_a_default_hold_it_in_their_middle() -> None:
    whole = suggested(Around(3.0), 30)
    assert (min(whole), max(whole)) == (10, 90)
    assert all(isinstance(value, int) for value in whole)
    assert min(suggested(Around(3.0), 1)) == 1
    small = suggested(Around(10.0), 0.001)
    assert 1e-4 <= min(small) < 2e-4
    assert 5e-3 < max(small) <= 1e-2


def test_ranges_reach_to_a_default_beyond_them() -> None:
    assert set(suggested(Range(1, 3), 2)) == {1, 2, 3}
    assert set(suggested(Range(1, 3), 5)) == {1, 2, 3, 4, 5}
    assert set(suggested(Range(1, 3), None)) == {1, 2, 3}
    assert all(0.0 <= value <= 0.6 for value in suggested(Range(0.0, 0.6), 0.5))
