"""Every run that is shipped loads, and every key in it is known."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagrec.config import load_config
from dagrec.errors import ConfigError
from dagrec.jobs.ablate import load_study

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("*.toml"))
STUDIES = [file for file in FILES if "variants" in tomllib.loads(file.read_text())]
RUNS = [file for file in FILES if file not in STUDIES]


def load(file: Path, overrides: tuple[str, ...] = ()) -> object:
    return load_study(file, overrides) if file in STUDIES else load_config(file, overrides=overrides)


def tables(values: dict[str, Any], above: str = "") -> Iterator[str]:
    """The dotted path of every table below these values; those with names in quotes are left out."""
    for key, value in values.items():
        if isinstance(value, dict) and key.replace("-", "").replace("_", "").isalnum():
            yield above + key
            yield from tables(value, f"{above}{key}.")


def test_there_are_runs_and_studies() -> None:
    assert RUNS
    assert STUDIES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_configuration_loads(file: Path) -> None:
    assert load(file)


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_every_model_of_a_shipped_run_can_be_made(file: Path) -> None:
    config = load_config(file)
    assert config.models
    for label in config.models:
        assert config.recommender(label).config


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_table_takes_a_key_that_does_not_exist(file: Path) -> None:
    """So every key that stands there means something."""
    for table in tables(tomllib.loads(file.read_text())):
        if table in ("models", "base.models", "variants"):
            continue
        with pytest.raises(ConfigError, match="no_such_key"):
            load(file, (f"{table}.no_such_key=1",))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_shipped_configuration_says_what_it_is_and_how_to_run_it(file: Path) -> None:
    text = file.read_text()
    assert text.startswith("# ")
    assert f"--config configs/{file.name}" in text
