"""The store: published bundles side by side, and one pointer to the live one.

    STORE/bundles/<version>/    whole bundles
    STORE/current               a text file with the live version, replaced in one step
    STORE/lock                  held by the one job that trains for this store
    STORE/lock.holder           says which process that is
    STORE/current.lock          held for the moment in which the pointer moves, or versions are removed

A bundle is written under a name that starts with a dot, its manifest last; then the folder is renamed
and the pointer replaced. Whatever moment it stops at, the pointer names a whole bundle.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import Field
from safetensors import SafetensorError

from dagrec.errors import StoreError
from dagrec.files import replace_file, sync
from dagrec.store.bundle import MANIFEST, Bundle, load_bundle, read_manifest, write_bundle
from dagrec.types import Options


class BundleAbout(Options):
    """One published bundle, as it is listed."""

    version: str
    live: bool
    broken: str | None = None
    created: str = ""
    champion: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Of the champion."""
    models: list[str] = Field(default_factory=list)
    compositions: int = 0
    fingerprint: str = ""
    """Of the data."""
    bytes: int = 0

    @classmethod
    def of(cls, folder: Path, *, live: bool) -> BundleAbout:
        try:
            manifest = read_manifest(folder)
        except StoreError as error:
            return cls(version=folder.name, live=live, broken=str(error))
        return cls(
            version=folder.name,
            live=live,
            created=manifest.created,
            champion=manifest.champion,
            metrics=manifest.models[manifest.champion].metrics,
            models=list(manifest.models),
            compositions=manifest.data.get("compositions", 0),
            fingerprint=str(manifest.data.get("fingerprint", "")),
            bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        )


DRAFT = ".draft-"
ABANDONED_AFTER = 86_400
"""Seconds."""


