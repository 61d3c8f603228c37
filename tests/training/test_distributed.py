from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dagrec.training.distributed import Processes, connect_processes, local_device
from dagrec.training.loop import SEED_STEP
from dagrec.training.runtime import Epoch
from tests.processes import PATIENCE
from tests.training.distributed_job import TRAININGS
from tests.training.learners import fitted, gru
from tests.worlds import everything

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
State = dict[str, NDArray[np.generic]]


def torchrun(out: Path) -> None:
    """Run the job in two processes. It is terminated if it does not end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.training.distributed_job", str(out)]
    with (out / "output").open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        try:
            status = str(process.wait(PATIENCE))
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun stops its workers, which are not children of this process
            process.wait()
            status = "it did not end"
    (out / "status").write_text(status, encoding="utf-8")


@pytest.fixture(scope="session")
def job(shared_folder: Callable[..., Path]) -> Path:
    """The results of many trainings in two processes, of which the last one fails."""
    out = shared_folder("distributed", torchrun)
    finished = [(out / str(rank) / "finished").exists() for rank in (0, 1)]
    assert all(finished), (out / "output").read_text(encoding="utf-8")
    return out


def result(job: Path, rank: int, name: str) -> tuple[State, list[Epoch], str | None]:
    """The weights, history and error of a training in one of the processes."""
    with np.load(job / str(rank) / f"{name}.npz") as file:
        state = dict(file)
    about = json.loads((job / str(rank) / f"{name}.json").read_text(encoding="utf-8"))
    return state, [Epoch(*fields) for fields in about["history"]], about["error"]


def equal(a: State, b: State) -> bool:
    """Whether all weights are exactly equal."""
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# One job of two processes


@pytest.mark.parametrize("name", TRAININGS)
def test_processes_end_with_equal_weights_and_histories(job: Path, name: str) -> None:
    (state, history, error), other = result(job, 0, name), result(job, 1, name)
    assert error is None
    assert equal(state, other[0])
    assert history == other[1]
    assert history


@pytest.mark.parametrize("name", ["full batches", "masked", "adamw", "uneven batches"])
def test_several_processes_compute_same_gradients_as_one(job: Path, name: str) -> None:
    """Without dropout and sampling, the gradient does not depend on how a batch is divided."""
    state, history, _ = result(job, 0, name)
    alone = fitted(gru(**TRAININGS[name]), everything().data)
    for key, array in alone.state().items():
        np.testing.assert_allclose(state[key], array, rtol=2e-3, atol=2e-4, err_msg=key)
    for one, several in zip(alone.history, history, strict=True):
        assert several.loss == pytest.approx(one.loss, rel=1e-4)
        assert several.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-2)


def test_several_processes_are_as_accurate_as_one(job: Path) -> None:
    data, options = everything().data, TRAININGS["full batches"]
    alone = fitted(gru(**options), data)
    distributed = gru(**options).restore(result(job, 0, "full batches")[0], data.vocabulary, data.graph)
    accuracy = [
        (model.score(data.contexts).argmax(axis=1)[data.rows] == data.targets).mean()
        for model in (alone, distributed)
    ]
    assert accuracy[0] == accuracy[1] > 0.7


def test_only_first_process_reports_progress_and_logs(job: Path) -> None:
    epochs = [epoch.epoch for name in TRAININGS for epoch in result(job, 0, name)[1]]
    reported = [json.loads((job / str(rank) / "epochs.json").read_text("utf-8")) for rank in (0, 1)]
    assert reported == [epochs, []]
    assert len((job / "log-0").read_text(encoding="utf-8").splitlines()) == len(epochs)
    assert not (job / "log-1").exists()


def test_processes_have_different_random_numbers(job: Path) -> None:
    """Otherwise they would have the same dropout and the same negatives."""
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
def test_fewer_units_than_processes_are_rejected(job: Path, name: str, parts: tuple[str, ...]) -> None:
    for rank in (0, 1):
        error = result(job, rank, name)[2]
        assert error is not None
        assert all(part in error for part in parts)


def test_infinite_loss_in_one_process_fails_all_processes(job: Path) -> None:
    """All processes have the same last good weights."""
    (state, history, error), other = result(job, 0, "not finite"), result(job, 1, "not finite")
    assert error == other[2]
    assert error is not None
    assert "gru4rec, epoch 8: the loss must be finite, found nan" in error
    assert len(history) == 6
    assert history == other[1]
    assert equal(state, other[0])
    assert all(np.isfinite(array).all() for array in state.values())


def test_interrupted_distributed_training_is_resumed_with_same_result(job: Path) -> None:
    for rank in (0, 1):
        whole, history, _ = result(job, rank, "whole")
        _, interrupted_history, error = result(job, rank, "interrupted")
        resumed, resumed_history, _ = result(job, rank, "resumed")
        assert error == f"the network of process {rank} is broken"
        assert not interrupted_history
        assert equal(resumed, whole)
        assert resumed_history == history
    assert [path.suffix for path in (job / "checkpoints").iterdir()] == [".safetensors"]


def test_checkpoints_must_be_found_by_all_processes(job: Path) -> None:
    """Otherwise the processes would be in different epochs and wait for each other forever."""
    for rank in (0, 1):
        error = result(job, rank, "separate, resumed")[2]
        assert error is not None
        assert "all processes must find the checkpoint, found that 1 of 2 did" in error
        assert "a folder that all of them share" in error


# A process that fails


def test_failure_of_one_process_stops_job_with_its_error(job: Path) -> None:
    assert int((job / "status").read_text(encoding="utf-8")) != 0
    output = (job / "output").read_text(encoding="utf-8")
    assert "RuntimeError: the network of process 1 is broken" in output
    assert not list(job.glob("*/unreachable*"))


# One process


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_single_process_is_not_connected(alone: pytest.MonkeyPatch) -> None:
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


def test_processes_are_read_from_environment(alone: pytest.MonkeyPatch) -> None:
    assert Processes.from_environment() == Processes(0, 1)
    alone.setenv("RANK", "3")
    alone.setenv("WORLD_SIZE", "5")
    assert Processes.from_environment() == Processes(3, 5)
    assert not Processes.from_environment().is_first


@pytest.mark.parametrize(("device", "expected"), [("cpu", "cpu"), ("cuda", "cuda:2")])
def test_local_device_depends_on_local_rank(
    alone: pytest.MonkeyPatch, device: str, expected: str
) -> None:
    assert local_device(torch.device(device)) == torch.device(device)
    alone.setenv("LOCAL_RANK", "2")
    assert local_device(torch.device(device)) == torch.device(expected)
