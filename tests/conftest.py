"""Fixtures of every room."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# Before torch is imported: networks this small gain nothing from more threads, and on a busy machine
# threads that wait for each other cost many times what they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from dagrec.config import load_config
from dagrec.data.compositions import Composition
from dagrec.data.examples import Example, extract
from dagrec.data.formats import read
from dagrec.jobs.train import train
from dagrec.models.registry import MODELS
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from dagrec.training.data import Candidates
from dagrec.training.runtime import Runtime, use_runtime

ROOT = Path(__file__).parents[1]
QUIET_CPU = Runtime("cpu", 1, progress=None)
REAL = ROOT.parent / "shared" / "data"

# The same cases in every run: a test fails for everybody or for nobody.
settings.register_profile("dagrec", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("dagrec")


@pytest.fixture(scope="session")
def bundled() -> Sequence[Composition]:
    """The compositions that the project brings along."""
    return read(ROOT / "data" / "compositions.json").compositions


@pytest.fixture(scope="session")
def geoportal() -> Sequence[Composition]:
    """Real compositions, which developers have beside their checkout and users do not."""
    file = REAL / "geoportal" / "compositions.json"
    if not file.exists():
        pytest.skip(f"the real compositions of {file} are not part of the project")
    return read(file).compositions


@pytest.fixture(scope="session", params=["bundled", "geoportal"])
def examples(request: pytest.FixtureRequest) -> tuple[Example, ...]:
    """All examples of the project's own compositions, then of the real ones."""
    return extract(request.getfixturevalue(request.param))[0]


@pytest.fixture(scope="session", autouse=True)
def quiet_cpu() -> Iterator[None]:
    """Everything is trained on the CPU, and nothing shows its progress."""
    with use_runtime(QUIET_CPU):
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one bundle: every recommender on the bundled compositions, and a catalogue."""
    from tests.contract.recommenders import quick_options

    config = load_config(changes={"models": {name: quick_options(name, 1) for name in MODELS}})
    catalogue = [("service_301", f"service_{mid}") for mid in (302, 303, 304)]
    store = Store(tmp_path_factory.mktemp("every") / "store")
    data = ROOT / "data" / "compositions.json"
    train(read(data), store, config, Candidates(catalogue), measure=0)
    return store


@pytest.fixture(scope="session")
def bundle(store: Store) -> Bundle:
    """That bundle."""
    return store.load()


@pytest.fixture
def isolated_rng() -> Iterator[None]:
    """Isolate torch's global random state in a test, seeded with 0."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
