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
from dagrec.store.store import DRAFT_PREFIX, Store
from dagrec.training.data import TrainingData
from tests.processes import PROCESSES


def synthetic_bundle(seed: int) -> Bundle:
    """A bundle trained on synthetic data; the seed is in its ``data``."""
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


def publish_in_loop(root: Path, ready: Connection) -> None:
    """Publish two bundles in turn until the process is killed."""
    store, bundles = Store(root), [synthetic_bundle(1), synthetic_bundle(2)]
    ready.send(True)
    while True:
        for bundle in bundles:
            store.publish(bundle)


def publish_once(root: Path, limits: dict[str, int], result: Connection) -> None:
    """Publish under operating system limits, and send the result or the error message."""
    bundle = synthetic_bundle(2)
    if "file_size" in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_size"], limits["file_size"]))
    if "user" in limits and os.geteuid() == 0:  # root can write everywhere
        os.setuid(limits["user"])
    try:
        Store(root).publish(bundle)
        result.send("published")
    except StoreError as error:
        result.send(str(error))
    except BaseException as error:
        result.send(f"not a StoreError: {error!r}")


def publish_with_limits(root: Path, limits: dict[str, int]) -> str:
    receiver, sender = PROCESSES.Pipe()
    process = PROCESSES.Process(target=publish_once, args=(root, limits, sender))
    process.start()
    sender.close()
    result: str = receiver.recv()
    process.join()
    return result


def assert_content(bundle: Bundle) -> None:
    """Check that the graph and the model are those of the bundle's seed."""
    expected = synthetic_bundle(bundle.manifest.data["seed"])
    assert bundle.graph.fingerprint == expected.graph.fingerprint
    model = bundle.models["markov"].recommender
    assert model.score(bundle.vocabulary.encode([])).shape == (0, len(bundle.vocabulary.services))
    for name, array in expected.models["markov"].recommender.state().items():
        np.testing.assert_array_equal(model.state()[name], array)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="dagrec-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_load_from_empty_store_suggests_train(tmp_path: Path) -> None:
    store = Store(tmp_path / "none")
    assert store.versions() == []
    with pytest.raises(
        StoreError, match="must contain a published bundle, found none; run `dagrec train"
    ):
        store.load()


def test_versions_are_sorted_by_age(store: Store, small: Bundle) -> None:
    versions = [store.current(), *(store.publish(small) for _ in range(3))]
    assert store.versions() == versions
    assert store.current() == versions[-1]
    times = [store.load(version).manifest.created for version in versions]
    assert times == sorted(times)


def test_load_older_version(store: Store) -> None:
    first = store.current()
    second = store.publish(synthetic_bundle(1))
    assert store.load().version == second
    assert store.load(first).version == first
    with pytest.raises(StoreError, match="unknown"):
        store.load("unknown")


def test_drafts_are_not_versions(store: Store) -> None:
    (store.bundles / ".draft-abc").mkdir()
    assert store.versions() == [store.current()]


@pytest.mark.parametrize("text", [b"", b"\n", b"missing\n", b"../../outside", b"\xff\xfe", b".draft-x"])
def test_invalid_pointer_is_rejected_with_existing_versions(text: bytes, store: Store) -> None:
    version = store.current()
    (store.bundles / ".draft-x").mkdir()
    store.pointer.write_bytes(text)
    with pytest.raises(StoreError) as caught:
        store.load()
    assert str(store.pointer) in str(caught.value)
    assert version in str(caught.value)


def assert_survives_kills(root: Path, times: int) -> None:
    """Kill a publishing process at random moments, and check that the live bundle is complete."""
    store = Store(root)
    live = store.publish(synthetic_bundle(1))
    rng = random.Random(0)
    drafts = 0
    for _ in range(times):
        receiver, sender = PROCESSES.Pipe()
        process = PROCESSES.Process(target=publish_in_loop, args=(root, sender))
        process.start()
        sender.close()
        assert receiver.recv()
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -9
        assert_content(store.load())
        assert store.current() >= live, "an older bundle is live"
        live = store.current()
        drafts = sum(p.name.startswith(".draft-") for p in store.bundles.iterdir())
    for version in store.versions():
        load_bundle(store.bundles / version)
    assert drafts, "no process was killed while it wrote a bundle"
    assert store.publish(synthetic_bundle(2)) == store.current()


def test_kills_leave_complete_live_bundle(tmp_path: Path) -> None:
    assert_survives_kills(tmp_path / "store", 15)


@pytest.mark.slow
def test_many_kills_leave_complete_live_bundle(tmp_path: Path) -> None:
    assert_survives_kills(tmp_path / "store", 50)


