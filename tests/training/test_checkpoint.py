from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dagrec.errors import DagrecError
from dagrec.models.base import Epoch
from dagrec.models.network import NetworkRecommender
from dagrec.models.training_data import TrainingData
from dagrec.training import checkpoint as checkpoint_module
from dagrec.training import loop as loop_module
from dagrec.training.checkpoint import Checkpoint
from dagrec.training.distributed import Processes
from dagrec.training.loop import NetworkTrainer
from tests.checks import says
from tests.training.killed import OPTIONS
from tests.training.learners import STILL, fitted, gru, table
from tests.worlds import chain, everything

ROOT = Path(__file__).parents[2]
EPOCHS = 5
CONFIGS: dict[str, dict[str, Any]] = {
    "adam": STILL,
    "dropout": {"embedding_dropout": 0.3, "hidden_dropout": 0.3},
    "adamw": {"optimiser": "adamw", "weight_decay": 0.1},
    "adagrad": {"optimiser": "adagrad"},
    "momentum": {"optimiser": "adagrad", "momentum": 0.5},
    "drawn for each": {"loss": "bpr", "negatives": 4},
    "drawn once": {"loss": "sampled-softmax", "sampling": "shared", "replacement": False},
    "in batch": {"loss": "bpr-max", "sampling": "batch", "negatives": 3, "sampler": "alias"},
    "hardness": {"loss": "hinge", "curriculum": "hardness", "curriculum_epochs": 4},
    "length": {"curriculum": "length", "curriculum_epochs": 4},
    "schedule": {"schedule": "warmup-cosine", "warmup_epochs": 2},
    "early stopping": {"patience": 2, "validation_share": 0.3, "learning_rate": 0.5},
    "metric": {"patience": 4, "validation_metric": "mrr", "validate_every": 2},
    "augmentation": {"augmentation": {"node_mask": 0.3, "crop": 0.3}},
    "reordered": {"augmentation": {"reorder": 0.5}, "read": "upstream"},
    "bf16": {"precision": "bf16"},
    "more epochs": {"epochs": 2, "least_steps": 14, "schedule": "warmup-cosine"},
    "masked": {"mask_training": True, "exclude": "successors", "loss": "bpr"},
}


class StopError(Exception):
    """The training is interrupted."""


def model(**options: Any) -> NetworkRecommender:
    return gru(seed=7, **{"epochs": EPOCHS, "batch_size": 5, "learning_rate": 0.02, **options})


def train(
    learner: NetworkRecommender,
    folder: Path,
    data: TrainingData | None = None,
    *,
    stop: int | None = None,
    seconds: float = 0.0,
) -> list[int]:
    """Fit it, or until it is stopped in the epoch ``stop``. Returns the epochs that were told."""
    told: list[int] = []

    def tell(_name: str, epoch: Epoch, _epochs: int) -> None:
        told.append(epoch.epoch)
        if epoch.epoch == stop:
            raise StopError

    trainer = NetworkTrainer("cpu", tell, checkpoints=folder, checkpoint_seconds=seconds)
    if stop is None:
        learner.fit(data or everything().data, trainer)
    else:
        with pytest.raises(StopError):
            learner.fit(data or everything().data, trainer)
    return told


def same(a: NetworkRecommender, b: NetworkRecommender) -> bool:
    """Equal to the last bit."""
    assert a.history == b.history
    assert a.state().keys() == b.state().keys()
    assert all(np.array_equal(array, b.state()[name]) for name, array in a.state().items())
    return True


def only(folder: Path) -> Path:
    """The one file of a folder."""
    (found,) = folder.iterdir()
    return found


# Going on


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_a_training_goes_on_as_if_it_had_never_stopped(options: dict[str, Any], tmp_path: Path) -> None:
    whole = fitted(model(**options), everything().data)
    for stop in range(1, len(whole.history) + 1):
        folder = tmp_path / str(stop)
        assert train(model(**options), folder, stop=stop) == list(range(1, stop + 1))
        again = model(**options)
        # The epoch in which it was stopped is not yet in the file.
        assert train(again, folder) == list(range(stop, len(whole.history) + 1))
        assert same(again, whole)
        assert only(folder).suffix == ".safetensors"


@pytest.mark.parametrize("options", [CONFIGS["momentum"], CONFIGS["early stopping"]], ids=str)
def test_a_training_can_be_stopped_many_times(options: dict[str, Any], tmp_path: Path) -> None:
    whole = fitted(model(**options), everything().data)
    for stop in range(1, len(whole.history) + 1):
        train(model(**options), tmp_path, stop=stop)
    again = model(**options)
    assert train(again, tmp_path) == [len(whole.history)]
    assert same(again, whole)


