"""Fixtures for tests of all packages."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

# Set before torch is imported. Small networks are not faster with more threads, and on a busy machine
# they are much slower, because threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from filelock import FileLock
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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect tests without garbage collection, because what this creates stays until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


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
def shared_folder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that returns a folder with a name and content that is only made once.

    The processes of pytest-xdist share it, so tests must not change it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def shared_folder(name: str, fill: Callable[[Path], None]) -> Path:
        folder = root / f"shared-{name}"
        with FileLock(root / f"{name}.lock"):
            if not folder.exists():
                draft = Path(tempfile.mkdtemp(dir=root))
                fill(draft)
                draft.rename(folder)
        return folder

    return shared_folder


@pytest.fixture(scope="session")
def store(shared_folder: Callable[..., Path]) -> Store:
    """A store with one bundle of every recommender, trained on the bundled compositions."""
    from tests.contract.recommenders import quick_options

    def fill(folder: Path) -> None:
        config = load_config(changes={"models": {name: quick_options(name, 1) for name in MODELS}})
        catalogue = [("service_301", f"service_{mid}") for mid in (302, 303, 304)]
        data = read(ROOT / "data" / "compositions.json")
        train(data, Store(folder), config, Candidates(catalogue), measure=0)

    return Store(shared_folder("store", fill))


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
