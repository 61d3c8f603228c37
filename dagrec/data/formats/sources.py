"""The files behind a path: a file, a folder, an archive, or standard input."""

from __future__ import annotations

import gzip
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from dagrec.errors import DataError

Open = Callable[[], IO[bytes]]
"""Opens a file of an archive."""
ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
MAX_MEMBERS = 100_000
"""The largest number of files in an archive."""


class Source(NamedTuple):
    """A file, or a file in an archive. ``read`` returns its text, or raises :class:`DataError`."""

    name: str
    read: Callable[[], str]

    @property
    def stem(self) -> str:
        """The name without folders and endings."""
        return PurePosixPath(self.name).name.split(".")[0] or "file"


def sources(
    path: Path, suffixes: Collection[str], max_mb: int, ignored: Counter[str]
) -> Iterator[Source]:
    """Yield the files behind a path, in the order of their names.

    Those of folders and archives with other endings are counted in ``ignored``, by ending. Raises
    :class:`DataError` if there is no such path or the archive is damaged.
    """
    if str(path) == "-":
        yield Source("standard input", lambda: read_text(path, max_mb))
    elif path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            if _ending(file.name) in suffixes:
                yield from _file(file, suffixes, max_mb, ignored)
            else:
                ignored[_ending(file.name)] += 1
    elif path.exists():
        yield from _file(path, suffixes, max_mb, ignored)
    else:
        raise DataError(
            f"{path}: must be a file or a folder, found neither; check the path", rule="no-file"
        )


def read_text(path: Path, max_mb: int) -> str:
    """Return the text of a file that may be compressed, or of standard input (``-``).

    Raises :class:`DataError`.
    """
    if str(path) == "-":
        return _text(sys.stdin.buffer, max_mb)
    with _errors(), path.open("rb") as file:
        if path.is_file():
            _check_size(path.stat().st_size, max_mb)
        if path.name.lower().endswith(".gz"):
            with gzip.open(file) as inner:
                return _text(inner, max_mb)
        return _text(file, max_mb)


def _file(
    path: Path, suffixes: Collection[str], max_mb: int, ignored: Counter[str]
) -> Iterator[Source]:
    name = path.name.lower()
    if not name.endswith(ARCHIVES):
        yield Source(str(path), lambda: read_text(path, max_mb))
        return
    members = _zip_members if name.endswith(".zip") else _tar_members
    with _errors(str(path)), members(path) as opened:
        for member, open_ in opened:
            if _ending(member) in suffixes and not member.endswith(ARCHIVES):
                yield Source(f"{path}/{member}", partial(_read_member, member, open_, max_mb))
            else:
                ignored[_ending(member)] += 1


def _read_member(name: str, open_: Open, max_mb: int) -> str:
    with _errors(), open_() as file:
        if name.lower().endswith(".gz"):
            with gzip.open(file) as inner:
                return _text(inner, max_mb)
        return _text(file, max_mb)


@contextmanager
def _zip_members(path: Path) -> Iterator[list[tuple[str, Open]]]:
    with zipfile.ZipFile(path) as archive:
        infos = sorted(archive.infolist(), key=lambda info: info.filename)
        _check_members(len(infos))
        yield [(i.filename, partial(archive.open, i)) for i in infos if not i.is_dir()]


@contextmanager
def _tar_members(path: Path) -> Iterator[list[tuple[str, Open]]]:
    with tarfile.open(path) as archive:
        infos = []
        for info in archive:
            infos.append(info)
            _check_members(len(infos))

        def open_(info: tarfile.TarInfo) -> IO[bytes]:
            file = archive.extractfile(info)
            assert file is not None
            return file

        infos.sort(key=lambda info: info.name)
        yield [(info.name, partial(open_, info)) for info in infos if info.isfile()]


def _check_members(number: int) -> None:
    if number > MAX_MEMBERS:
        raise DataError(
            f"an archive may hold {MAX_MEMBERS} files, found more; unpack it into a folder",
            rule="too-large",
        )


def _text(file: IO[bytes] | gzip.GzipFile, max_mb: int) -> str:
    """Return UTF-8 text, without reading more than the limit."""
    content = file.read(max_mb * 1_000_000 + 1)
    _check_size(len(content), max_mb)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"a file must be UTF-8 text, found byte 0x{error.object[error.start]:02x} "
            f"at offset {error.start}; convert it",
            rule="not-utf8",
        ) from None


def _check_size(size: int, max_mb: int) -> None:
    if size > max_mb * 1_000_000:
        raise DataError(
            f"a file may have {max_mb} MB, found {size / 1e6:.1f} MB or more; split it, or raise the "
            "limit with --max-mb",
            rule="too-large",
        )


def _ending(name: str) -> str:
    """The ending of a file name in lower case, without that of a compressed file."""
    lower = name.lower()
    if lower.endswith(ARCHIVES):
        return next(ending for ending in ARCHIVES if lower.endswith(ending))
    return PurePosixPath(lower.removesuffix(".gz")).suffix


@contextmanager
def _errors(name: str = "") -> Iterator[None]:
    prefix = f"{name}: " if name else ""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"{prefix}cannot be read: {reason}; check the path and its permissions", rule="unreadable"
        ) from None
    except (EOFError, zlib.error, zipfile.BadZipFile, tarfile.TarError, RuntimeError) as error:
        raise DataError(
            f"{prefix}cannot be unpacked: {error}; write the archive again", rule="unreadable"
        ) from None


__all__ = ["ARCHIVES", "Source", "read_text", "sources"]
