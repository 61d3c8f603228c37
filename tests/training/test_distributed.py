from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dagrec.training.distributed import Processes, connect_processes, local_device
from dagrec.training.loop import SEED_STEP
from dagrec.training.runtime import Epoch
from tests.training.learners import fitted, gru
from tests.training.together import TRAININGS
from tests.worlds import everything

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
State = dict[str, NDArray[np.generic]]


def torchrun(what: str, out: Path, *, processes: int = 2, timeout: float = 90) -> tuple[int, str]:
    """The exit status of a job and everything that it said. One that hangs is ended."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "tests.training.together", what, str(out)]
    said = out.parent / f"{out.name}.txt"
    with said.open("w", encoding="utf-8") as file:
        job = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            job.wait(timeout)
        except subprocess.TimeoutExpired:
            job.terminate()  # it ends its processes, which are no children of this one
            job.wait(60)
    return job.returncode, said.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found in many trainings."""
    out = tmp_path_factory.mktemp("together")
    status, said = torchrun("facts", out)
    assert status == 0, said
    return out


def found(job: Path, rank: int, name: str) -> tuple[State, list[Epoch], str | None]:
    """Weights, history and error of a training in one of the processes."""
    with np.load(job / str(rank) / f"{name}.npz") as file:
        state = dict(file)
    about = json.loads((job / str(rank) / f"{name}.json").read_text(encoding="utf-8"))
    return state, [Epoch(*line) for line in about["history"]], about["error"]


def equal(a: State, b: State) -> bool:
    """To the last bit."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# One job of two processes


@pytest.mark.parametrize("name", TRAININGS)
def test_processes_end_with_equal_weights_and_histories(job: Path, name: str) -> None:
    (state, history, error), other = found(job, 0, name), found(job, 1, name)
    assert error is None
    assert equal(state, other[0])
    assert history == other[1]
    assert history


@pytest.mark.parametrize("name", ["full batches", "masked", "adamw", "uneven batches"])
def test_several_processes_are_the_mathematics_of_one(job: Path, name: str) -> None:
    """Without dropout and draws the gradient of a batch is the same, however it is divided."""
    state, history, _ = found(job, 0, name)
    alone = fitted(gru(**TRAININGS[name]), everything().data)
    for key, array in alone.state().items():
        np.testing.assert_allclose(state[key], array, rtol=2e-3, atol=2e-4, err_msg=key)
    for one, several in zip(alone.history, history, strict=True):
        assert several.loss == pytest.approx(one.loss, rel=1e-4)
        assert several.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-2)


def test_several_processes_answer_as_well_as_one(job: Path) -> None:
    data, options = everything().data, TRAININGS["full batches"]
    alone = fitted(gru(**options), data)
    together = gru(**options).restore(found(job, 0, "full batches")[0], data.vocabulary, data.graph)
    hits = [
        (model.score(data.contexts).argmax(axis=1)[data.rows] == data.targets).mean()
        for model in (alone, together)
    ]
    assert hits[0] == hits[1] > 0.7


def test_only_the_first_process_tells(job: Path) -> None:
    epochs = [epoch.epoch for name in TRAININGS for epoch in found(job, 0, name)[1]]
    told = [json.loads((job / str(rank) / "told.json").read_text("utf-8")) for rank in (0, 1)]
    assert told == [epochs, []]
    assert len((job / "log-0").read_text(encoding="utf-8").splitlines()) == len(epochs)
    assert not (job / "log-1").exists()


def test_each_process_draws_random_numbers_of_its_own(job: Path) -> None:
    """With equal ones, two processes would drop the same and draw the same negatives."""
    files = [job / str(rank) / "whole.json" for rank in (0, 1)]
    seeds = [json.loads(file.read_text(encoding="utf-8"))["seed"] for file in files]
    assert seeds == [0, SEED_STEP]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("few units", ("gru4rec", "2 processes needs as many units, found 1", "use fewer processes")),
        ("small batches", ("table", "2 processes needs as many units in a batch, found 1")),
    ],
)
def test_fewer_units_than_processes_are_refused(job: Path, name: str, parts: tuple[str, ...]) -> None:
    for rank in (0, 1):
        error = found(job, rank, name)[2]
        assert error is not None
        assert all(part in error for part in parts)


def test_a_loss_that_one_process_cannot_compute_is_an_error_of_all(job: Path) -> None:
    """And all of them are left with the same last good weights."""
    (state, history, error), other = found(job, 0, "not finite"), found(job, 1, "not finite")
    assert error == other[2]
    assert error is not None
    assert "gru4rec, epoch 8: the loss must be finite, found nan" in error
    assert len(history) == 6
    assert history == other[1]
    assert equal(state, other[0])
    assert all(np.isfinite(array).all() for array in state.values())


def test_a_training_of_several_processes_goes_on_as_if_it_had_never_stopped(job: Path) -> None:
    for rank in (0, 1):
        whole, history, _ = found(job, rank, "whole")
        _, broken, error = found(job, rank, "interrupted")
        again, after, _ = found(job, rank, "gone on")
        assert error == f"the network of process {rank} is broken"
        assert not broken
        assert equal(again, whole)
        assert after == history
    assert [path.suffix for path in (job / "checkpoints").iterdir()] == [".safetensors"]


def test_checkpoints_that_only_some_processes_find_are_refused(job: Path) -> None:
    """Each would otherwise be in another epoch, and wait for the others for ever."""
    for rank in (0, 1):
        error = found(job, rank, "apart again")[2]
        assert error is not None
        assert "all processes must find the checkpoint, found that 1 of 2 did" in error
        assert "a folder that all of them share" in error


# A process that fails


def test_a_process_that_fails_ends_the_job_with_its_error(tmp_path: Path) -> None:
    start = time.monotonic()
    status, said = torchrun("fail", tmp_path / "out")
    assert status != 0
    assert "RuntimeError: the network of process 1 is broken" in said
    assert time.monotonic() - start < 60
    assert not (tmp_path / "out").exists()


# One process


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_one_process_needs_no_connection(alone: pytest.MonkeyPatch) -> None:
    processes = connect_processes(CPU)
    assert processes == Processes(0, 1)
    assert processes.is_first
    assert not torch.distributed.is_initialized()
    values = torch.tensor([1.0, 2.0])
    assert torch.equal(processes.sum(values), values)
    assert torch.equal(processes.gather(values), values[None])
    assert processes.broadcast(1 / 3, CPU) == 1 / 3
    alone.setenv("WORLD_SIZE", "1")
    assert connect_processes(CPU).count == 1


def test_the_environment_tells_which_process_this_is(alone: pytest.MonkeyPatch) -> None:
    assert Processes.from_environment() == Processes(0, 1)
    alone.setenv("RANK", "3")
    alone.setenv("WORLD_SIZE", "5")
    assert Processes.from_environment() == Processes(3, 5)
    assert not Processes.from_environment().is_first


@pytest.mark.parametrize(("device", "expected"), [("cpu", "cpu"), ("cuda", "cuda:2")])
def test_each_process_of_a_machine_has_its_own_gpu(
    alone: pytest.MonkeyPatch, device: str, expected: str
) -> None:
    assert local_device(torch.device(device)) == torch.device(device)
    alone.setenv("LOCAL_RANK", "2")
    assert local_device(torch.device(device)) == torch.device(expected)
