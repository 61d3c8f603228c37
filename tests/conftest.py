"""Fixtures for tests of all packages."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

# Set before torch is imported. Small networks are not faster with more threads, and on a busy machine
# they are much slower, because threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from dagrec.data.compositions import Composition
from dagrec.data.examples import Example, extract
from dagrec.data.formats import read
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.models.registry import MODELS
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store
from dagrec.training.data import Candidates
from dagrec.training.runtime import Runtime, use_runtime

ROOT = Path(__file__).parents[1]
QUIET_CPU = Runtime("cpu", 1, progress=None)
REAL = ROOT.parent / "shared" / "data"

# The same examples in every run, so that failures are reproducible.
settings.register_profile("dagrec", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("dagrec")


@pytest.fixture(scope="session")
def bundled() -> Sequence[Composition]:
    """The compositions in data/compositions.json."""
    return read(ROOT / "data" / "compositions.json").compositions


@pytest.fixture(scope="session")
def geoportal() -> Sequence[Composition]:
    """Real compositions, which are not part of the repository."""
    file = REAL / "geoportal" / "compositions.json"
    if not file.exists():
        pytest.skip(f"{file} is not part of the repository")
    return read(file).compositions


@pytest.fixture(scope="session", params=["bundled", "geoportal"])
def examples(request: pytest.FixtureRequest) -> tuple[Example, ...]:
    """All examples of the bundled compositions, then of the real ones."""
    return extract(request.getfixturevalue(request.param))[0]


@pytest.fixture(scope="session", autouse=True)
def quiet_cpu() -> Iterator[None]:
    """Train on the CPU, without progress."""
    with use_runtime(QUIET_CPU):
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with one bundle of every recommender, trained on the bundled compositions."""
    from tests.contract.recommenders import quick_options

    config = load_config(changes={"models": {name: quick_options(name, 1) for name in MODELS}})
    catalogue = [("service_301", f"service_{mid}") for mid in (302, 303, 304)]
    store = Store(tmp_path_factory.mktemp("all") / "store")
    data = ROOT / "data" / "compositions.json"
    train(read(data), store, config, Candidates(catalogue), measure=0)
    return store


@pytest.fixture(scope="session")
def bundle(store: Store) -> Bundle:
    """The bundle in ``store``."""
    return store.load()


@pytest.fixture
def isolated_rng() -> Iterator[None]:
    """Isolate torch's global random state in a test, seeded with 0."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
