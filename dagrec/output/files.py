"""Atomic replacement of files: after a crash, a file has either its old or its new content."""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Replace a file atomically, and create its folder if necessary.

    The content is written to a draft in the same folder, synced to the disk, and renamed. A symbolic
    link is kept and its target replaced; pipes and devices are written in place. Raises
    :class:`OSError`, and leaves no draft behind.
    """
    data = content.encode() if isinstance(content, str) else content
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{_draft_prefix(target)}{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(target.parent)


def remove_drafts(path: Path) -> None:
    """Remove the drafts of a file that killed processes left behind."""
    for draft in path.parent.glob(f"{glob.escape(_draft_prefix(path))}*"):
        with suppress(OSError):
            draft.unlink()


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open folders, and does not need this
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _draft_prefix(path: Path) -> str:
    return f".{path.name}-"
