"""What every recommender must do when it is saved and loaded."""

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
    WORLD,
    asked,
    fitted,
    new,
)
from tests.worlds import chain


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def other_values(default: object) -> Iterator[object]:
    """Values that an option may take in place of its default, the quick ones first."""
    if isinstance(default, Options):
        yield from off_default(type(default))
    elif isinstance(default, bool):
        yield not default
    elif isinstance(default, str):
        # The last is a file of text vectors.
        vectors = Path(__file__).parents[1] / "models" / "hybrid" / "vectors.safetensors"
        yield from ("a", "b", "popularity", "gru4rec", str(vectors))
    elif isinstance(default, float):
        yield from (default / 2, 0.25, 0.5, default * 2)
    elif isinstance(default, tuple):
        yield default[:1]
    elif isinstance(default, dict):
        yield from ([dict([*default.items()][:1])] if default else [{"mu": 3.0}, {"read": "upstream"}])
    else:
        yield from (2, 3, 1, True, 0.5)


def fits(class_: type[Options], values: Mapping[str, object]) -> bool:
    """Whether a configuration may have all of these values, and has another in each of their fields."""
    defaults = class_()
    try:
        config = class_.model_validate(values)
    except ValidationError:
        return False
    return all(getattr(config, field) != getattr(defaults, field) for field in values)


def off_default(class_: type[Options]) -> list[Options]:
    """Configurations such that every field is off its default in one of them: some exclude others."""
    choices = {
        field: (*getattr(about.annotation, "__args__", ()), *other_values(about.get_default()))
        for field, about in class_.model_fields.items()
    }
    left, found = list(choices), []
    while left:
        values: dict[str, object] = {}
        for field in left:
            # Some options need another one, which may have to change again for them.
            trials = itertools.chain(
                (values | {field: value} for value in choices[field]),
                (
                    values | {other: another, field: value}
                    for other in choices
                    for another in choices[other]
                    for value in choices[field]
                ),
            )
            values = next((trial for trial in trials if fits(class_, trial)), values)
        assert left[0] in values, f"{class_.__name__}.{left[0]}: teach other_values a value for it"
        left = [field for field in left if field not in values]
        found.append(class_.model_validate(values))
    return found


def test_save_and_load_give_the_same_scores_with_every_option_off_its_default(
    name: str, tmp_path: Path
) -> None:
    class_ = recommender_class(name)
    configs, defaults = off_default(class_.Config), class_.Config()
    for field in class_.Config.model_fields:
        assert any(getattr(config, field) != getattr(defaults, field) for config in configs)
    for config in configs:
        model = class_(config, seed=4).fit(WORLD.data)
        model.save(tmp_path, WORLD.data.vocabulary)
        about = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))
        loaded = recommender_class(about["recommender"]).load(
            tmp_path, about, WORLD.data.vocabulary, WORLD.data.graph
        )
        assert type(loaded) is class_
        assert loaded.config == config
        assert loaded.seed == 4
        assert loaded.history == model.history
        assert loaded.parameters() == model.parameters()
        assert np.array_equal(loaded.score(asked()), model.score(asked()))


def test_a_saved_recommender_is_plain_numbers_and_json(name: str, tmp_path: Path) -> None:
    fitted(name).save(tmp_path, WORLD.data.vocabulary)
    files = {path.name for path in tmp_path.rglob("*")}
    assert files == {"model.json", "tensors.safetensors"}
    assert json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))["recommender"] == name
    assert {array.dtype.kind for array in fitted(name).state().values()} <= set("biuf")


def test_a_restored_recommender_can_be_fitted_again(name: str) -> None:
    vocabulary, graph = WORLD.data.vocabulary, WORLD.data.graph
    model = new(name).restore(fitted(name).state(), vocabulary, graph)
    assert np.array_equal(model.score(asked()), fitted(name).score(asked()))
    assert np.array_equal(model.fit(WORLD.data).score(asked()), fitted(name).score(asked()))


def test_a_damaged_state_is_refused(name: str) -> None:
    state = fitted(name).state()
    for key, array in state.items():
        rest = {other: value for other, value in state.items() if other != key}
        damaged = [rest, rest | {key: array[:-1]}, rest | {key: np.concatenate([array, array[-1:]])}]
        for broken in damaged:
            with pytest.raises(StoreError) as error:
                new(name).restore(broken, WORLD.data.vocabulary, WORLD.data.graph)
            assert says(error, name, "train it again")


def test_the_state_of_another_vocabulary_is_refused(name: str) -> None:
    small = chain().data
    with pytest.raises(StoreError) as error:
        new(name).restore(fitted(name).state(), small.vocabulary, small.graph)
    assert says(error, name, "train it again")


def test_parameters_are_counted(name: str) -> None:
    expected = sum(int(np.prod(array.shape)) for array in fitted(name).state().values())
    assert fitted(name).parameters() == expected > 0
