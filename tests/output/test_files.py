"""Atomic replacement of files, symbolic links, pipes, and failures while writing."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from dagrec.output.files import remove_drafts, replace_file
from tests.processes import Completed, Job

OLD, NEW = b"old", "new: \u00e9\n"
NOBODY = 65534
"""The id of an unprivileged user."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with old content, alone in its folder."""
    file = tmp_path / "folder" / "file.json"
    file.parent.mkdir()
    file.write_bytes(OLD)
    return file


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="dagrec-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("content", [NEW, NEW.encode(), ""])
def test_replace_file_replaces_atomically(content: str | bytes, file: Path) -> None:
    with file.open("rb") as reader:
        replace_file(file, content)
        assert reader.read() == OLD, "an open reader must keep the old content"
    assert file.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert names(file.parent) == ["file.json"]


def test_replace_file_creates_missing_folders(tmp_path: Path) -> None:
    file = tmp_path / "one" / "two" / "file"
    replace_file(file, NEW)
    assert file.read_text(encoding="utf-8") == NEW
    assert names(file.parent) == ["file"]


@pytest.mark.parametrize("exists", [True, False], ids=["to a file", "to nothing yet"])
def test_replace_file_replaces_target_of_symbolic_link_and_keeps_link(
    exists: bool, file: Path, tmp_path: Path
) -> None:
    if not exists:
        file.unlink()
    link, second = tmp_path / "link", tmp_path / "second"
    link.symlink_to("folder/file.json")
    second.symlink_to(link)
    replace_file(second, NEW)
    assert (os.readlink(second), os.readlink(link)) == (str(link), "folder/file.json")
    assert not file.is_symlink()
    assert file.read_text(encoding="utf-8") == NEW
    assert names(file.parent) == ["file.json"]
    assert names(tmp_path) == ["folder", "link", "second"]


def test_replace_file_replaces_symbolic_link_to_itself(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    replace_file(link, NEW)
    assert link.read_text(encoding="utf-8") == NEW


def test_replace_file_writes_fifo_in_place(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    contents: list[bytes] = []
    reader = Thread(target=lambda: contents.append(fifo.read_bytes()))
    reader.start()
    replace_file(fifo, NEW)
    reader.join(10)
    assert contents == [NEW.encode()]
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert names(tmp_path) == ["fifo"]


def test_replace_file_writes_to_dev_fd_of_open_pipe() -> None:
    """As in ``--json /dev/stdout``, a link whose target has no path."""
    reading, writing = os.pipe()
    replace_file(Path(f"/dev/fd/{writing}"), NEW)
    os.close(writing)
    with open(reading, "rb") as pipe:
        assert pipe.read() == NEW.encode()


def test_replace_file_rejects_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "folder", NEW)
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == []


def replace_under_limits(path: Path, content: bytes, limits: dict[str, int]) -> None:
    """Replace a file under operating system limits, and print the error."""
    if "file_size" in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["file_size"], limits["file_size"]))
    if "user" in limits and os.geteuid() == 0:  # root can write everywhere
        os.setuid(limits["user"])
    try:
        replace_file(path, content)
    except OSError as error:
        print(error.strerror)


def replace_with_limits(path: Path, content: bytes = b"new", **limits: int) -> Completed:
    return Job(replace_under_limits, (path, content, limits)).wait()


@pytest.mark.parametrize("size", [5_000, 2**20], ids=["in a buffer", "beyond a buffer"])
def test_full_disk_leaves_old_content_and_no_draft(size: int, file: Path) -> None:
    """A limit of the file size simulates a full disk."""
    completed = replace_with_limits(file, bytes(size), file_size=1_000)
    assert (completed.status, completed.out) == (0, "File too large\n"), completed.err
    assert file.read_bytes() == OLD
    assert names(file.parent) == ["file.json"]


def test_read_only_folder_leaves_old_content_and_no_draft(open_folder: Path) -> None:
    file = open_folder / "file"
    file.write_bytes(OLD)
    file.chmod(0o666)
    open_folder.chmod(0o555)
    completed = replace_with_limits(file, user=NOBODY)
    assert (completed.status, completed.out) == (0, "Permission denied\n"), completed.err
    assert file.read_bytes() == OLD
    assert names(open_folder) == ["file"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=repr)
def test_interrupted_writing_leaves_old_content_and_no_draft(
    error: BaseException, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(error)):
        replace_file(file, NEW)
    assert file.read_bytes() == OLD
    assert names(file.parent) == ["file.json"]


def test_remove_drafts_takes_glob_characters_literally(tmp_path: Path) -> None:
    file = tmp_path / "run [1]*?.json"
    other_names = [file.name, "run [1]*?.json-7", ".run 1xy.json-7", ".run [1]xy.json-7", ".other-7"]
    for name in (*other_names, f".{file.name}-7", f".{file.name}-123456"):
        (tmp_path / name).write_text("content")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / f".{file.name}-7").write_text("content")
    remove_drafts(file)
    assert names(tmp_path) == sorted([*other_names, "below"])
    assert names(tmp_path / "below") == [f".{file.name}-7"]


def test_remove_drafts_ignores_missing_folder_and_folders(tmp_path: Path) -> None:
    remove_drafts(tmp_path / "missing" / "file")
    (tmp_path / ".file-7").mkdir()
    remove_drafts(tmp_path / "file")
    assert names(tmp_path) == [".file-7"], "folders must not be removed"
