"""Fixtures that run commands, and their data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dagrec.data.synthetic import World, WorldOptions, dump
from tests.cli.commands import (
    DATA,
    NETWORK,
    SMALL,
    Run,
)
from tests.processes import Completed, command


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Completed]:
    """A function that runs a command in a new process and an empty folder."""

    def run(*arguments: str | Path) -> Completed:
        return command(*arguments, folder=tmp_path_factory.mktemp("command"))

    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of eighty synthetic compositions."""
    file = tmp_path_factory.mktemp("small") / "compositions.json"
    file.write_text(dump(World(WorldOptions(compositions=80)).draw()))
    return file


@pytest.fixture(scope="session")
def store(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a bundle that was trained by ``dagrec train``."""
    folder = tmp_path_factory.mktemp("cli") / "store"
    completed = run("train", DATA, "--store", folder, *SMALL, *NETWORK, "--measure", "1", "--json")
    assert completed.status == 0, completed.err
    result = json.loads(completed.out)
    assert set(result["models"]) == {"markov", "popularity", "gru4rec"}
    return folder
