"""The store: a folder of published bundles, and a pointer to the live one.

    STORE/bundles/<version>/    published bundles
    STORE/current               pointer: a text file with the live version, replaced atomically
    STORE/lock                  lock of the one job that trains for this store
    STORE/lock.holder           process that holds this lock
    STORE/current.lock          lock while the pointer is replaced or versions are removed

A bundle is written to a hidden folder, its manifest last; then the folder is renamed and the pointer is
replaced. The pointer names a complete bundle at any time, even after a crash.
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
from dagrec.output.files import replace_file, sync
from dagrec.store.bundle import MANIFEST, Bundle, load_bundle, read_manifest, write_bundle
from dagrec.types import Options


class BundleInfo(Options):
    """A published bundle in a list.

    broken: why the bundle cannot be read; metrics: of the champion; fingerprint: of the data.
    """

    version: str
    live: bool
    broken: str | None = None
    created: str = ""
    champion: str = ""
    metrics: dict[str, float] = Field(default_factory=dict)
    models: list[str] = Field(default_factory=list)
    compositions: int = 0
    fingerprint: str = ""
    bytes: int = 0

    @classmethod
    def of(cls, folder: Path, *, live: bool) -> BundleInfo:
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


DRAFT_PREFIX = ".draft-"
MAX_DRAFT_AGE = 86_400
"""Seconds after which a draft is removed, because its process must have been killed."""


class Store:
    """A folder of published bundles."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bundles = root / "bundles"
        self.pointer = root / "current"

    def versions(self) -> list[str]:
        """The published versions, the oldest first."""
        if not self.bundles.is_dir():
            return []
        return sorted(p.name for p in self.bundles.iterdir() if not p.name.startswith("."))

    def list_bundles(self) -> list[BundleInfo]:
        """The published bundles, the oldest first, including broken ones."""
        try:
            live = self.current()
        except StoreError:
            live = ""
        return [BundleInfo.of(self.bundles / v, live=v == live) for v in self.versions()]

    def current(self) -> str:
        """The live version. Raises :class:`StoreError` if there is none."""
        try:
            version = self.pointer.read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            raise StoreError(
                f"{self.root}: a store must contain a published bundle, found none; "
                f"run `dagrec train DATA --store {self.root}`"
            ) from None
        if version not in self.versions():
            raise StoreError(
                f"{self.pointer}: must name one of the bundles {self.versions()}, found {version!r}"
            )
        return version

    def load(self, version: str | None = None) -> Bundle:
        """Load a bundle, by default the live one."""
        return load_bundle(self.bundles / (version or self.current()))

    def publish(
        self,
        bundle: Bundle,
        *,
        check: Callable[[Bundle], None] | None = None,
        expected_live: str | None = None,
    ) -> str:
        """Write a bundle under a new version, load it again, and make it live. Returns the version.

        ``check`` is called with the loaded bundle. Raises :class:`StoreError` if the bundle cannot be
        written, or if a version other than ``expected_live`` is live by then.
        """
        bundle = bundle.with_new_version()
        try:
            self.bundles.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            draft = Path(tempfile.mkdtemp(prefix=DRAFT_PREFIX, dir=self.bundles))
            try:
                write_bundle(draft, bundle)
                written = load_bundle(draft)
                if check:
                    check(written)
                draft.chmod(0o755)
                for path in (*draft.rglob("*"), draft):
                    sync(path)
                with self._pointer_lock():
                    if expected_live is not None and self.current() != expected_live:
                        raise StoreError(
                            f"{self.root}: {expected_live} must still be live, found {self.current()}, "
                            "which stays live; start again"
                        )
                    self._make_live(draft, bundle.version)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        except (OSError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise StoreError(
                f"{self.root}: a bundle cannot be written: {reason}; "
                "check space and permissions; the live bundle is unchanged"
            ) from error
        return bundle.version

    def _make_live(self, draft: Path, version: str) -> None:
        """Rename a draft to its version, and replace the pointer; undo the renaming if that fails."""
        folder = self.bundles / version
        draft.rename(folder)
        try:
            sync(self.bundles)
            replace_file(self.pointer, version + "\n")
        except OSError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def rollback(self, to: str | None = None, *, check: Callable[[Bundle], None] | None = None) -> str:
        """Make another version live, by default the one before the live version. Returns the version.

        The bundle is loaded first, and passed to ``check``. Raises :class:`StoreError` if the version
        does not exist or the bundle is broken.
        """
        try:
            live = self.current()
        except StoreError:
            live = ""  # a rollback also repairs a broken pointer
        earlier = [version for version in self.versions() if not live or version < live]
        if to is None and not earlier:
            raise StoreError(
                f"{self.root}: a rollback needs a version before {live or 'the live one'}, found none"
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
                    raise StoreError(
                        f"{self.bundles / version}: was removed meanwhile; choose another version"
                    )
                replace_file(self.pointer, version + "\n")
        except OSError as error:
            raise StoreError(
                f"{self.pointer}: cannot be written: {error.strerror}; {live} is still live"
            ) from error
        return version

    def prune(self, keep: int, *, dry_run: bool = False) -> list[str]:
        """Remove the oldest versions until ``keep`` are left. Returns the removed versions.

        The live version and the one before it, to which a rollback would return, are never removed.
        """
        try:
            with nullcontext() if dry_run else self._pointer_lock():
                live, versions = self.current(), self.versions()
                required = {live, *[version for version in versions if version < live][-1:]}
                removable = [version for version in versions if version not in required]
                removed = removable[: max(0, len(versions) - keep)]
                for version in () if dry_run else removed:
                    # Renamed first, so that an incomplete bundle is never listed.
                    hidden = (self.bundles / version).rename(self.bundles / f"{DRAFT_PREFIX}{version}")
                    shutil.rmtree(hidden, ignore_errors=True)
        except OSError as error:
            raise StoreError(f"{self.bundles}: cannot be pruned: {error.strerror}") from error
        return removed

    def _pointer_lock(self) -> FileLock:
        """The lock for replacing the pointer and removing versions; waits until it is free."""
        return FileLock(self.root / "current.lock")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock of the one job that may train for this store. It ends with the process.

        Raises :class:`StoreError`, which names the holder, if the lock is held.
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
                f"{self.root}: only one job at a time may train for a store, found "
                f"{_read_holder(holder)}; wait until it has finished"
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
        """Remove the drafts of killed processes; drafts that are being written are younger."""
        for draft in self.bundles.glob(f"{DRAFT_PREFIX}*"):
            if time.time() - draft.stat().st_mtime > MAX_DRAFT_AGE:
                shutil.rmtree(draft, ignore_errors=True)


def _read_holder(path: Path) -> str:
    """The process that holds the lock, as its file says."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")[:1000].strip()
    except OSError:
        text = ""
    return text or "another process"


def open_bundle(path: Path, version: str | None = None) -> Bundle:
    """Load a bundle from a store, by default the live one, or from the folder of a single bundle.

    Raises :class:`StoreError` for a path that is neither, or cannot be read.
    """
    try:
        if (path / MANIFEST).is_file():
            if version is not None:
                raise StoreError(
                    f"{path}: a version needs a store, found a single bundle; omit the version"
                )
            return load_bundle(path)
        return Store(path).load(version)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read: {error.strerror}; check the path and its permissions"
        ) from error