def test_a_training_that_breaks_off_within_an_epoch_repeats_that_epoch(tmp_path: Path) -> None:
    whole = fitted(model(), everything().data)
    broken = model()
    passes = iter(range(100))

    def break_(*_: object) -> None:
        if next(passes) == 8:  # of three batches an epoch, the last of the third
            raise StopError

    build = broken.build

    def breaking(*args: Any) -> Any:
        network = build(*args)
        network.embed.register_forward_pre_hook(break_)
        return network

    broken.build = breaking  # type: ignore[method-assign]
    with pytest.raises(StopError):
        broken.fit(everything().data, NetworkTrainer("cpu", checkpoints=tmp_path, checkpoint_seconds=0))
    again = model()
    assert train(again, tmp_path) == [3, 4, 5]
    assert same(again, whole)


def test_checkpoints_change_nothing(tmp_path: Path) -> None:
    learner = model()
    train(learner, tmp_path)
    assert same(learner, fitted(model(), everything().data))


# Killed


def reference() -> NetworkRecommender:
    return fitted(gru(seed=6, **OPTIONS), everything().data)


def kill_until_done(folder: Path, kills: int, seed: int) -> None:
    """Start the script again and again, each time killed at a random moment after its first epoch."""
    rng = random.Random(seed)
    command = [sys.executable, "-m", "tests.training.killed", str(folder / "c"), str(folder / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    for number in range(kills + 1):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            first = int(process.stdout.readline())
            if number < kills:
                time.sleep(rng.uniform(0, 0.1))
                process.kill()
            told = [first, *map(int, process.stdout.read().split())]
        assert process.wait() == (0 if number == kills else -9), "it ended before it was killed"
        # It starts where the file was written last: what was told since may have to be done again.
        assert told == list(range(first, told[-1] + 1))
        assert (first > 1) is (number > 0)
    assert told[-1] == OPTIONS["epochs"]


@pytest.mark.parametrize(
    "kills", [1, pytest.param(12, marks=pytest.mark.slow)], ids=["once", "many times"]
)
def test_a_killed_process_goes_on_where_it_was(kills: int, tmp_path: Path) -> None:
    kill_until_done(tmp_path, kills, seed=kills)
    whole = reference()
    data = everything().data
    about = json.loads((tmp_path / "out" / "model.json").read_text(encoding="utf-8"))
    found = type(whole).load(tmp_path / "out", about, data.vocabulary, data.graph)
    assert same(found, whole)
    assert only(tmp_path / "c").suffix == ".safetensors"


# Which file


def path_of(
    learner: NetworkRecommender,
    data: TrainingData,
    *,
    device: str = "cpu",
    processes: Processes | None = None,
) -> Path:
    where = torch.device(device)
    return Checkpoint.of(Path("x"), learner, data, where, processes or Processes(), 0.0).path


def test_whatever_decides_the_result_has_a_file_of_its_own() -> None:
    data, kept = everything().data, everything().data.hold_out(0.2, 0)[0]
    paths = [
        path_of(model(), data),
        path_of(model(learning_rate=0.03), data),
        path_of(model(patience=3), data),
        path_of(model(augmentation={"crop": 0.1}), data),
        path_of(gru(seed=8), data),
        path_of(gru(seed=9), data),
        path_of(table(), data),
        path_of(model(), kept),
        path_of(model(), chain().data),
        path_of(model(), data, processes=Processes(0, 2)),
        path_of(model(), data, device="cuda"),
    ]
    assert len(set(paths)) == len(paths)
    assert path_of(model(), data) == paths[0]
    assert path_of(model(), data, processes=Processes(1, 2)) == paths[9]


@pytest.mark.parametrize(
    "other", [{"epochs": EPOCHS + 1}, {"learning_rate": 0.01}, {"hidden": 6}], ids=str
)
def test_another_training_never_meets_the_file(other: dict[str, Any], tmp_path: Path) -> None:
    train(model(), tmp_path, stop=3)
    learner = model(**other)
    assert train(learner, tmp_path)[0] == 1
    assert same(learner, fitted(model(**other), everything().data))
    assert len(list(tmp_path.iterdir())) == 2


def test_other_data_never_meet_the_file(tmp_path: Path) -> None:
    train(model(), tmp_path, stop=3)
    assert train(model(), tmp_path, everything().data.hold_out(0.1, 0)[0])[0] == 1
    assert train(model(), tmp_path) == [3, 4, 5]


# Damage


def damaged(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    header = bytearray(whole)
    header[whole.index(b"best_epoch") + 3] ^= 1
    return {
        "empty": b"",
        "short": whole[: len(whole) // 2],
        "shorter": whole[:5],
        "one bit less": whole[:-1],
        "longer": whole + b"x",
        "one bit of a tensor": bytes(flipped),
        "one bit of the header": bytes(header),
        "something else": b"something else entirely" * 100,
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a training that was stopped in its third epoch."""
    folder = tmp_path_factory.mktemp("written")
    train(model(), folder, stop=3)
    return only(folder)


@pytest.mark.parametrize("kind", damaged(b"best_epoch" * 99))
def test_a_damaged_file_is_ignored(kind: str, written: Path, tmp_path: Path) -> None:
    (tmp_path / written.name).write_bytes(damaged(written.read_bytes())[kind])
    learner = model()
    assert train(learner, tmp_path) == [1, 2, 3, 4, 5]
    assert same(learner, fitted(model(), everything().data))
    assert train(model(), tmp_path) == []  # the damaged file has been replaced


def test_a_file_without_a_course_is_ignored(written: Path, tmp_path: Path) -> None:
    save_file({"generators": torch.zeros(3)}, tmp_path / written.name)
    assert train(model(), tmp_path) == [1, 2, 3, 4, 5]


def test_the_file_of_another_training_is_ignored(written: Path, tmp_path: Path) -> None:
    """Though it has tensors of the same names and shapes."""
    data = everything().data
    other = path_of(model(learning_rate=0.03), data).name
    shutil.copy(written, tmp_path / other)
    learner = model(learning_rate=0.03)
    assert train(learner, tmp_path) == [1, 2, 3, 4, 5]
    assert same(learner, fitted(model(learning_rate=0.03), data))


def test_a_network_of_other_shapes_is_not_loaded(written: Path) -> None:
    learner, data = model(), everything().data
    place = Checkpoint(written, 0.0)
    for hidden, fits in ((8, True), (9, False)):
        network = model(hidden=hidden).build(data.vocabulary, data)
        before = [parameter.clone() for parameter in network.parameters()]
        optimiser = torch.optim.Adam(network.parameters())
        assert (place.read(network, optimiser) is not None) is fits
        kept = [torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
        assert all(kept) is not fits
    assert path_of(learner, data).name == written.name


# Finished


def test_a_finished_training_is_not_done_again_until_it_is_forgotten(tmp_path: Path) -> None:
    whole = fitted(model(), everything().data)
    told: list[int] = []
    trainer = NetworkTrainer(
        "cpu", lambda _, epoch, __: told.append(epoch.epoch), checkpoints=tmp_path, checkpoint_seconds=0
    )
    for expected in ([1, 2, 3, 4, 5], []):
        learner = model().fit(everything().data, trainer)
        assert told == expected
        assert same(learner, whole)
        told.clear()
    trainer.forget()
    assert list(tmp_path.iterdir()) == []
    model().fit(everything().data, trainer)
    assert told == [1, 2, 3, 4, 5]


def test_the_best_weights_of_a_finished_training_come_back(tmp_path: Path) -> None:
    options = CONFIGS["early stopping"] | {"epochs": 30}
    first, again = model(**options), model(**options)
    train(first, tmp_path)
    assert len(first.history) < 30
    assert train(again, tmp_path) == []
    assert same(again, first)


def test_only_finished_trainings_are_forgotten(tmp_path: Path) -> None:
    train(model(hidden=4), tmp_path, stop=3)
    unfinished = only(tmp_path)
    trainer = NetworkTrainer("cpu", checkpoints=tmp_path, checkpoint_seconds=0)
    for learner in (model(), table(epochs=3)):
        learner.fit(everything().data, trainer)
    assert len(list(tmp_path.iterdir())) == 3
    trainer.forget()
    assert only(tmp_path) == unfinished
    trainer.forget()
    assert only(tmp_path) == unfinished


def test_a_short_training_writes_nothing(tmp_path: Path) -> None:
    learner = model()
    assert train(learner, tmp_path / "new", seconds=1000.0) == [1, 2, 3, 4, 5]
    assert list(tmp_path.iterdir()) == []


def test_seconds_pass_between_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a training that has a file is always written, so that it is known to be done."""
    start, passed = time.monotonic(), 0
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: start + passed)
    writes: list[int] = []

    class Noting(Checkpoint):
        def write(self, *about: Any) -> None:
            writes.append(passed)
            super().write(*about)

    def tell(*_: object) -> None:
        nonlocal passed
        passed += 4

    monkeypatch.setattr(loop_module, "Checkpoint", Noting)
    trainer = NetworkTrainer("cpu", tell, checkpoints=tmp_path, checkpoint_seconds=10)
    model(epochs=9).fit(everything().data, trainer)
    assert writes == [12, 24, 36]
    assert train(model(epochs=9), tmp_path) == []


# Drafts and folders


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    name = path_of(model(), everything().data).name
    left, other = tmp_path / f".{name}-12345", tmp_path / ".another.safetensors-12345"
    for path in (left, other):
        path.write_bytes(b"half")
    train(model(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, other.name}


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_written_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(DagrecError) as error:
        train(model(), tmp_path / place)
    assert says(error, str(tmp_path / place), "a checkpoint must be written", "another folder")


def test_a_file_that_cannot_be_replaced_is_refused(tmp_path: Path) -> None:
    name = path_of(model(), everything().data).name
    (tmp_path / name / "inside").mkdir(parents=True)
    with pytest.raises(DagrecError) as error:
        train(model(), tmp_path)
    assert says(error, name, "a checkpoint must be written")
    assert [path.name for path in tmp_path.iterdir()] == [name]