class Store:
    """A folder of published bundles."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bundles = root / "bundles"
        self.pointer = root / "current"

    def versions(self) -> list[str]:
        """All published versions, the oldest first."""
        if not self.bundles.is_dir():
            return []
        return sorted(p.name for p in self.bundles.iterdir() if not p.name.startswith("."))

    def listing(self) -> list[BundleAbout]:
        """What is known of each version, the oldest first; broken ones say why."""
        try:
            live = self.current()
        except StoreError:
            live = ""
        return [BundleAbout.of(self.bundles / v, live=v == live) for v in self.versions()]

    def current(self) -> str:
        """The live version. Raises :class:`StoreError` when nothing was published."""
        try:
            version = self.pointer.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            raise StoreError(
                f"{self.root}: a store must hold a published bundle, found none; "
                f"run `dagrec train DATA --store {self.root}`"
            ) from None
        if version not in self.versions():
            raise StoreError(
                f"{self.pointer}: must name one of the bundles {self.versions()}, found {version!r}"
            )
        return version

    def load(self, version: str | None = None) -> Bundle:
        """A bundle in memory, the live one unless a version is named."""
        return load_bundle(self.bundles / (version or self.current()))

    def publish(
        self,
        bundle: Bundle,
        *,
        check: Callable[[Bundle], None] | None = None,
        instead_of: str | None = None,
    ) -> str:
        """Write a bundle under a new version, load it again, and make it live. Returns the version.

        ``check`` is called with the bundle as it was read back. ``instead_of``: the version that must
        be live until then; raises :class:`StoreError` where another one is.
        """
        bundle = bundle.stamped()
        try:
            self.bundles.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.bundles))
            try:
                write_bundle(draft, bundle)
                written = load_bundle(draft)
                if check:
                    check(written)
                draft.chmod(0o755)
                for path in (*draft.rglob("*"), draft):
                    sync(path)
                with self._pointer_lock():
                    if instead_of is not None and self.current() != instead_of:
                        raise StoreError(
                            f"{self.root}: {instead_of} was live when this began, found "
                            f"{self.current()} now, and leaves that live; start again"
                        )
                    self._make_live(draft, bundle.version)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        except (OSError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise StoreError(
                f"{self.root}: a bundle cannot be written there: {why}; "
                "check space and permissions; the live bundle is unchanged"
            ) from error
        return bundle.version

    def _make_live(self, draft: Path, version: str) -> None:
        """Give a draft its name, and point to it; where the one cannot be, the other is not left."""
        folder = self.bundles / version
        draft.rename(folder)
        try:
            sync(self.bundles)
            replace_file(self.pointer, version + "\n")
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def rollback(self, to: str | None = None, *, check: Callable[[Bundle], None] | None = None) -> str:
        """Make another version live: the one published before the live one where none is named.

        It is loaded whole before, and ``check`` asked about it. Raises :class:`StoreError` where it is
        none, or broken.
        """
        try:
            live = self.current()
        except StoreError:
            live = ""  # a broken pointer must not keep anybody from mending it
        earlier = [version for version in self.versions() if not live or version < live]
        if to is None and not earlier:
            raise StoreError(
                f"{self.root}: rolling back needs a version before {live or 'the live one'}, found none"
            )
        version = earlier[-1] if to is None else to
        if version not in self.versions():
            raise StoreError(
                f"{self.root}: a version must be one of {self.versions()}, found {version!r}; "
                "see `dagrec bundles`"
            )
        bundle = self.load(version)
        if check:
            check(bundle)
        try:
            with self._pointer_lock():
                if version not in self.versions():
                    raise StoreError(f"{self.bundles / version}: was removed meanwhile; choose another")
                replace_file(self.pointer, version + "\n")
        except OSError as error:
            raise StoreError(
                f"{self.pointer}: cannot be written: {error.strerror}; {live} is still live"
            ) from error
        return version

    def prune(self, keep: int, *, dry_run: bool = False) -> list[str]:
        """Remove the oldest versions until ``keep`` are left; returns those removed.

        The live one, and the one to which a rollback would go, are always kept.
        """
        try:
            with nullcontext() if dry_run else self._pointer_lock():
                live, versions = self.current(), self.versions()
                needed = {live, *[version for version in versions if version < live][-1:]}
                free = [version for version in versions if version not in needed]
                removed = free[: max(0, len(versions) - keep)]
                for version in () if dry_run else removed:
                    # Renamed first, so that no half of a bundle is ever listed.
                    gone = (self.bundles / version).rename(self.bundles / f"{DRAFT}{version}")
                    shutil.rmtree(gone, ignore_errors=True)
        except OSError as error:
            raise StoreError(f"{self.bundles}: cannot be pruned: {error.strerror}") from error
        return removed

    def _pointer_lock(self) -> FileLock:
        """Held while the pointer moves, or what it could point to is removed; waits for a moment."""
        return FileLock(self.root / "current.lock")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only job of this store; whatever ends the process ends the lock as well.

        Raises :class:`StoreError` that says who holds it.
        """
        path, holder = self.root / "lock", self.root / "lock.holder"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        lock = FileLock(path)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock.acquire(blocking=False)
            holder.write_text(f"process {os.getpid()} since {now}\n", encoding="utf-8")
        except Timeout:
            raise StoreError(
                f"{self.root}: one job at a time may train for a store, found {_read_holder(holder)} "
                "at it; wait until it is done"
            ) from None
        except OSError as error:
            lock.release()
            raise StoreError(
                f"{path}: the lock cannot be written: {error.strerror}; check space and permissions"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _remove_abandoned(self) -> None:
        """Drafts that a killed publisher left behind; one that is being written is younger."""
        for draft in self.bundles.glob(f"{DRAFT}*"):
            if time.time() - draft.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(draft, ignore_errors=True)


def _read_holder(path: Path) -> str:
    """Who holds the lock, as far as its file tells."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:1000].strip() or "another"
    except OSError:
        return "another"


def open_bundle(path: Path, version: str | None = None) -> Bundle:
    """A bundle in memory: of a store (the live one, or a version), or of a folder that is one itself.

    Raises :class:`StoreError` for a path that is neither.
    """
    if (path / MANIFEST).is_file():
        if version is not None:
            raise StoreError(f"{path}: versions are of a store, found a single bundle; leave it out")
        return load_bundle(path)
    return Store(path).load(version)
