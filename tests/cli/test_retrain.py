"""The commands retrain, bundles, rollback and prune: locks, kills, full disks."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from dagrec.data.synthetic import World, WorldOptions, dump
from dagrec.store.store import Store
from tests.cli.commands import SMALL, Run, assert_fails
from tests.processes import PROCESSES, Job, run_command, start, wait_until

DOCUMENTS = World(WorldOptions(compositions=150)).draw()
NETWORK = ["--model", "gru4rec", "--set", "gru4rec.epochs=3", "--set", "gru4rec.min_steps=30"]
RETRAIN = [*SMALL, *NETWORK, "--measure", "1"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "1.json").write_text(dump(DOCUMENTS[:100]))
    return folder


def test_retrain_bundles_and_rollback(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = run("retrain", data, "--store", store, *SMALL, "--json")
    assert first.status == 0, first.err
    assert json.loads(first.out)["status"] == "published"
    again = run("retrain", data, "--store", store, *SMALL)
    assert again.status == 0
    assert "nothing has changed since" in again.err
    (data / "2.json").write_text(dump(DOCUMENTS[100:]))
    second = run("retrain", data, "--store", store, *SMALL)
    assert second.status == 0
    assert "as published" in second.out
    assert "difference in MRR" in second.err
    infos = json.loads(run("bundles", "--store", store, "--json").out)
    assert [info["live"] for info in infos] == [False, True]
    assert [info["compositions"] for info in infos] == [100, 150]
    table = run("bundles", "--store", store)
    assert f"{infos[1]['version']} *" in table.out
    back = run("rollback", "--store", store)
    assert back.out == f"live: {infos[0]['version']}\n"
    assert_fails(run("rollback", "--store", store), 1, "a rollback needs a version before")
    third = run("retrain", data, "--store", store, *SMALL)
    assert (third.status, Store(store).current()) == (0, infos[0]["version"])
    assert f"the live bundle is {infos[0]['version']}" in third.err
    forth = run("rollback", "--store", store, "--to", infos[1]["version"], "--json")
    assert json.loads(forth.out) == {"live": infos[1]["version"]}
    assert_fails(run("rollback", "--store", store, "--to", "x"), 1, "a version must be one of", "'x'")


def test_refusal_gives_one_error_line_and_status_1(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run("retrain", data, "--store", store, *SMALL).status == 0
    live = Store(store).current()
    (data / "1.json").write_text(dump(DOCUMENTS[:30]))
    completed = run("retrain", data, "--store", store, *SMALL, "--json")
    assert completed.status == 1
    assert json.loads(completed.out)["status"] == "refused"
    assert "dagrec: refused: " in completed.err
    assert "of the 100 compositions of the live bundle may be missing, found 30" in completed.err
    assert Store(store).current() == live
    assert run("retrain", data, "--store", store, *SMALL).status == 1, (
        "the repeated report is a refusal, too"
    )


def test_invalid_retrain_option_gives_status_2(run: Run, data: Path, tmp_path: Path) -> None:
    completed = run("retrain", data, "--store", tmp_path, *SMALL, "--share", "2")
    assert_fails(completed, 2, "retrain: share", "less than 1")


def test_store_lock_is_exclusive_and_released_by_kill(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    long = ["--model", "gru4rec", "--set", "gru4rec.epochs=100000", "--set", "gru4rec.patience=null"]
    job = start("retrain", data, "--store", store, *long)
    holder = store / "lock.holder"
    wait_until(lambda: holder.is_file() and holder.read_text(), "the store is locked")
    for command in ("retrain", "train"):
        completed = run(command, data, "--store", store, *SMALL)
        assert_fails(completed, 1, "only one job at a time", f"found process {job.pid} since")
    assert job.kill().status == -9
    assert run("retrain", data, "--store", store, *SMALL).status == 0


def test_retrain_without_networks_replaces_live_network(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert run("train", data, "--store", store, *NETWORK, "--measure", "0").status == 0
    completed = run("retrain", data, "--store", store, "--model", "markov")
    assert completed.status == 0, completed.err
    assert "fitted again" in completed.out


def check_kills(data: Path, store: Path, run: Run, moments: Iterable[Callable[[Job], object]]) -> None:
    """Start the job, and kill it when a function returns; check the live bundle; repeat this for each
    function, and then let the job finish.
    """
    assert run("retrain", data, "--store", store, *SMALL).status == 0
    before = Store(store).current()
    number = 0
    for wait in moments:
        job = start("retrain", data, "--store", store, *RETRAIN)
        wait(job)
        if job.kill().status == 0:
            number += 1  # the job has finished; add data for the next one
            (data / f"{number + 1}.json").write_text(dump(DOCUMENTS[100 : 101 + number]))
        assert Store(store).load().version >= before
    last = run("retrain", data, "--store", store, *RETRAIN)
    assert last.status == 0, last.err
    assert set(Store(store).load().models) == {"markov", "popularity", "gru4rec"}
    assert not list((store / "work").glob("*"))
    assert not list((store / "checkpoints").glob("*"))


def test_killed_job_leaves_live_bundle_and_is_resumed(run: Run, data: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"

    def has_steps(number: int, job: Job) -> bool:
        """Whether the job has stored the results of a number of steps, or has ended."""
        return len(list((store / "work").glob("*/*"))) >= number or job.status is not None

    def after_steps(number: int, job: Job) -> None:
        wait_until(partial(has_steps, number, job), f"{number} steps are finished")

    check_kills(data, store, run, [partial(after_steps, number) for number in (1, 4)])


@pytest.mark.slow
def test_job_killed_fifty_times_is_resumed(run: Run, data: Path, tmp_path: Path) -> None:
    rng = random.Random(1)
    moments = [partial(Job.join, seconds=rng.uniform(0, 3)) for _ in range(50)]
    check_kills(data, tmp_path / "store", run, moments)


@pytest.mark.parametrize("kilobytes", [0, 1, 4, 8])
def test_full_disk_fails_and_leaves_live_bundle(
    kilobytes: int, run: Run, data: Path, tmp_path: Path
) -> None:
    """A limit of the file size simulates a full disk for the lock, finished steps, bundle or report."""
    store = tmp_path / "store"
    assert run("retrain", data, "--store", store, *SMALL).status == 0
    live = Store(store).current()
    # A file cannot take the error message.
    receiver, sender = PROCESSES.Pipe(duplex=False)
    arguments = ["retrain", data, "--store", store, *SMALL, "--force"]
    job = Job(run_with_limited_files, (kilobytes * 1024, sender, *map(str, arguments)))
    sender.close()
    with open(receiver.fileno(), encoding="utf-8", closefd=False) as pipe:
        errors = pipe.read()
    assert job.wait().status == 1, errors
    assert re.search(rf"dagrec: {store}\S*: .*cannot be written", errors), errors
    assert "Traceback" not in errors
    assert Store(store).current() == live
    assert Store(store).versions() == [live]
    assert run("retrain", data, "--store", store, *SMALL, "--force").status == 0


def run_with_limited_files(size: int, errors: Connection, *arguments: str) -> None:
    """Run a command. Writes beyond a number of bytes fail, as on a full disk."""
    os.dup2(errors.fileno(), 2)
    errors.close()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    run_command(*arguments)


def test_prune_keeps_newest_versions(run: Run, data: Path, tmp_path: Path) -> None:
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
