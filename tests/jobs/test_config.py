from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dagrec.data.synthetic import WorldOptions
from dagrec.errors import ConfigError
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.config import RunConfig, load_config, make_options, merge, override, read_toml
from dagrec.models.registry import MODELS, recommender_class

TEXT = """
seed = 3
mask = "soft"

[examples]
max_paths = 7

[models.markov]
order = 2

[models.wide]
recommender = "gru4rec"
hidden = 256
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "run.toml"
    file.write_text(TEXT)
    return file


def test_load_config_without_arguments_has_defaults() -> None:
    assert load_config() == RunConfig()
    assert RunConfig().models == {}


def test_load_config_from_file(file: Path) -> None:
    config = load_config(file)
    assert (config.seed, config.mask, config.examples.max_paths) == (3, MaskPolicy.SOFT, 7)
    assert list(config.models) == ["markov", "wide"]
    wide = config.recommender("wide")
    assert (wide.name, wide.config.model_dump()["hidden"], wide.seed) == ("gru4rec", 256, 3)
    assert config.recommender("wide", seed=9).seed == 9


def test_precedence_of_file_changes_and_overrides(file: Path) -> None:
    changes: dict[str, Any] = {"seed": 4, "mask": None, "examples": {"max_paths": 8, "seed": None}}
    config = load_config(file, changes=changes)
    assert (config.seed, config.mask, config.examples.max_paths) == (4, MaskPolicy.SOFT, 8)
    config = load_config(file, changes=changes, overrides=["seed=5", "examples.max_paths=9"])
    assert (config.seed, config.examples.max_paths) == (5, 9)


def test_models_select_labels_and_add_recommenders(file: Path) -> None:
    config = load_config(file, models=["popularity", "wide"])
    assert config.models == {"popularity": {}, "wide": {"recommender": "gru4rec", "hidden": 256}}


def test_override_with_label_prefix(file: Path) -> None:
    config = load_config(file, overrides=["wide.epochs=4", "models.markov.mu=2.5"])
    assert config.models["wide"]["epochs"] == 4
    assert config.models["markov"] == {"order": 2, "mu": 2.5}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=1", 1),
        ("x=-1.5e3", -1500.0),
        ("x=true", True),
        ("x=word", "word"),
        ("x=two words", "two words"),
        ('x="quoted"', "quoted"),
        ("x=[1, 2]", [1, 2]),
        ("x=", ""),
        ("x=a=b", "a=b"),
        ("x=null", None),
        ("x=none", "none"),
        (" x = 1 ", 1),
    ],
)
def test_override_value_is_toml_or_string(text: str, value: object) -> None:
    values: dict[str, Any] = {}
    override(values, text)
    assert values == {"x": value}


def test_override_mask() -> None:
    for mask in MaskPolicy:
        assert load_config(overrides=[f"mask={mask.value}"]).mask is mask


@pytest.mark.parametrize("text", ["x", "", "=1", ".x=1", "x.=1", "x..y=1"])
def test_invalid_override_is_rejected(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"an override must be key=value, found .*; write for example"
    ):
        override({}, text)


def test_value_in_place_of_table_is_rejected() -> None:
    with pytest.raises(ConfigError, match="seed must be a table, found the value 3"):
        load_config(changes={"seed": 3}, overrides=["seed.x=1"])
    with pytest.raises(ConfigError, match=r"examples must be a table, found 5; write \[examples\]"):
        merge({"examples": 5}, {"examples": {"seed": 1}})


@pytest.mark.parametrize(
    ("overrides", "texts"),
    [
        (["sed=1"], ["sed", "Extra inputs are not permitted", "1"]),
        (["seed=x"], ["seed", "valid integer", "'x'"]),
        (["examples.max_paths=0"], ["examples.max_paths", "greater than or equal to 1", "0"]),
        (["examples.form=trees"], ["examples.form", "'paths' or 'links'", "'trees'"]),
        (["read.table_mid=("], ["read.table_mid", "not a regular expression"]),
        (["mask=hard"], ["mask", "'observed'", "'hard'"]),
        (["markov.order=0"], ["models.markov", "order", "greater than or equal to 1"]),
        (["markov.ordre=3"], ["models.markov", "ordre", "Extra inputs are not permitted"]),
        (["markov.mu=nan"], ["models.markov", "mu", "finite"]),
        (["markov.mu=inf"], ["models.markov", "mu", "finite"]),
        (["markov.recommender=unknown"], ["models.markov", "no recommender 'unknown'", *MODELS]),
        (["markov.recommender=5"], ["models.markov", "5"]),
        (["models=5"], ["models", "5"]),
        (["models.markov=5"], ["markov", "5"]),
    ],
    ids=lambda value: " ".join(value) if "=" in value[0] else "",
)
def test_invalid_key_or_value_is_named(overrides: list[str], texts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(models=["markov"], overrides=overrides)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"seed = ", ["must be TOML", "correct it"]),
        (b"\xff", ["must be TOML", "0xff"]),
        (b"sead = 1", ["sead", "Extra inputs are not permitted"]),
        (b"[models.unknown]", ["models.unknown", "no recommender 'unknown'"]),
        (b"[examples]\nform = 5", ["examples.form", "found 5"]),
        (b"models = 5", ["models must be a table of labels, found 5"]),
        (b"[[models]]\norder = 1", ["models must be a table of labels"]),
    ],
)
def test_invalid_file_error_has_details(content: bytes, texts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize("content", [b"[models.unknown]", b"sead = 1"])
def test_invalid_file_error_names_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"run\.toml"):
        load_config(file)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read: No such file"):
        read_toml(tmp_path / "missing.toml")


def test_config_round_trips_through_json(file: Path) -> None:
    config = load_config(file)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunConfig().seed = 3


def test_make_options_with_overrides() -> None:
    options = make_options(WorldOptions, ["compositions=5", "predictability=1"])
    assert (options.compositions, options.predictability) == (5, 1)
    with pytest.raises(ConfigError, match=r"options: predictability: .*less than or equal to 1"):
        make_options(WorldOptions, ["predictability=2"])


@pytest.mark.parametrize("name", MODELS)
def test_recommender_config_has_defaults(name: str) -> None:
    config = load_config(models=[name])
    assert config.recommender(name).config == recommender_class(name).Config()
