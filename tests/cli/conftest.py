"""Commands in processes of their own, and a store that one of them has made."""

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
from tests.consoles import Done, command


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Done]:
    """Runs a command in a process of its own, in an empty folder."""

    def run(*arguments: str | Path) -> Done:
        return command(*arguments, folder=tmp_path_factory.mktemp("command"))

    run("--help")  # starts the process that all others are forked from
    return run


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighty compositions of the known world: what takes seconds takes less on them."""
    file = tmp_path_factory.mktemp("small") / "compositions.json"
    file.write_text(dump(World(WorldOptions(compositions=80)).draw()))
    return file


@pytest.fixture(scope="session")
def store(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that `dagrec train` has made."""
    folder = tmp_path_factory.mktemp("cli") / "store"
    done = run("train", DATA, "--store", folder, *SMALL, *NETWORK, "--measure", "1", "--json")
    assert done.status == 0, done.err
    result = json.loads(done.out)
    assert set(result["models"]) == {"markov", "popularity", "gru4rec"}
    return folder
