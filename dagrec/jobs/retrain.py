"""Retrain: train a challenger, compare it with the live champion, and publish or refuse it.

Attempts are identified by a fingerprint of data and configuration: a finished attempt is not repeated,
and an interrupted one is resumed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as package_version
from typing import Any

from pydantic import Field, ValidationError

from dagrec.data.dataset import Dataset
from dagrec.data.examples import Example
from dagrec.errors import ConfigError
from dagrec.evaluation.evaluator import TestPart
from dagrec.jobs.comparison import (
    FITTED,
    FITTED_AGAIN,
    Comparison,
    Contender,
    compare,
    hold_back,
)
from dagrec.jobs.config import RunConfig
from dagrec.jobs.retrain_report import Report, last_report, recover_report, write_report
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
from dagrec.store.bundle import Bundle, Quality
from dagrec.store.store import Store
from dagrec.training.data import Candidates, TrainingData
from dagrec.types import Options, validation_message


class RetrainOptions(Options):
    """The rules by which a challenger is published."""

    share: float = Field(
        0.2, gt=0, lt=1, description="fraction of the compositions, the newest, to hold back"
    )
    margin: float = Field(
        0.01, ge=0, le=1, description="MRR that a challenger may lose against the champion"
    )
    min_examples: int = Field(
        50,
        ge=1,
        description="minimum number of examples unknown to the live bundle for which it is compared as "
        "published",
    )
    max_shrink: float = Field(
        0.5,
        ge=0,
        le=1,
        description="maximum fraction of the live bundle's compositions that may be missing",
    )
    measure: int = Field(
        3, ge=1, description="number of held-out parts of the older part, to choose the challenger"
    )
    keep: int = Field(5, ge=2, description="number of versions to keep in the store")


def make_retrain_options(**values: Any) -> RetrainOptions:
    """Options from values; None stands for the default. Raises :class:`ConfigError`."""
    try:
        return RetrainOptions.model_validate({k: v for k, v in values.items() if v is not None})
    except ValidationError as error:
        raise ConfigError(f"retrain: {validation_message(error)}") from None


@dataclass(frozen=True)
class Job:
    """The inputs of an attempt."""

    data: Dataset
    store: Store
    config: RunConfig
    options: RetrainOptions
    candidates: Candidates = field(default_factory=Candidates)
    advance: Advance | None = None

    def report_done(self, step: str) -> None:
        """Report a finished step to the caller."""
        if self.advance:
            self.advance(step)


def retrain(job: Job, *, force: bool = False, dry_run: bool = False) -> Report:
    """Make an attempt, unless nothing has changed since the last one.

    Raises :class:`StoreError` if another job trains for the store, if files cannot be written, or if
    another bundle went live meanwhile, and :class:`DataError` or :class:`NumericalError` for data and
    training that fail. The live bundle stays live in all of these cases.
    """
    check_models(job.config)
    with job.store.lock():
        fingerprint = _fingerprint(job)
        live = job.store.load() if job.store.pointer.exists() else None
        last = last_report(job.store, fingerprint) or recover_report(job.store, fingerprint, live)
        if last is not None and not force and not dry_run:
            return last.model_copy(update={"repeated": True})
        report = _attempt(job, fingerprint, live, dry_run=dry_run)
        if not dry_run:
            write_report(job.store, report)
            WorkFolder(job.store.root / "work").remove()
            # Checkpoints of killed processes, too; the lock keeps other jobs from using them.
            shutil.rmtree(job.store.root / "checkpoints", ignore_errors=True)
        return report


def _fingerprint(job: Job) -> str:
    """A hash of everything that determines an attempt, except for the live bundle."""
    inputs: dict[str, Any] = {
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
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _attempt(job: Job, fingerprint: str, live: Bundle | None, *, dry_run: bool) -> Report:
    live_version = None if live is None else live.version
    # The held-back compositions depend on the live bundle, so finished steps do, too.
    work = WorkFolder(job.store.root / "work" / f"{fingerprint}-{live_version or 'none'}")
    examples, extracted = job.data.examples(job.config.examples)
    report = Report(
        status="refused",
        fingerprint=fingerprint,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        instead_of=live_version,
        compositions=len(job.data),
        examples=len(examples),
        skipped=dict(job.data.report.skipped),
    )
    if reasons := _check_size(job, live):
        return report.model_copy(update={"reasons": reasons})
    quality, comparison = _compare(job, examples, live, work)
    report = report.model_copy(update={"quality": quality, "comparison": comparison})
    if reasons := _check_quality(job, comparison):
        return report.model_copy(update={"reasons": reasons})
    if dry_run:
        return report.model_copy(update={"status": "would be published"})
    data = job.data.about(extracted)
    version = _publish(job, data, examples, quality, comparison, fingerprint, live_version, work)
    removed = job.store.prune(job.options.keep)
    return report.model_copy(update={"status": "published", "version": version, "removed": removed})


def _check_size(job: Job, live: Bundle | None) -> list[str]:
    """The reasons to refuse the data because of their size."""
    before = 0 if live is None else int(live.manifest.data.get("compositions", 0))
    now, max_shrink = len(job.data), job.options.max_shrink
    if now >= before * (1 - max_shrink):
        return []
    return [
        f"{job.data.source}: at most {max_shrink:.0%} of the {before} compositions of the live bundle "
        f"may be missing, found {now} compositions; look for the missing ones, or raise --max-shrink"
    ]


def _compare(
    job: Job, examples: Sequence[Example], live: Bundle | None, work: WorkFolder
) -> tuple[dict[str, Quality], Comparison]:
    """Measure all models on the older part, and compare the best one with the live champion."""
    config, options, candidates = job.config, job.options, job.candidates
    held_back = hold_back(examples, options.share, live, options.min_examples)
    split = replace(held_back.split, services=candidates.services or {})
    part = TestPart.of_split(split, config.mask, candidates.catalogue)

    def measure(label: str) -> Quality:
        parts = held_out_parts(split.train, config, candidates, options.measure, options.share)
        return measure_quality(label, config, parts, job.advance)

    def fit(name: str, new: Recommender) -> Recommender:
        recommender, _ = work.fit(f"older-{name}", new, part.data)
        return recommender

    quality = {
        label: work.result(f"quality-{label}", Quality, partial(measure, label))
        for label in config.models
    }
    label = best_label(quality)
    recommender = fit("challenger", config.recommender(label))
    challenger = Contender(label, FITTED, part.fitted(recommender, quality[label].temperature))
    popularity = Contender("popularity", FITTED, part.fitted(fit("popularity", create("popularity"))))
    champion = None
    if live is not None:
        champion = Contender.champion_of(live)
        if not held_back.unseen:
            # Only the training data change: configuration, mask and temperature are the published ones.
            published = champion.fitted
            old = published.recommender
            new = create(old.name, old.config.model_dump(), seed=old.seed)
            refitted = replace(published, recommender=fit("champion", new), graph=part.data.graph)
            champion = Contender(champion.label, FITTED_AGAIN, refitted)
    job.report_done("comparison")
    return quality, compare(part.examples, challenger, champion, popularity, config.seed)


def _check_quality(job: Job, comparison: Comparison) -> list[str]:
    """The reasons to refuse the challenger because of its metrics."""
    reasons = []
    label = comparison.challenger.label
    low, high = comparison.above_popularity
    if high < 0:
        reasons.append(
            f"{label}: must not be worse than popularity, found an MRR between {-high:.3f} and "
            f"{-low:.3f} below; check the data and the configuration"
        )
    champion, difference = comparison.champion, comparison.difference
    if champion is None or difference is None or comparison.interval is None:
        return reasons
    low, high = comparison.interval
    if difference < -job.options.margin and high < 0:
        reasons.append(
            f"{label}: the MRR may be at most {job.options.margin:g} below that of the champion "
            f"{champion.label}, found {-difference:.3f} ({-high:.3f} to {-low:.3f}); the live bundle "
            "stays live"
        )
    return reasons


def _publish(
    job: Job,
    data: Mapping[str, Any],
    examples: Sequence[Example],
    quality: Mapping[str, Quality],
    comparison: Comparison,
    fingerprint: str,
    live_version: str | None,
    work: WorkFolder,
) -> str:
    """Fit all models on all data, which ``data`` describes, and publish them. Returns the version."""

    def fit(label: str, new: Recommender, training: TrainingData) -> tuple[Recommender, float]:
        recommender, seconds = work.fit(f"all-{label}", new, training)
        job.report_done(label)
        return recommender, seconds

    about = {
        "retrain": job.options.model_dump(mode="json") | {"fingerprint": fingerprint},
        "comparison": comparison.model_dump(mode="json"),
    }
    bundle = fit_bundle(data, examples, job.config, job.candidates, quality, fit=fit, about=about)
    return job.store.publish(bundle, check=self_check, expected_live=live_version)
