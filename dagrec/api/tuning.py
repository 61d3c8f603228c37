"""``dagrec.tune`` and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dagrec.api.arguments import require_path, write_result
from dagrec.api.training import require_dataset, require_model, run_config, running
from dagrec.data.dataset import Dataset
from dagrec.errors import ConfigError, missing_package
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.tune import TuneOptions, TuneResult
from dagrec.jobs.tune import tune as run_tuning
from dagrec.models.base import Recommender
from dagrec.models.registry import create
from dagrec.output.tables import Table
from dagrec.types import Device, validation_message

if TYPE_CHECKING:
    import pandas

SHOWN_TRIALS = 5


class Tuning:
    """A search over hyperparameters, made by :func:`dagrec.tune`.

    ``best_options`` and ``best_value`` are those of the best trial, ``trials`` all of them in order,
    the defaults first. An option that is None is unset.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.from_paths([["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]] * 3)
    >>> tuning = dagrec.tune(data, "markov", trials=2, parts=1)
    >>> tuning.trials[0].options
    {'order': 8, 'mu': None}
    >>> model = dagrec.fit(data, tuning.recommender)
    """

    def __init__(self, result: TuneResult) -> None:
        self.result = result
        self.trials = result.trials
        self.best_options = result.best.options
        self.best_value = result.best.value

    @property
    def recommender(self) -> Recommender:
        """An unfitted recommender with the best options, for :func:`dagrec.fit` or ``evaluate``."""
        return create(self.result.model, self.best_options, seed=self.result.config.seed)

    def to_toml(self) -> str:
        """The best options as a configuration that ``dagrec train --config FILE`` takes."""
        return self.result.to_toml()

    def save(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_toml` to a file.

        Raises
        ------
        DagrecError
            Where it cannot be written.
        """
        write_result(path, self.to_toml())

    def to_dataframe(self) -> pandas.DataFrame:
        """A row per trial: number, value (missing where it has none), failed (why), every option."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise missing_package("a data frame", error, "pandas") from None
        return pandas.DataFrame(
            [
                {"number": t.number, "value": t.value, "failed": t.failed, **t.options}
                for t in self.trials
            ]
        )

    def _table(self) -> Table:
        result, metric = self.result, self.result.options.metric
        best = sorted(
            (t for t in self.trials if t.value is not None),
            key=lambda t: abs((t.value or 0.0) - (self.best_value or 0.0)),
        )[:SHOWN_TRIALS]
        names = list(self.best_options)
        rows = [[t.number, f"{t.value:.4f}", *(_short(t.options[n]) for n in names)] for t in best]
        default = result.default_value
        failed = sum(t.failed is not None for t in self.trials)
        stopped = sum(t.value is None and t.failed is None for t in self.trials)
        notes = [
            f"of {len(self.trials)} trials, {stopped} were given up early and {failed} failed; "
            f"the defaults (trial 0) have {'no value' if default is None else f'{default:.4f}'}"
        ]
        title = f"{result.model}: {metric} on {result.options.parts} held-out parts, best trials"
        return Table(title, ["trial", metric, *names], rows, notes=notes)

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table().html()


def tune(
    data: Dataset,
    model: str | Recommender,
    trials: int = 50,
    *,
    metric: str = "mrr",
    parts: int = 3,
    share: float = 0.2,
    mask: str | MaskPolicy = MaskPolicy.OBSERVED,
    examples: str | Mapping[str, Any] | None = None,
    seed: int | None = None,
    study: str | PathLike[str] | None = None,
    device: Device | None = None,
    progress: bool = True,
    **options: Any,
) -> Tuning:
    """Search a recommender's hyperparameters on held-out parts of a data set.

    Give it the data that you would train on; what you test on afterwards must not be among them.
    Needs Optuna (``dagrec[tune]``).

    Parameters
    ----------
    data
        Training data.
    model
        The name of a recommender, or a configured one, whose options stay as given.
    trials
        Settings that are tried, the defaults first.
    metric
        What is improved: ``mrr``, ``accuracy``, ``ndcg@10``, ``nll`` ... on held-out compositions.
    parts, share
        How many held-out parts, and which share of the compositions each has.
    mask, examples, device, progress
        As for :func:`dagrec.fit`.
    seed
        Of the parts, of training and of the search; one seed gives one result. By default that of a
        configured recommender, or 0.
    study
        File in which trials are kept as they finish: the same call resumes an interrupted search.
    **options
        Hyperparameters that stay as given.

    Raises
    ------
    ConfigError
        For a recommender, metric or option that does not exist, naming the nearest ones, for a
        recommender without hyperparameters, and where Optuna is not installed.
    DataError
        For data without an example to learn from, or too few for held-out parts.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.read("data/compositions.json")
    >>> tuning = dagrec.tune(data, "markov", trials=3)
    >>> sorted(tuning.best_options)
    ['mu', 'order']
    """
    data = require_dataset(data, "tune: data")
    model = require_model(model, "tune: model")
    file = None if study is None else require_path(study, "tune: study")
    if seed is None:
        seed = model.seed if isinstance(model, Recommender) else 0
    config = run_config(model, options, tune, mask=mask, examples=examples, seed=seed)
    try:
        chosen = TuneOptions(trials=trials, metric=metric, parts=parts, share=share)
    except ValidationError as error:
        raise ConfigError(f"tune: {validation_message(error, TuneOptions)}") from None
    with running(progress, device) as bars:
        task = bars.add(f"tuning {next(iter(config.models))}", total=trials)
        result = run_tuning(
            data,
            config,
            chosen,
            study=file,
            advance=lambda done, _best: bars.update(task, completed=done),
        )
    return Tuning(result)


def _short(value: Any) -> str:
    if value is None:
        return "unset"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
