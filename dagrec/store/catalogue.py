"""The store: published bundles side by side, and one pointer to the live one.

    STORE/bundles/<version>/    whole bundles
    STORE/current               a text file with the live version, replaced in one step
    STORE/lock                  held by the one job that trains for this store
    STORE/current.lock          held for the moment in which the pointer moves, or versions are removed

A bundle is written under a name that starts with a dot, its manifest last; then the folder is renamed
and the pointer replaced. Whatever moment it stops at, the pointer names a whole bundle.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

from pydantic import Field
from safetensors import SafetensorError

from dagrec.data.vocabulary import Vocabulary
from dagrec.errors import StoreError
from dagrec.graph.evidence import Evidence
from dagrec.graph.service_graph import ServiceGraph
from dagrec.models.base import Recommender
from dagrec.store.bundle import (
    FORMAT,
    MANIFEST,
    Bundle,
    Manifest,
    ModelEntry,
    load_bundle,
    read_manifest,
    write_parts,
)
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
        *,
        vocabulary: Vocabulary,
        graph: ServiceGraph,
        evidence: Evidence,
        models: Mapping[str, Recommender],
        entries: Mapping[str, ModelEntry],
        champion: str,
        data: dict[str, Any],
        config: dict[str, Any],
        check: Callable[[Bundle], None] | None = None,
        instead_of: str | None = None,
    ) -> str:
        """Write a bundle, see that it loads, and make it the live one. Returns its version.

        ``check`` is asked about it before, as it was read back. ``instead_of``: the version that must
        be live until then; raises :class:`StoreError` where another one is.
        """
        created = datetime.now(UTC)
        version = f"{created:%Y%m%dT%H%M%S%f}-{graph.fingerprint[:8]}"
        try:
            self.bundles.mkdir(parents=True, exist_ok=True)
            self._remove_abandoned()
            draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.bundles))
            try:
                manifest = Manifest(
                    format=FORMAT,
                    version=version,
                    created=created.isoformat(timespec="seconds"),
                    dagrec=package_version("dagrec"),
                    data=data,
                    vocabulary=vocabulary.fingerprint,
                    graph=graph.fingerprint,
                    config=config,
                    champion=champion,
                    models=dict(entries),
                    files=write_parts(draft, vocabulary, graph, evidence, models),
                )
                text = manifest.model_dump_json(indent=1) + "\n"
                (draft / MANIFEST).write_text(text, encoding="utf-8")
                bundle = load_bundle(draft)
                if check:
                    check(bundle)
                draft.chmod(0o755)
                _sync(draft)
                with self._pointing():
                    if instead_of is not None and self.current() != instead_of:
                        raise StoreError(
                            f"{self.root}: {instead_of} was live when this began, found "
                            f"{self.current()} now, and leaves that live; start again"
                        )
                    self._make_live(draft, version)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        except (OSError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise StoreError(
                f"{self.root}: a bundle cannot be written there: {why}; "
                "check space and permissions; the live bundle is unchanged"
            ) from error
        return version

    def _make_live(self, draft: Path, version: str) -> None:
        """Give a draft its name, and point to it; where the one cannot be, the other is not left."""
        folder = self.bundles / version
        draft.rename(folder)
        try:
            _sync(self.bundles)
            replace_text(self.pointer, version + "\n")
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
            with self._pointing():
                if version not in self.versions():
                    raise StoreError(f"{self.bundles / version}: was removed meanwhile; choose another")
                replace_text(self.pointer, version + "\n")
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
            with nullcontext() if dry_run else self._pointing():
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

    @contextmanager
    def _pointing(self) -> Iterator[None]:
        """Nobody else moves the pointer, or removes what it could point to; waits for a moment."""
        with (self.root / "current.lock").open("a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only job of this store; what ends the process, however, ends the lock as well.

        Raises :class:`StoreError` that says who holds it.
        """
        path = self.root / "lock"
        now = datetime.now(UTC).isoformat(timespec="seconds")
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _no_lock(path, error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.truncate(handle, 0)
            os.write(handle, f"process {os.getpid()} since {now}\n".encode())
        except BlockingIOError:
            holder = os.read(handle, 1000).decode(errors="replace").strip()
            os.close(handle)
            raise StoreError(
                f"{self.root}: one job at a time may train for a store, found {holder or 'another'} at "
                "it; wait until it is done"
            ) from None
        except OSError as error:
            os.close(handle)
            raise _no_lock(path, error) from error
        try:
            yield
        finally:
            os.close(handle)

    def _remove_abandoned(self) -> None:
        """Drafts that a killed publisher left behind; one that is being written is younger."""
        for draft in self.bundles.glob(f"{DRAFT}*"):
            if time.time() - draft.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(draft, ignore_errors=True)


def _no_lock(path: Path, error: OSError) -> StoreError:
    return StoreError(
        f"{path}: the lock cannot be written: {error.strerror}; check space and permissions"
    )


def replace_text(path: Path, text: str) -> None:
    """Put a text in place of a file in one step that a crash cannot divide."""
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Force a folder, and the files below it that a draft may hold, onto the disk."""
    paths = [folder, *folder.rglob("*")] if folder.name.startswith(DRAFT) else [folder]
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
