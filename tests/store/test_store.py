from __future__ import annotations

import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from dagrec.data.examples import extract
from dagrec.data.formats import read_composition
from dagrec.data.synthetic import World, WorldOptions
from dagrec.errors import StoreError
from dagrec.graph.evidence import Evidence
from dagrec.models.counting.markov import Markov
from dagrec.models.fitted import Fitted
from dagrec.store.bundle import MANIFEST, Bundle, load_bundle
from dagrec.store.store import DRAFT, Store
from dagrec.training.data import TrainingData
from tests.consoles import PROCESSES


def world_bundle(seed: int) -> Bundle:
    """A bundle of a world of its own; ``data`` names its seed."""
    world = World(WorldOptions(compositions=40, seed=seed))
    examples, _ = extract([read_composition(document) for document in world.draw()])
    data = TrainingData.of(examples)
    return Bundle.of(
        {"markov": Fitted(Markov().fit(data), data.graph)},
        Evidence.of(data.examples, data.vocabulary),
        champion="markov",
        data={"seed": seed},
        config={},
    )


def publish_for_ever(root: Path, ready: Connection) -> None:
    """What a killed process does: two worlds in turn, each of them over and over."""
    store, worlds = Store(root), [world_bundle(1), world_bundle(2)]
    ready.send(True)
    while True:
        for bundle in worlds:
            store.publish(bundle)


def publish_once(root: Path, limits: dict[str, int], answer: Connection) -> None:
    """Publish under limits of the system, and answer with the error."""
    bundle = world_bundle(2)
    if "file_size" in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_size"], limits["file_size"]))
    if "user" in limits and os.geteuid() == 0:  # root may write everywhere
        os.setuid(limits["user"])
    try:
        Store(root).publish(bundle)
        answer.send("published")
    except StoreError as error:
        answer.send(str(error))
    except BaseException as error:
        answer.send(f"not a StoreError: {error!r}")


def publish_within(root: Path, limits: dict[str, int]) -> str:
    mine, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=publish_once, args=(root, limits, theirs))
    process.start()
    theirs.close()
    answer: str = mine.recv()
    process.join()
    return answer


def check_bundle(bundle: Bundle) -> None:
    """Whole, and one of the two that are published: its content is that of the seed it names."""
    expected = world_bundle(bundle.manifest.data["seed"])
    assert bundle.graph.fingerprint == expected.graph.fingerprint
    model = bundle.models["markov"].recommender
    assert model.score(bundle.vocabulary.encode([])).shape == (0, len(bundle.vocabulary.services))
    for name, array in expected.models["markov"].recommender.state().items():
        np.testing.assert_array_equal(model.state()[name], array)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="dagrec-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert store.versions() == []
    with pytest.raises(StoreError, match="must hold a published bundle, found none; run `dagrec train"):
        store.load()


def test_versions_stand_in_the_order_of_their_age(store: Store, trained: Bundle) -> None:
    versions = [store.current(), *(store.publish(trained) for _ in range(3))]
    assert store.versions() == versions
    assert store.current() == versions[-1]
    times = [store.load(version).manifest.created for version in versions]
    assert times == sorted(times)


def test_an_older_version_can_still_be_loaded(store: Store) -> None:
    first = store.current()
    second = store.publish(world_bundle(1))
    assert store.load().version == second
    assert store.load(first).version == first
    with pytest.raises(StoreError, match="nobody"):
        store.load("nobody")


def test_what_a_crash_left_behind_is_no_version(store: Store) -> None:
    (store.bundles / ".draft-abc").mkdir()
    assert store.versions() == [store.current()]


@pytest.mark.parametrize(
    "text", [b"", b"\n", b"nowhere\n", b"../../elsewhere", b"\xff\xfe", b".draft-x"]
)
def test_a_pointer_to_nowhere_is_refused_and_names_what_there_is(text: bytes, store: Store) -> None:
    version = store.current()
    (store.bundles / ".draft-x").mkdir()
    store.pointer.write_bytes(text)
    with pytest.raises(StoreError) as caught:
        store.load()
    assert str(store.pointer) in str(caught.value)
    assert version in str(caught.value)


def assert_survives_kills(root: Path, times: int) -> None:
    """A process that publishes is killed at random moments; whatever is live then is whole."""
    store = Store(root)
    live = store.publish(world_bundle(1))
    rng = random.Random(0)
    drafts = 0
    for _ in range(times):
        mine, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=publish_for_ever, args=(root, theirs))
        process.start()
        theirs.close()
        assert mine.recv()
        time.sleep(rng.uniform(0, 0.1))
        process.kill()  # SIGKILL: nothing of it runs any more
        process.join()
        assert process.exitcode == -9
        check_bundle(store.load())
        assert store.current() >= live, "the pointer went back to an older bundle"
        live = store.current()
        drafts = sum(p.name.startswith(".draft-") for p in store.bundles.iterdir())
    for version in store.versions():
        load_bundle(store.bundles / version)
    assert drafts, "no kill hit a bundle that was being written: the moments prove nothing"
    assert store.publish(world_bundle(2)) == store.current()


def test_a_kill_at_any_moment_leaves_a_whole_bundle_live(tmp_path: Path) -> None:
    assert_survives_kills(tmp_path / "store", 15)


@pytest.mark.slow
def test_many_kills_leave_a_whole_bundle_live(tmp_path: Path) -> None:
    assert_survives_kills(tmp_path / "store", 50)


