"""Tune the hyperparameters of a recommender on held-out parts of the training data.

Optuna suggests values by the tree-structured Parzen estimator (Bergstra et al. 2011); the first trial
has the default values. All trials are evaluated on the same held-out parts, and a trial that is worse
than the median after some of them is pruned. Finished trials are stored in a file, from which an
interrupted search is resumed with the same result as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from dagrec.data.dataset import Dataset
from dagrec.errors import (
    ConfigError,
    DagrecError,
    NumericalError,
    did_you_mean,
    missing_package,
)
from dagrec.evaluation.evaluator import TestPart
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.config import RunConfig
from dagrec.jobs.search_space import defaults, suggest, tunable
from dagrec.jobs.train import held_out_parts
from dagrec.metrics.ranking import METRICS
from dagrec.models.registry import RECOMMENDER, create, recommender_class, recommender_name
from dagrec.training.data import Candidates
from dagrec.types import Options

if TYPE_CHECKING:
    import optuna

MAX_TRIALS = 10_000
OPTIONS, FAILED = "options", "failed"
"""Attributes of Optuna's trials: the hyperparameters, and why a trial failed."""
LOWER_IS_BETTER = ("mean_rank", "nll", "brier", "ece")
Advance = Callable[[int, float | None], None]
"""Called after each trial with the number of finished trials and the best value so far."""


class TuneOptions(Options):
    """The options of a search."""

    trials: int = Field(
        50, ge=1, le=MAX_TRIALS, description="number of trials; the first one has the defaults"
    )
    metric: str = Field("mrr", description="metric to optimise on the held-out parts")
    parts: int = Field(3, ge=1, le=50, description="number of held-out parts")
    share: float = Field(
        0.2, gt=0, lt=1, description="fraction of the compositions in each held-out part"
    )


@dataclass(frozen=True)
class Trial:
    """The hyperparameters of a trial, and the mean of the metric over the held-out parts.

    ``value`` is None if the trial was pruned, or failed for the reason ``failed``.
    """

    number: int
    options: dict[str, Any]
    value: float | None
    failed: str | None


@dataclass(frozen=True)
class TuneResult:
    """The trials of a search in order, and the configuration and data that they were evaluated on."""

    model: str
    options: TuneOptions
    config: RunConfig
    data: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the best value. Raises :class:`ConfigError` if no trial has a value."""
        finished = [trial for trial in self.trials if trial.value is not None]
        if not finished:
            reasons = sorted({trial.failed for trial in self.trials if trial.failed})
            raise ConfigError(f"{self.model}: no trial was finished; {'; '.join(reasons)}")
        sign = -1 if self.options.metric in LOWER_IS_BETTER else 1
        return max(finished, key=lambda trial: (sign * (trial.value or 0.0), -trial.number))

    @property
    def default_value(self) -> float | None:
        """The value of the recommender's defaults."""
        return self.trials[0].value if self.trials else None

    def summary(self) -> dict[str, Any]:
        """Return the result as it is written to JSON."""
        return {
            "model": self.model,
            "data": self.data,
            "options": self.options.model_dump(mode="json"),
            "config": self.config.model_dump(mode="json"),
            "best": asdict(self.best),
            "default_value": self.default_value,
            "trials": [asdict(trial) for trial in self.trials],
        }

    def to_toml(self) -> str:
        """The best hyperparameters as a TOML file for ``dagrec train --config``."""
        best, about = self.best, self.options
        fields = recommender_class(self.model).Config.model_fields
        unset = {key for key, value in best.options.items() if value is None}
        lines = [
            f"# {self.model}: {about.metric} {best.value:.4f} on {about.parts} held-out parts",
            f"# ({_format(self.default_value)} with the defaults), best of {len(self.trials)} trials",
            _comment(f"data: {self.data['path']}, fingerprint {self.data['fingerprint']}"),
            *(
                f"# TOML has no null: add --set {self.model}.{key}=null"
                for key in sorted(unset)
                if fields[key].default is not None
            ),
            f"seed = {self.config.seed}",
            f'mask = "{self.config.mask.value}"',
            *_toml_table("read", self.config.read.model_dump(exclude_defaults=True)),
            *_toml_table("examples", self.config.examples.model_dump(exclude_defaults=True)),
            "",
            f"[models.{self.model}]",
            *(f"{key} = {_toml(best.options[key])}" for key in best.options if key not in unset),
        ]
        return "\n".join(lines) + "\n"


