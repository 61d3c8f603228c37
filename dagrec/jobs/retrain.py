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
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from dagrec.check import self_check
from dagrec.config import RunConfig
from dagrec.data.examples import Example, need_examples
from dagrec.data.formats import Dataset, read
from dagrec.errors import ConfigError, StoreError
from dagrec.evaluation.evaluator import prepare
from dagrec.graph.evidence import Evidence
from dagrec.jobs.contest import FITTED, FITTED_AGAIN, Contest, Contestant, contest, hold_back
from dagrec.jobs.experiment import about_data
from dagrec.jobs.train import (
    Advance,
    Found,
    champion_of,
    entries_of,
    held_out_parts,
    measured,
)
from dagrec.jobs.work import Work
from dagrec.models.base import Recommender, Trainer
from dagrec.models.registry import create, explain
from dagrec.models.training_data import TrainingData
from dagrec.store.bundle import MANIFEST, Bundle, Manifest, check_labels, read_manifest
from dagrec.store.catalogue import Store, replace_text
from dagrec.types import Options

LAST = "retrain.json"
"""In the store: the report of the last attempt that was decided."""


class RetrainOptions(Options):
    """What decides whether a challenger is published."""

    share: float = Field(0.2, gt=0, lt=1, description="of the compositions, the newest: held back")
    margin: float = Field(0.01, ge=0, le=1, description="MRR by which a challenger may be worse")
    least: int = Field(
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
        raise ConfigError(f"retrain: {explain(error)}") from None


class Report(Options):
    """What an attempt came to."""

    outcome: Literal["published", "refused", "would be published"]
    fingerprint: str
    at: str
    version: str | None = Field(None, description="that was published")
    instead_of: str | None = Field(None, description="that was live before")
    reasons: list[str] = Field(default_factory=list, description="why it was refused")
    contest: Contest | None = Field(None, description="null: refused before it")
    champions: dict[str, Found] = Field(default_factory=dict, description="by which one was chosen")
    compositions: int
    examples: int
    skipped: dict[str, int]
    removed: list[str] = Field(default_factory=list, description="versions that were pruned")
    repeated: bool = Field(False, description="the last attempt's: nothing has changed since")


@dataclass(frozen=True)
class Job:
    """What one attempt works with."""

    data: Path
    store: Store
    config: RunConfig
    options: RetrainOptions
    trainer: Trainer | None
    catalogue: Sequence[tuple[str, str]] | None = None
    services: Mapping[str, str] | None = None
    advance: Advance | None = None

    def done(self, what: str) -> None:
        """Tell that a step is over."""
        if self.advance:
            self.advance(what)

    def training(self, examples: Sequence[Example]) -> TrainingData:
        return TrainingData.of(examples, catalogue=self.catalogue, services=self.services)


def retrain(job: Job, *, force: bool = False, dry_run: bool = False) -> Report:
    """One attempt. Where nothing has changed since the last one, its report, ``repeated``.

    Raises :class:`StoreError` where another job is at work, where nothing can be written, and where
    the live bundle changed meanwhile; :class:`DataError` and :class:`NumericalError` for data and
    trainings that come to nothing. In all of these cases what is live stays live.
    """
    if not job.config.models:
        raise ConfigError("there must be a model to train, found none; name one with --model")
    check_labels(job.config.models)
    dataset = read(job.data, job.config.read)
    with job.store.lock():
        fingerprint = _fingerprint(job, dataset)
        live = job.store.load() if job.store.pointer.exists() else None
        last = _last(job.store, fingerprint, live)
        if last is not None and not force and not dry_run:
            return last.model_copy(update={"repeated": True})
        report = _attempt(job, dataset, fingerprint, live, dry_run=dry_run)
        if not dry_run:
            _write(job.store, report)
            Work(job.store.root / "work").forget()
            # Those of trainings that an earlier process finished, too; the lock keeps others away.
            shutil.rmtree(job.store.root / "checkpoints", ignore_errors=True)
        return report


def _attempt(
    job: Job, dataset: Dataset, fingerprint: str, live: Bundle | None, *, dry_run: bool
) -> Report:
    # What is held back depends on what is live, and with it what was done.
    work = Work(job.store.root / "work" / f"{fingerprint}-{'none' if live is None else live.version}")
    examples, _ = need_examples(dataset.compositions, job.config.examples)
    report = Report(
        outcome="refused",
        fingerprint=fingerprint,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        instead_of=None if live is None else live.version,
        compositions=len(dataset.compositions),
        examples=len(examples),
        skipped=dict(dataset.report.skipped),
    )
    if reasons := _shrunk(job, dataset, live):
        return report.model_copy(update={"reasons": reasons})
    found, held = _contest(job, examples, live, work)
    report = report.model_copy(update={"champions": found, "contest": held})
    if reasons := _worse(job, held):
        return report.model_copy(update={"reasons": reasons})
    if dry_run:
        return report.model_copy(update={"outcome": "would be published"})
    version = _publish(job, dataset, examples, found, held, fingerprint, live, work)
    removed = job.store.prune(job.options.keep)
    return report.model_copy(update={"outcome": "published", "version": version, "removed": removed})


def _shrunk(job: Job, dataset: Dataset, live: Bundle | None) -> list[str]:
    before = 0 if live is None else int(live.manifest.data.get("compositions", 0))
    now, most = len(dataset.compositions), job.options.max_shrink
    if now >= before * (1 - most):
        return []
    return [
        f"{job.data}: at most {most:.0%} of the {before} compositions of the live bundle may be gone, "
        f"found {now} left; look for what is missing, or raise --max-shrink"
    ]


def _contest(
    job: Job, examples: Sequence[Example], live: Bundle | None, work: Work
) -> tuple[dict[str, Found], Contest]:
    """What chose the challenger's champion, and how that did against the live one."""
    config, options = job.config, job.options
    back = hold_back(examples, options.share, live, options.least)
    split = replace(back.split, services=job.services or {})
    part = prepare(split, config.mask, job.catalogue)
    older = part.data

    def measure(label: str) -> Found:
        parts = held_out_parts(
            split.train, config, options.measure, options.share, job.catalogue, job.services
        )
        return measured(label, config, parts, job.trainer, job.advance)

    found = {
        label: work.numbers(f"measured-{label}", Found, partial(measure, label))
        for label in config.models
    }
    label = champion_of(found)

    def side(name: str, how: str, new: Recommender, temperature: float) -> Contestant:
        model, _ = work.fitted(f"older-{name}", new, older, job.trainer)
        return Contestant(
            new.name if name == "popularity" else label,
            how,
            model,
            older.graph,
            config.mask,
            temperature,
        )

    new = config.recommender(label)
    challenger = side("challenger", FITTED, new, found[label].temperature)
    popularity = side("popularity", FITTED, create("popularity"), 1.0)
    champion = None
    if live is not None:
        champion = Contestant.of(live)
        if not back.unseen:
            # The same data for both sides; configuration, mask and temperature as they are live.
            name, published = live.model(None)
            new = create(published.name, published.config.model_dump(), seed=published.seed)
            again, _ = work.fitted("older-champion", new, older, job.trainer)
            champion = Contestant(
                name,
                FITTED_AGAIN,
                again,
                older.graph,
                live.mask,
                live.temperature(name),
            )
    job.done("contest")
    held = contest(part.examples, challenger, champion, popularity, config.seed)
    return found, held


def _worse(job: Job, held: Contest) -> list[str]:
    reasons = []
    low, high = held.above_popularity
    if high < 0:
        reasons.append(
            f"{held.challenger.label}: it must not be worse than frequencies, found it between "
            f"{-high:.3f} and {-low:.3f} of MRR below; look at the data and the configuration"
        )
    if held.champion is None or held.difference is None or held.low is None or held.high is None:
        return reasons
    if held.difference < -job.options.margin and held.high < 0:
        reasons.append(
            f"{held.challenger.label}: a challenger may be worse than the champion "
            f"{held.champion.label} by {job.options.margin:g} in MRR, found {-held.difference:.3f} "
            f"({-held.high:.3f} to {-held.low:.3f}); the live bundle stays"
        )
    return reasons


def _publish(
    job: Job,
    dataset: Dataset,
    examples: Sequence[Example],
    found: Mapping[str, Found],
    held: Contest,
    fingerprint: str,
    live: Bundle | None,
    work: Work,
) -> str:
    training = job.training(examples)
    models: dict[str, Recommender] = {}
    seconds: dict[str, float] = {}
    for label in job.config.models:
        new = job.config.recommender(label)
        models[label], seconds[label] = work.fitted(f"all-{label}", new, training, job.trainer)
        job.done(label)
    about = job.config.model_dump(mode="json") | {
        "retrain": job.options.model_dump(mode="json") | {"fingerprint": fingerprint},
        "contest": held.model_dump(mode="json"),
    }
    return job.store.publish(
        vocabulary=training.vocabulary,
        graph=training.graph,
        evidence=Evidence.of(examples, training.vocabulary),
        models=models,
        entries=entries_of(models, found, seconds),
        champion=champion_of(found),
        data=about_data(job.data, dataset, examples),
        config=about,
        check=self_check,
        instead_of=None if live is None else live.version,
    )


def _fingerprint(job: Job, dataset: Dataset) -> str:
    """A hash of everything that decides an attempt, but for what is live."""
    decides: dict[str, Any] = {
        "data": dataset.fingerprint,
        "config": job.config.model_dump(mode="json"),
        "models": {
            label: job.config.recommender(label).config.model_dump(mode="json")
            for label in job.config.models
        },
        "options": job.options.model_dump(mode="json"),
        "catalogue": job.catalogue,
        "services": job.services,
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
        contest=Contest.model_validate(manifest.config["contest"]),
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
        replace_text(store.root / LAST, report.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise StoreError(
            f"{store.root / LAST}: cannot be written: {error.strerror}; check space and permissions"
        ) from error
