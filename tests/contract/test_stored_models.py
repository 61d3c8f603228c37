"""Requirements of every registered recommender when it is saved and loaded."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from dagrec.errors import StoreError
from dagrec.models.registry import MODELS, recommender_class
from dagrec.types import Options
from tests.checks import says
from tests.contract.recommenders import (
    VOCABULARY_AND_GRAPH,
    WORLD,
    fitted,
    make,
    sample_contexts,
)
from tests.worlds import chain

QUICK: dict[str, object] = {"epochs": 2, "min_steps": 1}
"""Options with which the training of a network is short."""


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def other_values(default: object) -> Iterator[object]:
    """Yield values to try for an option instead of its default, those that train quickly first."""
    if isinstance(default, Options):
        yield from configs_off_default(type(default))
    elif isinstance(default, bool):
        yield not default
    elif isinstance(default, str):
        vectors = Path(__file__).parents[1] / "models" / "hybrid" / "vectors.safetensors"
        yield from ("a", "b", "popularity", "gru4rec", str(vectors))
    elif isinstance(default, float):
        yield from (default / 2, 0.25, 0.5, default * 2)
    elif isinstance(default, tuple):
        yield default[:1]
    elif isinstance(default, dict):
        yield {"read": "upstream", **QUICK}  # options of a base
        yield dict([*default.items()][:1]) if default else {"mu": 3.0}
    else:
        yield from (2, 3, 1, True, 0.5)


def is_off_default(class_: type[Options], values: Mapping[str, object]) -> bool:
    """Return whether the values are valid together and all differ from the defaults."""
    defaults = class_()
    try:
        config = class_.model_validate(values)
    except ValidationError:
        return False
    return all(getattr(config, field) != getattr(defaults, field) for field in values)


def configs_off_default(class_: type[Options]) -> list[Options]:
    """Return configurations such that each field differs from its default in at least one of them.

    One configuration is not enough, because some options exclude others.
    """
    choices = {
        field: (*getattr(info.annotation, "__args__", ()), *other_values(info.get_default()))
        for field, info in class_.model_fields.items()
    }
    remaining, configs = list(choices), []
    while remaining:
        values = {field: value for field, value in QUICK.items() if field in choices}
        for field in remaining:
            # Some options require a value of another one, which may have to change again.
            trials = itertools.chain(
                (values | {field: value} for value in choices[field]),
                (
                    values | {other: other_value, field: value}
                    for other in choices
                    for other_value in choices[other]
                    for value in choices[field]
                ),
            )
            values = next((trial for trial in trials if is_off_default(class_, trial)), values)
        assert remaining[0] in values, (
            f"{class_.__name__}.{remaining[0]}: add a valid value to other_values"
        )
        remaining = [field for field in remaining if field not in values]
        configs.append(class_.model_validate(values))
    return configs


def test_loaded_recommender_has_equal_scores_for_every_option(name: str, tmp_path: Path) -> None:
    """Every option differs from its default in at least one configuration."""
    class_ = recommender_class(name)
    configs, defaults = configs_off_default(class_.Config), class_.Config()
    for field in class_.Config.model_fields:
        assert any(getattr(config, field) != getattr(defaults, field) for config in configs)
    for config in configs:
        model = class_(config, seed=4).fit(WORLD.data)
        model.save(tmp_path, WORLD.data.vocabulary)
        metadata = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        loaded = recommender_class(metadata["recommender"]).load(
            tmp_path, metadata, *VOCABULARY_AND_GRAPH
        )
        assert type(loaded) is class_
        assert loaded.config == config
        assert loaded.seed == 4
        assert loaded.history == model.history
        assert loaded.parameters() == model.parameters()
        assert np.array_equal(loaded.score(sample_contexts()), model.score(sample_contexts()))


def test_save_writes_only_tensors_and_json(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path, WORLD.data.vocabulary)
    files = {path.name for path in tmp_path.rglob("*")}
    assert files == {"model.json", "tensors.safetensors"}
    assert json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))["recommender"] == name
    assert {array.dtype.kind for array in fitted(name).state().values()} <= set("biuf")


def test_restored_recommender_can_be_fitted_again(name: str) -> None:
    model = make(name).restore(fitted(name).state(), *VOCABULARY_AND_GRAPH)
    expected = fitted(name).score(sample_contexts())
    assert np.array_equal(model.score(sample_contexts()), expected)
    assert np.array_equal(model.fit(WORLD.data).score(sample_contexts()), expected)


def test_restore_rejects_missing_and_resized_arrays(name: str) -> None:
    state = fitted(name).state()
    for key, array in state.items():
        missing = {other: value for other, value in state.items() if other != key}
        damages = [
            missing,
            missing | {key: array[:-1]},
            missing | {key: np.concatenate([array, array[-1:]])},
        ]
        for damaged in damages:
            with pytest.raises(StoreError) as error:
                make(name).restore(damaged, *VOCABULARY_AND_GRAPH)
            assert says(error, name, "train it again")


def test_restore_rejects_state_of_another_vocabulary(name: str) -> None:
    other = chain().data
    with pytest.raises(StoreError) as error:
        make(name).restore(fitted(name).state(), other.vocabulary, other.graph)
    assert says(error, name, "train it again")


def test_parameters_is_total_size_of_state(name: str) -> None:
    expected = sum(int(np.prod(array.shape)) for array in fitted(name).state().values())
    assert fitted(name).parameters() == expected > 0
