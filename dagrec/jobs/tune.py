"""Search a recommender's hyperparameters, choosing on held-out parts of the training data alone.

Optuna proposes values (tree-structured Parzen estimator; Bergstra et al. 2011), the first being the
recommender's defaults. Every trial is measured on the same held-out compositions, and one that is
clearly worse than the median after some of them is given up. Trials are kept in a file as they finish:
the same command resumes an interrupted search, and ends where an uninterrupted one would.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from dagrec.config import RunConfig
from dagrec.data.dataset import Dataset
from dagrec.data.examples import require_examples
from dagrec.errors import ConfigError, DagrecError, NumericalError, missing_package
from dagrec.evaluation.evaluator import TestPart
from dagrec.jobs.search_space import defaults, suggest, tunable
from dagrec.jobs.train import held_out_parts
from dagrec.metrics.ranking import METRICS
from dagrec.models.registry import create, recommender_name
from dagrec.training.data import Candidates
from dagrec.types import Options

if TYPE_CHECKING:
    import optuna

LOWER_IS_BETTER = ("mean_rank", "nll", "brier", "ece")
Advance = Callable[[int, float | None], None]
"""Called after each trial with the number of finished trials and the best value so far."""


class TuneOptions(Options):
    """How the search is done."""

    trials: int = Field(50, ge=1, le=10_000, description="settings that are tried, the defaults first")
    metric: str = Field("mrr", description="what is improved on the held-out parts")
    parts: int = Field(3, ge=1, le=50, description="held-out parts of the compositions")
    share: float = Field(0.2, gt=0, lt=1, description="of the compositions in each held-out part")


@dataclass(frozen=True)
class Trial:
    """One setting and its value: the mean of the metric over the held-out parts.

    ``value`` is None where the trial was given up early, or training failed (``failed`` says why).
    """

    number: int
    options: dict[str, Any]
    value: float | None
    failed: str | None


@dataclass(frozen=True)
class TuneResult:
    """The trials of a search, in their order, and what they were measured on."""

    model: str
    options: TuneOptions
    config: RunConfig
    data: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the best value. Raises :class:`ConfigError` where none has one."""
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
        """As it goes into JSON."""
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
        """The best setting as a file that ``dagrec train --config`` takes."""
        best, about = self.best, self.options
        examples = self.config.examples.model_dump(exclude_defaults=True)
        lines = [
            f"# {self.model}: {about.metric} {best.value:.4f} on {about.parts} held-out parts",
            f"# ({_shown(self.default_value)} with the defaults), best of {len(self.trials)} trials",
            f"# data: {self.data['path']}, fingerprint {self.data['fingerprint']}, "
            f"seed {self.config.seed}",
            f"seed = {self.config.seed}",
            f'mask = "{self.config.mask.value}"',
            *(["", "[examples]"] if examples else []),
            *(f"{key} = {json.dumps(value)}" for key, value in examples.items()),
            "",
            f"[models.{self.model}]",
            *(f"{key} = {json.dumps(value)}" for key, value in best.options.items()),
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
    """Search the hyperparameters of the one model of ``config``; those that it sets stay as they are.

    ``study`` is the file in which trials are kept. Raises :class:`ConfigError` for a metric that does
    not exist, a recommender without hyperparameters, and where Optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise missing_package("tuning", error, "tune") from None
    (label,) = config.models
    name, fixed = recommender_name(label, config.models[label]), dict(config.models[label])
    fixed.pop("recommender", None)
    if options.metric not in METRICS:
        raise ConfigError(f"no metric {options.metric!r}; there are {', '.join(METRICS)}")
    if not set(tunable(name)) - set(fixed):
        raise ConfigError(
            f"recommender {name!r} has no hyperparameter to search; choose another one, or train it"
        )
    examples, _ = require_examples(data.compositions, config.examples)
    parts = held_out_parts(examples, config, Candidates(), options.parts, options.share)
    search = _study(_study_name(data, config, options, name), options, study)
    if not search.trials:
        start = {key: value for key, value in defaults(name).items() if key not in fixed}
        search.enqueue_trial(start)

    def objective(trial: optuna.Trial) -> float:
        chosen = suggest(trial, name) | fixed
        return _value(trial, name, chosen, config, parts, options)

    while len(finished := _finished(search)) < options.trials:
        # A sampler of its own for each trial: a resumed search goes on as it would have.
        seed = config.seed * options.trials + len(finished)
        search.sampler = optuna.samplers.TPESampler(seed=seed % 2**32)
        search.optimize(objective, n_trials=1, catch=(NumericalError,))
        if advance:
            values = [trial.value for trial in _finished(search) if trial.value is not None]
            sign = min if options.metric in LOWER_IS_BETTER else max
            advance(len(finished) + 1, sign(values) if values else None)
    trials = tuple(_trial(trial, fixed) for trial in _finished(search)[: options.trials])
    return TuneResult(name, options, config, data.about(examples), trials)


def _value(
    trial: optuna.Trial,
    name: str,
    chosen: dict[str, Any],
    config: RunConfig,
    parts: list[TestPart],
    options: TuneOptions,
) -> float:
    import optuna

    values: list[float] = []
    for number, part in enumerate(parts):
        try:
            model = create(name, chosen, seed=config.seed + number).fit(part.data)
        except ConfigError as error:  # values that do not fit each other
            trial.set_user_attr("failed", str(error))
            raise optuna.TrialPruned from None
        except NumericalError as error:
            trial.set_user_attr("failed", str(error))
            raise
        outcome = part.outcome(part.fitted(model).probabilities)
        values.append(METRICS[options.metric](outcome))
        trial.report(float(np.mean(values)), number)
        if number + 1 < len(parts) and trial.should_prune():
            raise optuna.TrialPruned
    return float(np.mean(values))


def _study(name: str, options: TuneOptions, file: Path | None) -> optuna.Study:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = None
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(file)))
        search = optuna.create_study(
            study_name=name,
            storage=storage,
            load_if_exists=True,
            direction="minimize" if options.metric in LOWER_IS_BETTER else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=8),
        )
    except OSError as error:
        raise DagrecError(
            f"{file}: the trials cannot be kept there: {error.strerror}; choose another --study"
        ) from None
    return search


def _study_name(data: Dataset, config: RunConfig, options: TuneOptions, name: str) -> str:
    """A hash of everything that decides the value of a trial: other searches share the file."""
    decides = {
        "data": data.fingerprint,
        "config": config.model_dump(mode="json"),
        "options": options.model_dump(mode="json", exclude={"trials"}),
        "space": {key: repr(space) for key, space in tunable(name).items()},
    }
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return f"{name}-{digest[:16]}"


def _finished(search: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that were ended, in their order; one that a killed process left open is done again."""
    return [trial for trial in search.trials if trial.state.is_finished()]


def _trial(trial: optuna.trial.FrozenTrial, fixed: dict[str, Any]) -> Trial:
    completed = trial.state.name == "COMPLETE"
    failed = trial.user_attrs.get("failed")
    return Trial(trial.number, {**trial.params, **fixed}, trial.value if completed else None, failed)


def _shown(value: float | None) -> str:
    return "not finished" if value is None else f"{value:.4f}"
