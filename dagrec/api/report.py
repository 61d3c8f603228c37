"""``dagrec.evaluate`` and the report that it returns."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dagrec.api.arguments import require_count, require_path, write_result
from dagrec.api.training import Models, require_candidates, require_dataset, run_config, running
from dagrec.data.dataset import Dataset
from dagrec.data.scalars import nearest_to, quoted
from dagrec.errors import ConfigError, DagrecError, missing_package
from dagrec.evaluation.tables import result_tables
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.evaluate import evaluate as run_evaluation
from dagrec.jobs.experiment import ALL_PROTOCOLS, RANDOM, TEST_FILE, Plan
from dagrec.metrics.ranking import METRICS
from dagrec.types import Device, validation_message

if TYPE_CHECKING:
    import pandas


PROTOCOLS = tuple(name for name in ALL_PROTOCOLS if name != TEST_FILE)


class Picture:
    """A PNG image, which a notebook shows.

    ``png`` holds its bytes.
    """

    def __init__(self, png: bytes) -> None:
        self.png = png

    def save(self, path: str | PathLike[str]) -> None:
        """Write the image to a file.

        Raises
        ------
        DagrecError
            Where it cannot be written.
        """
        write_result(path, self.png)

    def _repr_png_(self) -> bytes:
        return self.png

    def __repr__(self) -> str:
        return f"Picture({len(self.png):,} bytes of PNG); picture.save('FILE.png') writes it"


class Report:
    """What an evaluation measured.

    ``result`` is everything, as ``dagrec evaluate --json`` writes it: the data's fingerprint, the
    configuration, every metric with its interval and its value on each split, paired comparisons with
    Holm's correction, reference lines and warnings. Made by :func:`dagrec.evaluate`.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.from_paths([["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]] * 3)
    >>> report = dagrec.evaluate(data, "markov", repeats=2)
    >>> list(report.result["models"]), report.result["data"]["examples"]
    (['markov'], 18)
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

        Parameters
        ----------
        metric
            One of those in :meth:`to_dataframe`.

        Raises
        ------
        ConfigError
            For a metric that does not exist, naming the nearest ones, and where matplotlib
            (``dagrec[viz]``) is not installed.
        """
        if not isinstance(metric, str) or metric not in METRICS:
            nearest = nearest_to(metric, METRICS) or f"; there are {', '.join(METRICS)}"
            raise ConfigError(f"no metric {quoted(metric)}{nearest}")
        from dagrec.evaluation.plots import intervals

        # A label between two dollar signs would be read as a formula.
        models = {label.replace("$", r"\$"): model for label, model in self.result["models"].items()}
        return Picture(intervals({**self.result, "models": models}, metric))

    def save(self, path: str | PathLike[str]) -> None:
        """Write the whole result as JSON.

        Raises
        ------
        DagrecError
            Where it cannot be written.
        """
        text = json.dumps(self.result, indent=1, ensure_ascii=False, allow_nan=False)
        write_result(path, text + "\n")

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
    examples: str | Mapping[str, Any] | None = None,
    share: float = 0.3,
    weight: str = "pairs",
    seeds: int = 1,
    seed: int = 0,
    calibrate: bool = False,
    catalogue: Iterable[tuple[str | int, str | int]] | None = None,
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
        registered one. Of a configured recommender, the hyperparameters count, and not the seed.
    protocol
        ``pairs``, ``compositions``, ``temporal``, ``prequential``, ``leave-one-out`` or
        ``cold-services``; see docs/measuring.md.
    repeats
        Random splits (20 by default); of a protocol with a single split, trainings (1).
    test
        A separate data set to test on, instead of a protocol; all of ``data`` is trained on.
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
        Hyperparameters for the models that are given by name: each gets those that it has.

    Raises
    ------
    ConfigError
        For a model, protocol or option that does not exist, naming the nearest ones.
    DataError
        For data that the protocol cannot split, and for a catalogue of another form.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.read("data/compositions.json")
    >>> report = dagrec.evaluate(data, ["markov", "popularity"], "compositions", repeats=3)
    >>> frame = report.to_dataframe().query("metric == 'mrr'").set_index("model")
    >>> bool(frame.loc["markov", "mean"] > frame.loc["popularity", "mean"])
    True
    """
    data = require_dataset(data, "evaluate: data")
    if test is not None:
        test, protocol = require_dataset(test, "evaluate: test"), _require_default(protocol)
    else:
        _require_protocol(protocol)
    processes = require_count(processes, "evaluate: processes", 1)
    folder = None if keep is None else require_path(keep, "evaluate: keep")
    config = run_config(
        models, options, evaluate, mask=mask, examples=examples, seed=seed, calibrate=calibrate
    )
    links = require_candidates(catalogue, None, config.mask, "evaluate").catalogue
    if repeats is None:
        repeats = 20 if protocol in RANDOM else 1
    try:
        plan = Plan(
            protocol=protocol,
            repeats=repeats,
            seeds=seeds,
            share=share,
            weight=weight,
            catalogue=None if links is None else tuple(links),
        )
    except ValidationError as error:
        raise ConfigError(f"evaluate: {validation_message(error, Plan)}") from None
    with running(progress, device) as bars:
        task = bars.add("measuring", total=plan.repeats * plan.seeds * len(config.models))
        try:
            result = run_evaluation(
                data,
                config,
                plan,
                test=test,
                keep=folder,
                processes=processes,
                advance=lambda label: bars.update(task, advance=1, description=f"measured {label}"),
            )
        except OSError as error:
            if folder is None:
                raise
            raise DagrecError(
                f"{folder}: finished runs cannot be kept there: {error.strerror}; choose another folder"
            ) from error
    return Report(result)


def _require_protocol(protocol: object) -> None:
    if not isinstance(protocol, str) or protocol not in PROTOCOLS:
        nearest = nearest_to(protocol, PROTOCOLS) or f"; there are {', '.join(PROTOCOLS)}"
        raise ConfigError(f"evaluate: no protocol {quoted(protocol)}{nearest}")


def _require_default(protocol: object) -> str:
    """The protocol of a separate test set, which leaves nothing to be split by another one."""
    if protocol not in ("pairs", TEST_FILE):
        raise ConfigError(
            "evaluate: a test set is tested on instead of a protocol, found protocol "
            f"{quoted(protocol)} beside it; leave one of them out"
        )
    return TEST_FILE
