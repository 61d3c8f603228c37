"""dagrec retrain, bundles, rollback and prune in processes of their own: locks, kills, full disks."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.store.store import Store
from tests.cli.commands import DAGREC, SMALL, Run, check_refused

DOCUMENTS = World(WorldOptions(compositions=150)).draw()
NETWORK = ["--model", "gru4rec", "--set", "gru4rec.epochs=3", "--set", "gru4rec.min_steps=30"]
RETRAIN = [*SMALL, *NETWORK, "--measure", "1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "1.json").write_text(dump(DOCUMENTS[:100]))
    return folder


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """dagrec retrain, to be stopped from outside; the leader of a group of its own."""
    return subprocess.Popen(
        [DAGREC, "retrain", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_a_night_after_the_other(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = run("retrain", data, "--store", store, *SMALL, "--json")
    assert first.status == 0, first.err
    assert json.loads(first.out)["outcome"] == "published"
    again = run("retrain", data, "--store", store, *SMALL)
    assert again.status == 0
    assert "nothing has changed since" in again.err
    (data / "2.json").write_text(dump(DOCUMENTS[100:]))
    second = run("retrain", data, "--store", store, *SMALL)
    assert second.status == 0
    assert "as published" in second.out
    assert "difference in MRR" in second.err
    listed = json.loads(run("bundles", "--store", store, "--json").out)
    assert [about["live"] for about in listed] == [False, True]
    assert [about["compositions"] for about in listed] == [100, 150]
    shown = run("bundles", "--store", store)
    assert f"{listed[1]['version']} *" in shown.out
    back = run("rollback", "--store", store)
    assert back.out == f"live: {listed[0]['version']}\n"
    check_refused(run("rollback", "--store", store), 1, "a rollback needs a version before")
    third = run("retrain", data, "--store", store, *SMALL)
    assert (third.status, Store(store).current()) == (0, listed[0]["version"])
    assert f"live is {listed[0]['version']}" in third.err
    forth = run("rollback", "--store", store, "--to", listed[1]["version"], "--json")
    assert json.loads(forth.out) == {"live": listed[1]["version"]}
    check_refused(run("rollback", "--store", store, "--to", "x"), 1, "a version must be one of", "'x'")


def test_a_refusal_is_told_in_one_line_and_ends_with_1(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run("retrain", data, "--store", store, *SMALL).status == 0
    live = Store(store).current()
    (data / "1.json").write_text(dump(DOCUMENTS[:30]))
    done = run("retrain", data, "--store", store, *SMALL, "--json")
    assert done.status == 1
    assert json.loads(done.out)["outcome"] == "refused"
    assert "dagrec: refused: " in done.err
    assert "of the 100 compositions of the live bundle may be gone, found 30" in done.err
    assert Store(store).current() == live
    assert run("retrain", data, "--store", store, *SMALL).status == 1, (
        "refused before, and nothing changed"
    )


def test_wrong_options_are_wrong_usage(run: Run, data: Path, tmp_path: Path) -> None:
    done = run("retrain", data, "--store", tmp_path, *SMALL, "--share", "2")
    check_refused(done, 2, "retrain: share", "less than 1")


def test_one_job_at_a_time_and_a_crash_ends_its_lock(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    long = ["--model", "gru4rec", "--set", "gru4rec.epochs=100000", "--set", "gru4rec.patience=null"]
    process = start(data, "--store", store, *long)
    until = time.monotonic() + 60
    while not (store / "lock.holder").is_file() or not (store / "lock.holder").read_text():
        assert time.monotonic() < until, process.communicate()
        time.sleep(0.02)
    for command in ("retrain", "train"):
        refused = run(command, data, "--store", store, *SMALL)
        check_refused(refused, 1, "one job at a time", f"found process {process.pid} since")
    process.kill()
    process.communicate()
    assert run("retrain", data, "--store", store, *SMALL).status == 0


def test_a_live_network_is_no_obstacle_to_a_run_without_networks(
    run: Run, data: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert run("train", data, "--store", store, *NETWORK, "--measure", "0").status == 0
    done = run("retrain", data, "--store", store, "--model", "markov")
    assert done.status == 0, done.err
    assert "fitted again" in done.out


def check_whole(store: Path, before: str) -> None:
    """What is live is a whole bundle: the one before, or a newer one."""
    bundle = Store(store).load()
    assert bundle.version >= before


def check_kills(data: Path, store: Path, run: Run, moments: list[float]) -> None:
    """Start the job again and again, and kill it after so many seconds; then let it finish."""
    assert run("retrain", data, "--store", store, *SMALL).status == 0
    before = Store(store).current()
    number = 0
    for seconds in moments:
        process = start(data, "--store", store, *RETRAIN)
        try:
            process.communicate(timeout=seconds)
            number += 1  # it was faster: there is more to do for the next
            (data / f"{number + 1}.json").write_text(dump(DOCUMENTS[100 : 101 + number]))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        check_whole(store, before)
    last = run("retrain", data, "--store", store, *RETRAIN)
    assert last.status == 0, last.err
    assert set(Store(store).load().models) == {"markov", "popularity", "gru4rec"}
    assert not list((store / "work").glob("*"))
    assert not list((store / "checkpoints").glob("*"))


def test_killed_at_any_moment_it_leaves_what_is_live_and_goes_on(
    run: Run, data: Path, tmp_path: Path
) -> None:
    rng = random.Random(0)
    check_kills(data, tmp_path / "store", run, [rng.uniform(0.8, 5) for _ in range(2)])


@pytest.mark.slow
def test_killed_at_fifty_moments(run: Run, data: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    check_kills(data, tmp_path / "store", run, [rng.uniform(0.3, 7) for _ in range(50)])


@pytest.mark.parametrize("kilobytes", [0, 1, 4, 8])
def test_a_full_disk_ends_it_with_an_error_and_what_is_live_stays(
    kilobytes: int, run: Run, data: Path, tmp_path: Path
) -> None:
    """No file may grow beyond so much: the lock, the kept work, the bundle, or the report fails."""
    store = tmp_path / "store"
    assert run("retrain", data, "--store", store, *SMALL).status == 0
    live = Store(store).current()
    done = subprocess.run(
        [DAGREC, "retrain", data, "--store", store, *SMALL, "--force"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: limit(kilobytes * 1024),
    )
    assert done.returncode == 1, done.stderr
    assert re.search(rf"dagrec: {store}\S*: .*cannot be written", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert Store(store).current() == live
    assert Store(store).versions() == [live]
    assert run("retrain", data, "--store", store, *SMALL, "--force").status == 0


def limit(size: int) -> None:
    """Writing beyond so many bytes of a file fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_prune_keeps_the_newest(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for _ in range(4):
        train = run("train", data, "--store", store, "--model", "markov", "--measure", "0")
        assert train.status == 0
    versions = Store(store).versions()
    assert run("prune", "--store", store, "--keep", "2", "--dry-run").out == "".join(
        f"would remove {version}\n" for version in versions[:2]
    )
    assert Store(store).versions() == versions
    removed = run("prune", "--store", store, "--keep", "2", "--json")
    assert json.loads(removed.out) == {"removed": versions[:2], "dry_run": False}
    assert Store(store).versions() == versions[2:]
    run("rollback", "--store", store)
    assert run("prune", "--store", store, "--keep", "2").out == "nothing to remove\n"
