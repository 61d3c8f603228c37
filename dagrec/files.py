"""Files that are replaced in one step, so that a crash leaves the old content or the new."""

from __future__ import annotations

import glob
import os
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file, its folder included, in one step that a crash cannot divide.

    The content is written to a draft beside the file, forced onto the disk, and renamed. A link keeps
    pointing to its target, which is replaced; what is no regular file (a pipe, a device) is written to
    in place. Raises :class:`OSError`, and leaves no draft behind.
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
    """Remove drafts of a file that killed processes left behind."""
    for draft in path.parent.glob(f"{glob.escape(_draft_prefix(path))}*"):
        with suppress(OSError):
            draft.unlink()


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, onto the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and writes their names by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _draft_prefix(path: Path) -> str:
    return f".{path.name}-"
