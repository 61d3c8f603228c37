"""The report of a retraining attempt, and its recovery after a crash."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from pydantic import Field, ValidationError

from dagrec.errors import StoreError
from dagrec.jobs.comparison import Comparison
from dagrec.output.files import replace_file
from dagrec.recommend.check import self_check
from dagrec.store.bundle import MANIFEST, Bundle, Manifest, Quality, read_manifest
from dagrec.store.store import Store
from dagrec.types import Options

REPORT_FILE = "retrain.json"
"""In the store: the report of the last finished attempt."""


class Report(Options):
    """The result of an attempt."""

    status: Literal["published", "refused", "would be published"]
    fingerprint: str
    at: str
    version: str | None = Field(None, description="the published version")
    instead_of: str | None = Field(None, description="the version that was live before")
    reasons: list[str] = Field(default_factory=list, description="why the challenger was refused")
    comparison: Comparison | None = Field(None, description="null if refused without a comparison")
    quality: dict[str, Quality] = Field(
        default_factory=dict, description="quality of each model; the best one is the challenger"
    )
    compositions: int
    examples: int
    skipped: dict[str, int]
    removed: list[str] = Field(default_factory=list, description="versions that were pruned")
    repeated: bool = Field(False, description="nothing has changed since this attempt")


def write_report(store: Store, report: Report) -> None:
    """Write the report of a finished attempt. Raises :class:`StoreError`."""
    file = store.root / REPORT_FILE
    try:
        replace_file(file, report.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise StoreError(
            f"{file}: cannot be written: {error.strerror}; check space and permissions"
        ) from error


def last_report(store: Store, fingerprint: str) -> Report | None:
    """The report of the last attempt, if it has this fingerprint."""
    try:
        report = Report.model_validate_json((store.root / REPORT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return report if report.fingerprint == fingerprint else None


def recover_report(store: Store, fingerprint: str, live: Bundle | None) -> Report | None:
    """The report of an attempt that was killed after it had published, before it wrote its report.

    If the attempt was killed before its bundle went live, the bundle is made live now.
    """
    manifest = _published_by(store, fingerprint)
    if manifest is None or live is None:
        return None
    if not _was_live(store, manifest.version):
        store.rollback(manifest.version, check=self_check)
    report = Report(
        status="published",
        fingerprint=fingerprint,
        at=manifest.created,
        version=manifest.version,
        comparison=Comparison.model_validate(manifest.config["comparison"]),
        compositions=manifest.data["compositions"],
        examples=manifest.data["examples"],
        skipped=manifest.data["skipped"],
    )
    write_report(store, report)
    return report


def _published_by(store: Store, fingerprint: str) -> Manifest | None:
    """The newest bundle that was published by an attempt with this fingerprint."""
    for version in reversed(store.versions()):
        with suppress(StoreError):
            manifest = read_manifest(store.bundles / version)
            if manifest.config.get("retrain", {}).get("fingerprint") == fingerprint:
                return manifest
    return None


def _was_live(store: Store, version: str) -> bool:
    """Whether the pointer was replaced after the bundle was written, perhaps by a rollback since."""
    written = (store.bundles / version / MANIFEST).stat().st_mtime
    return store.current() == version or store.pointer.stat().st_mtime >= written
