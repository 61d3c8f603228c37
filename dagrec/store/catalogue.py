"""The store: published bundles side by side, and one pointer to the live one.

    STORE/bundles/<version>/    whole bundles
    STORE/current               a text file with the live version, replaced in one step

A bundle is written under a name that starts with a dot, its manifest last; then the folder is renamed
and the pointer replaced. Whatever moment it stops at, the pointer names a whole bundle.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

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
    write_parts,
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
    ) -> str:
        """Write a bundle, check that it loads, and make it the live one. Returns its version."""
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
                load_bundle(draft)
                draft.chmod(0o755)
                _sync(draft)
                draft.rename(self.bundles / version)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            _sync(self.bundles)
            replace_text(self.pointer, version + "\n")
        except (OSError, SafetensorError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise StoreError(
                f"{self.root}: a bundle cannot be written there: {why}; "
                "check space and permissions; the live bundle is unchanged"
            ) from error
        return version

    def _remove_abandoned(self) -> None:
        """Drafts that a killed publisher left behind; one that is being written is younger."""
        for draft in self.bundles.glob(f"{DRAFT}*"):
            if time.time() - draft.stat().st_mtime > ABANDONED_AFTER:
                shutil.rmtree(draft, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Put a text in place of a file in one step that a crash cannot divide."""
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
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
