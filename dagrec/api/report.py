"""``dagrec.evaluate`` and the report that it returns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dagrec.api.training import Models, need_dataset, run_config, running
from dagrec.data.dataset import Dataset
from dagrec.errors import ConfigError, DagrecError, did_you_mean, missing_package
from dagrec.evaluation.tables import result_tables
from dagrec.files import replace_file
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.evaluate import evaluate as run_evaluation
from dagrec.jobs.experiment import RANDOM, TEST_FILE, Plan
from dagrec.metrics.ranking import METRICS
from dagrec.types import Device, validation_message

if TYPE_CHECKING:
    import pandas


class Picture:
    """A PNG image, which a notebook shows.

    ``png`` holds its bytes.
    """

    def __init__(self, png: bytes) -> None:
        self.png = png

    def save(self, path: str | PathLike[str]) -> None:
        """Write the image to a file. Raises :class:`DagrecError` where it cannot be written."""
        _write(Path(path), self.png)

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return f"Picture({len(self.png):,} bytes of PNG); picture.save('FILE.png') writes it"


class Report:
    """What an evaluation measured.

    ``result`` is everything, as ``dagrec evaluate --json`` writes it: the data's fingerprint, the
    configuration, every metric with its interval and its value on each split, paired comparisons with
    Holm's correction, reference lines and warnings.
    """

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result

    def to_dataframe(self) -> pandas.DataFrame:
        """A row per model and metric: model, metric, mean, low, high, std (over splits)."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise missing_package("a data frame", error, "pandas") from None
        rows = [
            {"model": label, "metric": metric, **{k: found[k] for k in ("mean", "low", "high", "std")}}
            for label, model in self.result["models"].items()
            for metric, found in model["metrics"].items()
        ]
        return pandas.DataFrame(rows)

    def plot(self, metric: str = "mrr") -> Picture:
        """Each model's mean and interval of a metric, beside equal scores and frequencies.

        Needs matplotlib (``dagrec[viz]``). Raises :class:`ConfigError` for a metric that does not
        exist.
        """
        if metric not in METRICS:
            nearest = did_you_mean(metric, METRICS) or f"; there are {', '.join(METRICS)}"
            raise ConfigError(f"no metric {metric!r}{nearest}")
        from dagrec.evaluation.plots import intervals

        return Picture(intervals(self.result, metric))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the whole result as JSON. Raises :class:`DagrecError` where it cannot be written."""
        text = json.dumps(self.result, indent=1, ensure_ascii=False, allow_nan=False)
        _write(Path(path), text + "\n")

    def __repr__(self) -> str:
        tables = [str(table) for table in result_tables(self.result)]
        notes = [f"note: {warning}" for warning in self.result["warnings"]]
        return "\n\n".join([*tables, *notes])

    def _repr_html_(self) -> str:
        tables = "".join(table.html() for table in result_tables(self.result))
        from html import escape

        notes = "".join(f"<p>note: {escape(warning)}</p>" for warning in self.result["warnings"])
        return f"<div>{tables}{notes}</div>"


def evaluate(
    data: Dataset,
    models: Models,
    protocol: str = "pairs",
    *,
    repeats: int | None = None,
    test: Dataset | None = None,
    mask: str | MaskPolicy = MaskPolicy.OBSERVED,
    examples: str | Mapping[str, Any] = "paths",
    share: float = 0.3,
    weight: str = "pairs",
    seeds: int = 1,
    seed: int = 0,
    calibrate: bool = False,
    catalogue: Sequence[tuple[str, str]] | None = None,
    keep: str | PathLike[str] | None = None,
    processes: int = 1,
    device: Device | None = None,
    progress: bool = True,
    **options: Any,
) -> Report:
    """Measure recommenders on parts of a data set that they were not trained on.

    Parameters
    ----------
    data
        From :func:`dagrec.read`, ``from_paths``, ``from_dataframe`` or ``from_networkx``.
    models
        A list of names and configured recommenders, or a dict that labels them; ``"all"`` names every
        registered one.
    protocol
        ``pairs``, ``compositions``, ``temporal``, ``prequential``, ``leave-one-out`` or
        ``cold-services``; see docs/measuring.md.
    repeats
        Random splits (20 by default); of a protocol with a single split, trainings (1).
    test
        A separate data set to test on; all of ``data`` is trained on.
    mask, examples
        As for :func:`dagrec.fit`.
    share
        Share of the data that is tested on.
    weight
        What weighs the same: every ``pairs`` or all ``compositions``.
    seeds
        Trainings on each split, whose values are averaged.
    seed
        Of splits, sampling and training.
    calibrate
        Whether scores are divided by a temperature from held-out training data.
    catalogue
        Declared links, for mask ``catalogue``.
    keep
        Folder for finished runs, so that an interrupted evaluation is resumed.
    processes
        Processes that measure side by side.
    device, progress
        As for :func:`dagrec.fit`.
    **options
        Hyperparameters for every model that is given by name.

    Raises
    ------
    ConfigError
        For a model, protocol or option that does not exist, naming the nearest ones.
    DataError
        For data that the protocol cannot split.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.read("data/compositions.json")
    >>> report = dagrec.evaluate(data, ["markov", "popularity"], "compositions", repeats=3)
    >>> frame = report.to_dataframe().query("metric == 'mrr'").set_index("model")
    >>> bool(frame.loc["markov", "mean"] > frame.loc["popularity", "mean"])
    True
    """
    data = need_dataset(data, "evaluate: data")
    if test is not None:
        test, protocol = need_dataset(test, "evaluate: test"), TEST_FILE
    config = run_config(models, options, mask=mask, examples=examples, seed=seed, calibrate=calibrate)
    try:
        plan = Plan(
            protocol=protocol,
            repeats=repeats or (20 if protocol in RANDOM else 1),
            seeds=seeds,
            share=share,
            weight=weight,
            catalogue=None if catalogue is None else tuple(catalogue),
        )
    except ValidationError as error:
        raise ConfigError(f"evaluate: {validation_message(error, Plan)}") from None
    with running(progress, device) as bars:
        task = bars.add("measuring", total=plan.repeats * plan.seeds * len(config.models))
        result = run_evaluation(
            data,
            config,
            plan,
            test=test,
            keep=None if keep is None else Path(keep),
            processes=processes,
            advance=lambda label: bars.update(task, advance=1, description=f"measured {label}"),
        )
    return Report(result)


def _write(path: Path, content: str | bytes) -> None:
    try:
        replace_file(path, content)
    except OSError as error:
        raise DagrecError(
            f"{path}: cannot be written: {error.strerror}; choose another place"
        ) from None
