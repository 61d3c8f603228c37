"""The files in configs/ are valid."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagrec.errors import ConfigError
from dagrec.jobs.ablate import load_study
from dagrec.jobs.config import load_config

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").glob("*.toml"))
STUDIES = [file for file in FILES if "variants" in tomllib.loads(file.read_text())]
RUNS = [file for file in FILES if file not in STUDIES]


def load(file: Path, overrides: tuple[str, ...] = ()) -> object:
    return load_study(file, overrides) if file in STUDIES else load_config(file, overrides=overrides)


def tables(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted paths of all nested tables, except for those whose names need quotes."""
    for key, value in values.items():
        if isinstance(value, dict) and key.replace("-", "").replace("_", "").isalnum():
            yield prefix + key
            yield from tables(value, f"{prefix}{key}.")


def test_there_are_runs_and_studies() -> None:
    assert RUNS
    assert STUDIES


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_loads(file: Path) -> None:
    assert load(file)


@pytest.mark.parametrize("file", RUNS, ids=lambda file: file.stem)
def test_models_of_config_can_be_created(file: Path) -> None:
    config = load_config(file)
    assert config.models
    for label in config.models:
        assert config.recommender(label).config


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_unknown_keys_are_rejected_in_every_table(file: Path) -> None:
    for table in tables(tomllib.loads(file.read_text())):
        if table in ("models", "base.models", "variants"):
            continue
        with pytest.raises(ConfigError, match="no_such_key"):
            load(file, (f"{table}.no_such_key=1",))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_config_has_comment_with_command(file: Path) -> None:
    text = file.read_text()
    assert text.startswith("# ")
    assert f"--config configs/{file.name}" in text
