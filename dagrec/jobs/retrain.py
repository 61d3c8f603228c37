"""The job of the night: train a challenger, measure it against the live champion, publish or refuse.

Everything is found again by a fingerprint of data and configuration: an attempt that was decided is not
made twice, one that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as package_version
from typing import Any, Literal

from pydantic import Field, ValidationError

from dagrec.config import RunConfig
from dagrec.data.dataset import Dataset
from dagrec.data.examples import Example, require_examples
from dagrec.errors import ConfigError, StoreError
from dagrec.evaluation.evaluator import TestPart
from dagrec.files import replace_file
from dagrec.jobs.comparison import (
    FITTED,
    FITTED_AGAIN,
    Comparison,
    Contender,
    compare,
    hold_back,
)
from dagrec.jobs.train import (
    Advance,
    best_label,
    check_models,
    fit_bundle,
    held_out_parts,
    measure_quality,
)
from dagrec.jobs.work_folder import WorkFolder
from dagrec.models.base import Recommender
from dagrec.models.registry import create
from dagrec.recommend.check import self_check
from dagrec.store.bundle import MANIFEST, Bundle, Manifest, Quality, read_manifest
from dagrec.store.store import Store
from dagrec.training.data import Candidates, TrainingData
from dagrec.types import Options, validation_message

LAST = "retrain.json"
"""In the store: the report of the last attempt that was decided."""


class RetrainOptions(Options):
    """What decides whether a challenger is published."""

    share: float = Field(0.2, gt=0, lt=1, description="of the compositions, the newest: held back")
    margin: float = Field(0.01, ge=0, le=1, description="MRR by which a challenger may be worse")
    min_examples: int = Field(
        50, ge=1, description="examples that the live bundle must not have seen to answer as published"
    )
    max_shrink: float = Field(0.5, ge=0, le=1, description="share of compositions that may be gone")
    measure: int = Field(
        3, ge=1, description="held-out parts of the older part that choose the champion"
    )
    keep: int = Field(5, ge=2, description="versions that stay in the store")


def make_retrain_options(values: dict[str, Any]) -> RetrainOptions:
    """Options from parsed values. Raises :class:`ConfigError` naming the option."""
    try:
        return RetrainOptions.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"retrain: {validation_message(error)}") from None


class Report(Options):
    """What an attempt came to."""

    outcome: Literal["published", "refused", "would be published"]
    fingerprint: str
    at: str
    version: str | None = Field(None, description="that was published")
    instead_of: str | None = Field(None, description="that was live before")
    reasons: list[str] = Field(default_factory=list, description="why it was refused")
    comparison: Comparison | None = Field(None, description="null: refused before it")
    quality: dict[str, Quality] = Field(
        default_factory=dict, description="of each model on held-out parts; the best is the challenger"
    )
    compositions: int
    examples: int
    skipped: dict[str, int]
    removed: list[str] = Field(default_factory=list, description="versions that were pruned")
    repeated: bool = Field(False, description="the last attempt's: nothing has changed since")


@dataclass(frozen=True)
class Job:
    """What one attempt works with."""

    data: Dataset
    store: Store
    config: RunConfig
    options: RetrainOptions
    candidates: Candidates = field(default_factory=Candidates)
    advance: Advance | None = None

    def report_done(self, what: str) -> None:
        """Report that a step is over."""
        if self.advance:
            self.advance(what)


def retrain(job: Job, *, force: bool = False, dry_run: bool = False) -> Report:
    """One attempt. Where nothing has changed since the last one, its report, ``repeated``.

    Raises :class:`StoreError` where another job is at work, where nothing can be written, and where
    the live bundle changed meanwhile; :class:`DataError` and :class:`NumericalError` for data and
    trainings that come to nothing. In all of these cases what is live stays live.
    """
    check_models(job.config)
    with job.store.lock():
        fingerprint = _fingerprint(job)
        live = job.store.load() if job.store.pointer.exists() else None
        last = _last(job.store, fingerprint, live)
        if last is not None and not force and not dry_run:
            return last.model_copy(update={"repeated": True})
        report = _attempt(job, fingerprint, live, dry_run=dry_run)
        if not dry_run:
            _write(job.store, report)
            WorkFolder(job.store.root / "work").remove()
            # Those of trainings that an earlier process finished, too; the lock keeps others away.
            shutil.rmtree(job.store.root / "checkpoints", ignore_errors=True)
        return report


def _attempt(job: Job, fingerprint: str, live: Bundle | None, *, dry_run: bool) -> Report:
    # What is held back depends on what is live, and with it what was done.
    work = WorkFolder(
        job.store.root / "work" / f"{fingerprint}-{'none' if live is None else live.version}"
    )
    examples, _ = require_examples(job.data.compositions, job.config.examples)
    report = Report(
        outcome="refused",
        fingerprint=fingerprint,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        instead_of=None if live is None else live.version,
        compositions=len(job.data),
        examples=len(examples),
        skipped=dict(job.data.report.skipped),
    )
    if reasons := _shrunk(job, live):
        return report.model_copy(update={"reasons": reasons})
    quality, comparison = _compare(job, examples, live, work)
    report = report.model_copy(update={"quality": quality, "comparison": comparison})
    if reasons := _worse(job, comparison):
        return report.model_copy(update={"reasons": reasons})
    if dry_run:
        return report.model_copy(update={"outcome": "would be published"})
    version = _publish(job, examples, quality, comparison, fingerprint, live, work)
    removed = job.store.prune(job.options.keep)
    return report.model_copy(update={"outcome": "published", "version": version, "removed": removed})


def _shrunk(job: Job, live: Bundle | None) -> list[str]:
    before = 0 if live is None else int(live.manifest.data.get("compositions", 0))
    now, most = len(job.data), job.options.max_shrink
    if now >= before * (1 - most):
        return []
    return [
        f"{job.data.source}: at most {most:.0%} of the {before} compositions of the live bundle may be "
        f"gone, found {now} left; look for what is missing, or raise --max-shrink"
    ]


def _compare(
    job: Job, examples: Sequence[Example], live: Bundle | None, work: WorkFolder
) -> tuple[dict[str, Quality], Comparison]:
    """The quality of all models, and how the best of them did against the live champion."""
    config, options, candidates = job.config, job.options, job.candidates
    back = hold_back(examples, options.share, live, options.min_examples)
    split = replace(back.split, services=candidates.services or {})
    part = TestPart.of_split(split, config.mask, candidates.catalogue)
    older = part.data

    def measure(label: str) -> Quality:
        parts = held_out_parts(split.train, config, candidates, options.measure, options.share)
        return measure_quality(label, config, parts, job.advance)

    quality = {
        label: work.result(f"quality-{label}", Quality, partial(measure, label))
        for label in config.models
    }
    label = best_label(quality)
    model, _ = work.fit("older-challenger", config.recommender(label), older)
    challenger = Contender(label, FITTED, part.fitted(model, quality[label].temperature))
    model, _ = work.fit("older-popularity", create("popularity"), older)
    popularity = Contender("popularity", FITTED, part.fitted(model))
    champion = None
    if live is not None:
        champion = Contender.champion_of(live)
        if not back.unseen:
            # The same data for both sides; configuration, mask and temperature as they are live.
            published = champion.fitted
            config_live = published.recommender.config.model_dump()
            new = create(published.recommender.name, config_live, seed=published.recommender.seed)
            model, _ = work.fit("older-champion", new, older)
            refitted = replace(published, recommender=model, graph=older.graph)
            champion = Contender(champion.label, FITTED_AGAIN, refitted)
    job.report_done("comparison")
    comparison = compare(part.examples, challenger, champion, popularity, config.seed)
    return quality, comparison


def _worse(job: Job, comparison: Comparison) -> list[str]:
    """Why a challenger is refused, if it is."""
    reasons = []
    label = comparison.challenger.label
    low, high = comparison.above_popularity
    if high < 0:
        reasons.append(
            f"{label}: it must not be worse than frequencies, found it between {-high:.3f} and "
            f"{-low:.3f} of MRR below; look at the data and the configuration"
        )
    champion, difference = comparison.champion, comparison.difference
    if champion is None or difference is None or comparison.interval is None:
        return reasons
    low, high = comparison.interval
    if difference < -job.options.margin and high < 0:
        reasons.append(
            f"{label}: a challenger may be worse than the champion {champion.label} by "
            f"{job.options.margin:g} in MRR, found {-difference:.3f} ({-high:.3f} to {-low:.3f}); "
            "the live bundle stays"
        )
    return reasons


def _publish(
    job: Job,
    examples: Sequence[Example],
    quality: Mapping[str, Quality],
    comparison: Comparison,
    fingerprint: str,
    live: Bundle | None,
    work: WorkFolder,
) -> str:
    def fit(label: str, new: Recommender, training: TrainingData) -> tuple[Recommender, float]:
        model, seconds = work.fit(f"all-{label}", new, training)
        job.report_done(label)
        return model, seconds

    about = {
        "retrain": job.options.model_dump(mode="json") | {"fingerprint": fingerprint},
        "comparison": comparison.model_dump(mode="json"),
    }
    bundle = fit_bundle(job.data, examples, job.config, job.candidates, quality, fit=fit, about=about)
    instead_of = None if live is None else live.version
    return job.store.publish(bundle, check=self_check, instead_of=instead_of)


def _fingerprint(job: Job) -> str:
    """A hash of everything that decides an attempt, but for what is live."""
    decides: dict[str, Any] = {
        "data": job.data.fingerprint,
        "config": job.config.model_dump(mode="json"),
        "models": {
            label: job.config.recommender(label).config.model_dump(mode="json")
            for label in job.config.models
        },
        "options": job.options.model_dump(mode="json"),
        "catalogue": job.candidates.catalogue,
        "services": job.candidates.services,
        "dagrec": package_version("dagrec"),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def _last(store: Store, fingerprint: str, live: Bundle | None) -> Report | None:
    """The report of the last attempt, if that was this one."""
    try:
        report = Report.model_validate_json((store.root / LAST).read_bytes())
    except (OSError, ValidationError):
        report = None
    if report is not None and report.fingerprint == fingerprint:
        return report
    # A job that was killed between publishing and reporting has published all the same, and somebody
    # may have rolled back since.
    manifest = _published(store, fingerprint)
    if manifest is None or live is None:
        return None
    if _never_live(store, manifest.version):
        store.rollback(manifest.version, check=self_check)
    data = manifest.data
    report = Report(
        outcome="published",
        fingerprint=fingerprint,
        at=manifest.created,
        version=manifest.version,
        comparison=Comparison.model_validate(manifest.config["comparison"]),
        compositions=data["compositions"],
        examples=data["examples"],
        skipped=data["skipped"],
    )
    _write(store, report)
    return report


def _published(store: Store, fingerprint: str) -> Manifest | None:
    """The newest bundle that an attempt of this fingerprint has published, if one has."""
    for version in reversed(store.versions()):
        with suppress(StoreError):
            manifest = read_manifest(store.bundles / version)
            if manifest.config.get("retrain", {}).get("fingerprint") == fingerprint:
                return manifest
    return None


def _never_live(store: Store, version: str) -> bool:
    """Whether the job was killed after the bundle had its name, and before the pointer named it."""
    written = (store.bundles / version / MANIFEST).stat().st_mtime
    return store.current() != version and store.pointer.stat().st_mtime < written


def _write(store: Store, report: Report) -> None:
    try:
        replace_file(store.root / LAST, report.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise StoreError(
            f"{store.root / LAST}: cannot be written: {error.strerror}; check space and permissions"
        ) from error