def test_a_reader_meets_whole_bundles_only_while_another_process_publishes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.publish(world_bundle(1))
    mine, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=publish_for_ever, args=(store.root, theirs))
    process.start()
    assert mine.recv()
    found = set()
    until = time.monotonic() + 1
    while time.monotonic() < until:
        bundle = store.load()
        found.add(bundle.version)
    process.kill()
    process.join()
    assert len(found) > 1
    assert found <= set(store.versions())


def test_a_full_disk_leaves_the_old_bundle_live(tmp_path: Path) -> None:
    """The system refuses files beyond a size, as a full disk does: here at each file in turn."""
    store = Store(tmp_path / "store")
    version = store.publish(world_bundle(2))
    sizes = {p.stat().st_size for p in (store.bundles / version).rglob("*") if p.is_file()}
    for size in sizes:
        text = publish_within(store.root, {"file_size": size - 1})
        assert text.startswith(f"{store.root}: a bundle cannot be written there: ")
        assert "File too large" in text
        assert text.endswith("check space and permissions; the live bundle is unchanged")
        assert store.load().version == version
        assert [p.name for p in store.bundles.iterdir()] == [version], "a draft was left behind"


def test_a_read_only_store_leaves_the_old_bundle_live(open_folder: Path) -> None:
    store = Store(open_folder / "store")
    version = store.publish(world_bundle(1))
    for folder in (store.bundles, store.root):
        folder.chmod(0o555)
    text = publish_within(store.root, {"user": 65534})
    assert text == (
        f"{store.root}: a bundle cannot be written there: Permission denied; "
        "check space and permissions; the live bundle is unchanged"
    )
    assert store.load().version == version
    for folder in (store.bundles, store.root):
        folder.chmod(0o755)


def test_a_store_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="a bundle cannot be written there: Not a directory"):
        Store(tmp_path / "file").publish(world_bundle(1))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_bundle_that_would_not_load_is_never_published(store: Store, trained: Bundle) -> None:
    version = store.current()
    manifest = trained.manifest.model_copy(update={"champion": "nobody"})
    with pytest.raises(StoreError, match="champion 'nobody' must be one of"):
        store.publish(replace(trained, manifest=manifest))
    assert store.versions() == [version]
    assert store.load().version == version
    assert not list(store.bundles.glob(f".draft-*/{MANIFEST}"))


def test_drafts_of_killed_publishers_are_removed_after_a_day(tmp_path: Path) -> None:
    store = Store(tmp_path)
    young, old = (tmp_path / "bundles" / f".draft-{name}" for name in ("young", "old"))
    for draft in (young, old):
        draft.mkdir(parents=True)
        (draft / "vocabulary.json").write_text("{}")
    yesterday = time.time() - 86_401
    os.utime(old, (yesterday, yesterday))
    version = store.publish(world_bundle(1))
    assert store.versions() == [version]
    assert young.exists()
    assert not old.exists()


def test_a_rollback_goes_to_the_version_before_and_only_to_whole_ones(
    store: Store, trained: Bundle
) -> None:
    first = store.current()
    second, third = (store.publish(trained) for _ in range(2))
    assert (store.rollback(), store.current()) == (second, second)
    assert (store.rollback(third), store.current()) == (third, third)
    (store.bundles / second / "graph.safetensors").unlink()
    with pytest.raises(StoreError, match=r"graph\.safetensors"):
        store.rollback()
    assert store.current() == third
    assert store.rollback(first) == first


def test_a_rollback_mends_a_broken_pointer(store: Store) -> None:
    live = store.current()
    store.pointer.write_text("nowhere")
    assert store.rollback() == live
    assert store.current() == live


def test_a_target_that_is_removed_meanwhile_is_not_pointed_to(store: Store, trained: Bundle) -> None:
    first, _, third = store.current(), store.publish(trained), store.publish(trained)

    def removed(_: Bundle) -> None:
        assert store.prune(2) == [first]

    with pytest.raises(StoreError, match="was removed meanwhile"):
        store.rollback(first, check=removed)
    assert store.current() == third


def test_a_pointer_that_cannot_move_leaves_no_version(
    store: Store, trained: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = store.current()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dagrec.store.store.replace_file", full)
    with pytest.raises(StoreError, match="No space left"):
        store.publish(trained)
    assert (store.current(), store.versions()) == (live, [live])


def test_what_a_check_refuses_is_never_published(store: Store, trained: Bundle) -> None:
    live = store.current()

    def refuse(bundle: Bundle) -> None:
        assert bundle.version > live
        raise StoreError("this bundle is no good")

    with pytest.raises(StoreError, match="no good"):
        store.publish(trained, check=refuse)
    assert (store.current(), store.versions()) == (live, [live])
    assert not list(store.bundles.glob(f"{DRAFT}*"))


def test_a_bundle_is_listed_with_what_is_wrong_with_it(store: Store, trained: Bundle) -> None:
    first, second = store.current(), store.publish(trained)
    (store.bundles / first / "manifest.json").write_text("{")
    broken, whole = store.listing()
    assert (broken.version, broken.live) == (first, False)
    assert "manifest.json" in (broken.broken or "")
    assert (whole.version, whole.live, whole.champion, whole.broken) == (second, True, "markov", None)
    assert whole.bytes > 1000
    assert set(whole.models) == set(trained.models)


def test_a_lock_is_held_once_and_given_back(store: Store) -> None:
    with store.lock():
        with pytest.raises(StoreError, match=f"found process {os.getpid()} since"), store.lock():
            raise AssertionError("the lock was given twice")
        assert (store.root / "lock.holder").read_text().startswith(f"process {os.getpid()} since")
    with store.lock(), pytest.raises(StoreError, match="one job at a time"), store.lock():
        raise AssertionError("the lock was given twice, the second time it was held")