def tune(
    data: Dataset,
    config: RunConfig,
    options: TuneOptions,
    *,
    study: Path | None = None,
    advance: Advance | None = None,
) -> TuneResult:
    """Tune the hyperparameters of the one model of ``config``, except for those that it sets.

    ``study`` is a file for the trials. Raises :class:`ConfigError` for an unknown metric, for a
    recommender without hyperparameters and if Optuna is not installed, and :class:`DagrecError` for a
    study file that cannot be used.
    """
    (label,) = config.models
    name, fixed = recommender_name(label, config.models[label]), dict(config.models[label])
    fixed.pop(RECOMMENDER, None)
    if options.metric not in METRICS:
        suggestion = did_you_mean(options.metric, METRICS) or f"; there are {', '.join(METRICS)}"
        raise ConfigError(f"no metric {options.metric!r}{suggestion}")
    if not tunable(name, fixed):
        raise ConfigError(
            f"recommender {name!r} has no hyperparameters to tune; choose another one, or train it"
        )
    if config.mask is MaskPolicy.CATALOGUE:
        raise ConfigError(
            "tune: mask must be observed, soft or none, found 'catalogue'; choose another mask"
        )
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise missing_package("tuning", error, "tune") from None
    examples, extracted = data.examples(config.examples)
    parts = held_out_parts(examples, config, Candidates(), options.parts, options.share)
    with _quiet_optuna(), _study_errors(study):
        search = _study(_study_name(data, config, options, name, fixed), options, study)
        while (num_trials := len(_finished(search))) < options.trials:
            # Each trial has its own sampler, so that a resumed search continues in the same way.
            seed = config.seed * MAX_TRIALS + num_trials
            search.sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
            if not num_trials and not _is_waiting(search):
                search.enqueue_trial(defaults(name, fixed))
            trial = search.ask()
            hyperparameters = suggest(trial, name, fixed)
            trial.set_user_attr(OPTIONS, hyperparameters)
            _run(search, trial, name, hyperparameters, config, parts, options)
            if advance:
                values = [
                    each.value for each in map(_trial, _finished(search)) if each.value is not None
                ]
                best = min if options.metric in LOWER_IS_BETTER else max
                advance(num_trials + 1, best(values) if values else None)
        finished = _finished(search)[: options.trials]
    # Optuna also numbers the trials of killed processes, so the finished ones are numbered again.
    trials = tuple(replace(_trial(trial), number=number) for number, trial in enumerate(finished))
    return TuneResult(name, options, config, data.about(extracted), trials)


def _run(
    search: optuna.Study,
    trial: optuna.Trial,
    name: str,
    hyperparameters: dict[str, Any],
    config: RunConfig,
    parts: list[TestPart],
    options: TuneOptions,
) -> None:
    """Evaluate hyperparameters on the held-out parts, and finish the trial."""
    from optuna.trial import TrialState

    values: list[float] = []
    for number, part in enumerate(parts):
        try:
            model = create(name, hyperparameters, seed=config.seed + number).fit(part.data)
            outcome = part.outcome(part.fitted(model).probabilities)
        except (ConfigError, NumericalError) as error:  # incompatible values, or training diverged
            trial.set_user_attr(FAILED, str(error))
            search.tell(trial, state=TrialState.FAIL)
            return
        values.append(METRICS[options.metric](outcome))
        mean = float(np.mean(values))
        if not math.isfinite(mean):
            trial.set_user_attr(FAILED, f"{options.metric} must be finite, found {mean}")
            search.tell(trial, state=TrialState.FAIL)
            return
        trial.report(mean, number)
        if number + 1 < len(parts) and trial.should_prune():
            search.tell(trial, state=TrialState.PRUNED)
            return
    search.tell(trial, mean)


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log inside the block."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)


@contextmanager
def _study_errors(file: Path | None) -> Iterator[None]:
    """Raise errors of the study file as :class:`DagrecError`."""
    try:
        yield
    except OSError as error:
        if file is None:
            raise
        raise DagrecError(
            f"{file}: the trials cannot be stored: {error.strerror}; choose another study"
        ) from error


def _study(name: str, options: TuneOptions, file: Path | None) -> optuna.Study:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = None
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        _require_journal(file)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
    return optuna.create_study(
        study_name=name,
        storage=storage,
        load_if_exists=True,
        direction="minimize" if options.metric in LOWER_IS_BETTER else "maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=8),
    )


def _require_journal(file: Path) -> None:
    """Raise :class:`DagrecError` if a file has no trials. Remove an incomplete last line."""
    content = file.read_bytes() if file.exists() else b""
    complete, _, incomplete = content.rpartition(b"\n")
    try:
        is_journal = all("op_code" in json.loads(line) for line in complete.splitlines())
    except (ValueError, TypeError):
        is_journal = False
    if is_journal and complete and incomplete:  # the last process was killed while it wrote a line
        with file.open("r+b") as journal:
            journal.truncate(len(complete) + 1)
    elif not is_journal or incomplete:
        raise DagrecError(
            f"{file}: a study must contain trials of earlier searches, found other content; choose "
            "another study"
        )


def _study_name(
    data: Dataset, config: RunConfig, options: TuneOptions, name: str, fixed: dict[str, Any]
) -> str:
    """The name of a search in its file: a hash of everything that determines the value of a trial."""
    inputs = {
        "data": data.fingerprint,
        "config": config.model_dump(mode="json"),
        "options": options.model_dump(mode="json", exclude={"trials"}),
        "space": {key: repr(space) for key, space in tunable(name, fixed).items()},
    }
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    return f"{name}-{digest[:16]}"


def _finished(search: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """The finished trials in order, without those of killed processes, which are repeated."""
    return [trial for trial in search.get_trials(deepcopy=False) if trial.state.is_finished()]


def _is_waiting(search: optuna.Study) -> bool:
    return any(trial.state.name == "WAITING" for trial in search.get_trials(deepcopy=False))


def _trial(trial: optuna.trial.FrozenTrial) -> Trial:
    completed = trial.state.name == "COMPLETE"
    attributes = trial.user_attrs
    value = trial.value if completed else None
    return Trial(trial.number, attributes[OPTIONS], value, attributes.get(FAILED))


def _format(value: float | None) -> str:
    return "not finished" if value is None else f"{value:.4f}"


def _toml_table(name: str, values: dict[str, Any]) -> list[str]:
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return ["", f"[{name}]", *lines] if lines else []


def _toml(value: Any) -> str:
    """Format a value as TOML, which equals JSON except for tables."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _comment(text: str) -> str:
    return "# " + "".join(char if char.isprintable() else " " for char in text)
