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
from tests.training.interrupted import OPTIONS, equal, model, single_file, train
from tests.training.learners import fitted, gru, on_cpu, table
from tests.worlds import chain, everything

STOPPED_EARLY = {"patience": 2, "learning_rate": 0.5, "epochs": 30}

# File names


def path_of(
    learner: NetworkRecommender,
    data: TrainingData,
    *,
    device: str = "cpu",
    processes: Processes | None = None,
) -> Path:
    processes = processes or Processes()
    return Checkpoint.of(Path("x"), learner, data, torch.device(device), processes, 0.0).path


def test_file_name_depends_on_everything_that_determines_result() -> None:
    data, part = everything().data, everything().data.hold_out(0.2, 0)[0]
    paths = [
        path_of(model(), data),
        path_of(model(learning_rate=0.03), data),
        path_of(model(patience=3), data),
        path_of(model(augmentation={"crop": 0.1}), data),
        path_of(gru(seed=8), data),
        path_of(gru(seed=9), data),
        path_of(table(), data),
        path_of(model(), part),
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
def test_training_with_other_options_starts_from_beginning(
    other: dict[str, Any], tmp_path: Path
) -> None:
    train(model(), tmp_path, stop=3)
    learner = model(**other)
    assert train(learner, tmp_path)[0] == 1
    assert equal(learner, fitted(model(**other), everything().data))
    assert len(list(tmp_path.iterdir())) == 2


def test_training_with_other_data_starts_from_beginning(tmp_path: Path) -> None:
    train(model(), tmp_path, stop=3)
    assert train(model(), tmp_path, everything().data.hold_out(0.1, 0)[0])[0] == 1
    assert train(model(), tmp_path) == [3, 4, 5]


# Damaged files


def damaged(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[-100] ^= 1
    header = bytearray(content)
    header[content.index(b"best_epoch") + 3] ^= 1
    return {
        "empty": b"",
        "short": content[: len(content) // 2],
        "shorter": content[:5],
        "one byte less": content[:-1],
        "longer": content + b"x",
        "one bit of a tensor": bytes(flipped),
        "one bit of the header": bytes(header),
        "something else": b"something else entirely" * 100,
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a training that was stopped in its third epoch."""
    folder = tmp_path_factory.mktemp("written")
    train(model(), folder, stop=3)
    return single_file(folder)


@pytest.mark.parametrize("kind", damaged(b"best_epoch" * 99))
def test_damaged_checkpoint_is_ignored(kind: str, written: Path, tmp_path: Path) -> None:
    (tmp_path / written.name).write_bytes(damaged(written.read_bytes())[kind])
    learner = model()
    assert train(learner, tmp_path) == [1, 2, 3, 4, 5]
    assert equal(learner, fitted(model(), everything().data))
    assert train(model(), tmp_path) == []  # the damaged file was replaced


def test_checkpoint_without_state_is_ignored(written: Path, tmp_path: Path) -> None:
    save_file({"generators": torch.zeros(3)}, tmp_path / written.name)
    assert train(model(), tmp_path) == [1, 2, 3, 4, 5]


def test_checkpoint_of_other_training_is_ignored(written: Path, tmp_path: Path) -> None:
    """Even if its tensors have the same names and shapes."""
    data = everything().data
    other = path_of(model(learning_rate=0.03), data).name
    shutil.copy(written, tmp_path / other)
    learner = model(learning_rate=0.03)
    assert train(learner, tmp_path) == [1, 2, 3, 4, 5]
    assert equal(learner, fitted(model(learning_rate=0.03), data))


def test_checkpoint_with_other_shapes_is_not_loaded(written: Path) -> None:
    learner, data = model(), everything().data
    checkpoint = Checkpoint(written, 0.0)
    for hidden, matches in ((8, True), (9, False)):
        network = model(hidden=hidden).build(data.vocabulary, data)
        before = [parameter.clone() for parameter in network.parameters()]
        optimiser = torch.optim.Adam(network.parameters())
        assert (checkpoint.read(network, optimiser) is not None) is matches
        unchanged = [torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True)]
        assert all(unchanged) is not matches
    assert path_of(learner, data).name == written.name


# Finished trainings


def test_finished_training_is_not_repeated_until_checkpoint_is_removed(tmp_path: Path) -> None:
    whole = fitted(model(), everything().data)
    epochs: list[int] = []

    def record(_name: str, epoch: Epoch, _epochs: int) -> None:
        epochs.append(epoch.epoch)

    with on_cpu(progress=record, checkpoints=tmp_path, checkpoint_seconds=0) as runtime:
        for expected in ([1, 2, 3, 4, 5], []):
            learner = model().fit(everything().data)
            assert epochs == expected
            assert equal(learner, whole)
            epochs.clear()
        runtime.remove_checkpoints()
        assert list(tmp_path.iterdir()) == []
        model().fit(everything().data)
    assert epochs == [1, 2, 3, 4, 5]


def test_best_weights_of_finished_training_are_restored(tmp_path: Path) -> None:
    options = STOPPED_EARLY
    first, second = model(**options), model(**options)
    train(first, tmp_path)
    assert len(first.history) < 30
    assert train(second, tmp_path) == []
    assert equal(second, first)


def test_remove_checkpoints_keeps_unfinished_trainings(tmp_path: Path) -> None:
    train(model(hidden=4), tmp_path, stop=3)
    unfinished = single_file(tmp_path)
    with on_cpu(checkpoints=tmp_path, checkpoint_seconds=0) as runtime:
        for learner in (model(), table(epochs=3)):
            learner.fit(everything().data)
    assert len(list(tmp_path.iterdir())) == 3
    runtime.remove_checkpoints()
    assert single_file(tmp_path) == unfinished
    runtime.remove_checkpoints()
    assert single_file(tmp_path) == unfinished


def test_short_training_writes_no_checkpoint(tmp_path: Path) -> None:
    learner = model()
    assert train(learner, tmp_path / "new", seconds=1000.0) == [1, 2, 3, 4, 5]
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_written_at_most_every_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is always written if there is a checkpoint, so that the training counts as finished."""
    start, elapsed = time.monotonic(), 0
    monkeypatch.setattr(checkpoint_module.time, "monotonic", lambda: start + elapsed)
    writes: list[int] = []

    class RecordingCheckpoint(Checkpoint):
        def write(self, *args: Any) -> None:
            writes.append(elapsed)
            super().write(*args)

    def advance(*_: object) -> None:
        nonlocal elapsed
        elapsed += 4

    monkeypatch.setattr(loop_module, "Checkpoint", RecordingCheckpoint)
    with on_cpu(progress=advance, checkpoints=tmp_path, checkpoint_seconds=10):
        model(epochs=9).fit(everything().data)
    assert writes == [12, 24, 36]
    assert train(model(epochs=9), tmp_path) == []


# Drafts and folders


def test_drafts_of_killed_process_are_removed(tmp_path: Path) -> None:
    name = path_of(model(), everything().data).name
    draft, other = tmp_path / f".{name}-12345", tmp_path / ".another.safetensors-12345"
    for path in (draft, other):
        path.write_bytes(b"half")
    train(model(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {name, other.name}


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_unwritable_folder_is_rejected(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with pytest.raises(DagrecError) as error:
        train(model(), tmp_path / folder)
    assert says(error, str(tmp_path / folder), "a checkpoint must be written", "another folder")


def test_unwritable_file_is_rejected(tmp_path: Path) -> None:
    name = path_of(model(), everything().data).name
    (tmp_path / name / "inside").mkdir(parents=True)
    with pytest.raises(DagrecError) as error:
        train(model(), tmp_path)
    assert says(error, name, "a checkpoint must be written")
    assert [path.name for path in tmp_path.iterdir()] == [name]
