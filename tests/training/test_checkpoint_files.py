from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dagrec.errors import DagrecError
from dagrec.models.network import NetworkRecommender
from dagrec.training import checkpoint as checkpoint_module
from dagrec.training import loop as loop_module
from dagrec.training.checkpoint import Checkpoint
from dagrec.training.data import TrainingData
from dagrec.training.distributed import Processes
from dagrec.training.runtime import Epoch
from tests.checks import says
from tests.training.interrupted import OPTIONS, model, only, same, train
from tests.training.learners import fitted, gru, on_cpu, table
from tests.worlds import chain, everything

STOPPED_EARLY = {"patience": 2, "learning_rate": 0.5, "epochs": 30}

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
    "other", [{"epochs": OPTIONS["epochs"] + 1}, {"learning_rate": 0.01}, {"hidden": 6}], ids=str
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


def test_a_file_without_a_state_is_ignored(written: Path, tmp_path: Path) -> None:
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


def test_a_finished_training_is_not_done_again_until_its_checkpoint_is_removed(tmp_path: Path) -> None:
    whole = fitted(model(), everything().data)
    told: list[int] = []

    def tell(_name: str, epoch: Epoch, _epochs: int) -> None:
        told.append(epoch.epoch)

    with on_cpu(progress=tell, checkpoints=tmp_path, checkpoint_seconds=0) as runtime:
        for expected in ([1, 2, 3, 4, 5], []):
            learner = model().fit(everything().data)
            assert told == expected
            assert same(learner, whole)
            told.clear()
        runtime.remove_checkpoints()
        assert list(tmp_path.iterdir()) == []
        model().fit(everything().data)
    assert told == [1, 2, 3, 4, 5]


def test_the_best_weights_of_a_finished_training_come_back(tmp_path: Path) -> None:
    options = STOPPED_EARLY
    first, again = model(**options), model(**options)
    train(first, tmp_path)
    assert len(first.history) < 30
    assert train(again, tmp_path) == []
    assert same(again, first)


def test_only_checkpoints_of_finished_trainings_are_removed(tmp_path: Path) -> None:
    train(model(hidden=4), tmp_path, stop=3)
    unfinished = only(tmp_path)
    with on_cpu(checkpoints=tmp_path, checkpoint_seconds=0) as runtime:
        for learner in (model(), table(epochs=3)):
            learner.fit(everything().data)
    assert len(list(tmp_path.iterdir())) == 3
    runtime.remove_checkpoints()
    assert only(tmp_path) == unfinished
    runtime.remove_checkpoints()
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
    with on_cpu(progress=tell, checkpoints=tmp_path, checkpoint_seconds=10):
        model(epochs=9).fit(everything().data)
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