def test_load_while_another_process_publishes(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.publish(synthetic_bundle(1))
    receiver, sender = PROCESSES.Pipe()
    process = PROCESSES.Process(target=publish_in_loop, args=(store.root, sender))
    process.start()
    assert receiver.recv()
    versions = set()
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        versions.add(store.load().version)
    process.kill()
    process.join()
    assert len(versions) > 1
    assert versions <= set(store.versions())


def test_full_disk_leaves_old_bundle_live(tmp_path: Path) -> None:
    """A limit of the file size simulates a full disk while each of the files is written."""
    store = Store(tmp_path / "store")
    version = store.publish(synthetic_bundle(2))
    sizes = {p.stat().st_size for p in (store.bundles / version).rglob("*") if p.is_file()}
    for size in sizes:
        text = publish_with_limits(store.root, {"file_size": size - 1})
        assert text.startswith(f"{store.root}: a bundle cannot be written: ")
        assert "File too large" in text
        assert text.endswith("check space and permissions; the live bundle is unchanged")
        assert store.load().version == version
        assert [p.name for p in store.bundles.iterdir()] == [version], "a draft was left behind"


def test_read_only_store_leaves_old_bundle_live(open_folder: Path) -> None:
    store = Store(open_folder / "store")
    version = store.publish(synthetic_bundle(1))
    for folder in (store.bundles, store.root):
        folder.chmod(0o555)
    text = publish_with_limits(store.root, {"user": 65534})
    assert text == (
        f"{store.root}: a bundle cannot be written: Permission denied; "
        "check space and permissions; the live bundle is unchanged"
    )
    assert store.load().version == version
    for folder in (store.bundles, store.root):
        folder.chmod(0o755)


def test_publish_rejects_file_as_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    with pytest.raises(StoreError, match="a bundle cannot be written: Not a directory"):
        Store(tmp_path / "file").publish(synthetic_bundle(1))
    assert (tmp_path / "file").read_text() == "content"


def test_publish_rejects_bundle_that_does_not_load(store: Store, small: Bundle) -> None:
    version = store.current()
    manifest = small.manifest.model_copy(update={"champion": "unknown"})
    with pytest.raises(StoreError, match=r"champion must be one of .*, found 'unknown'"):
        store.publish(replace(small, manifest=manifest))
    assert store.versions() == [version]
    assert store.load().version == version
    assert not list(store.bundles.glob(f".draft-*/{MANIFEST}"))


def test_publish_removes_drafts_after_a_day(tmp_path: Path) -> None:
    store = Store(tmp_path)
    young, old = (tmp_path / "bundles" / f".draft-{name}" for name in ("young", "old"))
    for draft in (young, old):
        draft.mkdir(parents=True)
        (draft / "vocabulary.json").write_text("{}")
    yesterday = time.time() - 86_401
    os.utime(old, (yesterday, yesterday))
    version = store.publish(synthetic_bundle(1))
    assert store.versions() == [version]
    assert young.exists()
    assert not old.exists()


def test_rollback_to_previous_or_given_complete_version(store: Store, small: Bundle) -> None:
    first = store.current()
    second, third = (store.publish(small) for _ in range(2))
    assert (store.rollback(), store.current()) == (second, second)
    assert (store.rollback(third), store.current()) == (third, third)
    (store.bundles / second / "graph.safetensors").unlink()
    with pytest.raises(StoreError, match=r"graph\.safetensors"):
        store.rollback()
    assert store.current() == third
    assert store.rollback(first) == first


def test_rollback_repairs_broken_pointer(store: Store) -> None:
    live = store.current()
    store.pointer.write_text("missing")
    assert store.rollback() == live
    assert store.current() == live


def test_rollback_rejects_version_removed_meanwhile(store: Store, small: Bundle) -> None:
    first, _, third = store.current(), store.publish(small), store.publish(small)

    def prune_first(_: Bundle) -> None:
        assert store.prune(2) == [first]

    with pytest.raises(StoreError, match="was removed meanwhile"):
        store.rollback(first, check=prune_first)
    assert store.current() == third


def test_failed_pointer_update_removes_new_version(
    store: Store, small: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = store.current()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dagrec.store.store.replace_file", fail)
    with pytest.raises(StoreError, match="No space left"):
        store.publish(small)
    assert (store.current(), store.versions()) == (live, [live])


def test_failed_check_prevents_publication(store: Store, small: Bundle) -> None:
    live = store.current()

    def refuse(bundle: Bundle) -> None:
        assert bundle.version > live
        raise StoreError("the check failed")

    with pytest.raises(StoreError, match="the check failed"):
        store.publish(small, check=refuse)
    assert (store.current(), store.versions()) == (live, [live])
    assert not list(store.bundles.glob(f"{DRAFT_PREFIX}*"))


def test_list_bundles_includes_broken_ones(store: Store, small: Bundle) -> None:
    first, second = store.current(), store.publish(small)
    (store.bundles / first / "manifest.json").write_text("{")
    broken, complete = store.list_bundles()
    assert (broken.version, broken.live) == (first, False)
    assert "manifest.json" in (broken.broken or "")
    assert (complete.version, complete.live, complete.champion, complete.broken) == (
        second,
        True,
        "markov",
        None,
    )
    assert complete.bytes > 1000
    assert set(complete.models) == set(small.models)


def test_lock_is_exclusive_and_released(store: Store) -> None:
    with store.lock():
        with pytest.raises(StoreError, match=f"found process {os.getpid()} since"), store.lock():
            raise AssertionError("the lock was acquired twice")
        assert (store.root / "lock.holder").read_text().startswith(f"process {os.getpid()} since")
    with store.lock(), pytest.raises(StoreError, match="only one job at a time"), store.lock():
        raise AssertionError("the lock was acquired twice")
