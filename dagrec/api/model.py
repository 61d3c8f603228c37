"""``dagrec.fit`` and ``dagrec.load``, and the model that they return."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

from dagrec.api.arguments import require_flag, require_known, require_path
from dagrec.api.contexts import OPTIONS, Context, as_list, is_context, request_values
from dagrec.api.training import Model as ModelSpec
from dagrec.api.training import require_candidates, require_dataset, require_model, run_config, running
from dagrec.data.dataset import Dataset
from dagrec.data.scalars import parse_moment, quoted
from dagrec.errors import ConfigError, DataError, RequestError, missing_package
from dagrec.graph.mask import MaskPolicy
from dagrec.jobs.train import fit_bundle, fit_notes, held_out_parts, measure_quality
from dagrec.models.base import Recommender
from dagrec.output.tables import Table
from dagrec.recommend.answers import Answer, Answers, Prediction
from dagrec.recommend.predictor import Predictor
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle, Quality, save_bundle
from dagrec.store.store import open_bundle
from dagrec.types import Device

if TYPE_CHECKING:
    import pandas

CALIBRATION_PARTS, CALIBRATION_SHARE = 3, 0.2
"""Held-out parts from which ``fit`` finds a temperature, and the share of the compositions in each."""
VERSION = re.compile(r"\w[\w.-]*")
"""What a version can be called: the name of one folder, and not a hidden one."""
COLUMNS = ("context", "at", "rank", "service", "probability", "support")


class Recommendations(Sequence[Prediction]):
    """The ranked services of one context, the likeliest first.

    ``answer`` holds everything that the service answers over HTTP: the mask, which keys were unknown,
    and why the model fell back where it did.

    Examples
    --------
    >>> import dagrec
    >>> model = dagrec.fit(dagrec.from_paths([["table_1", "clean", "plot"]] * 3), "markov")
    >>> answer = model.recommend(["table_1", "clean"])
    >>> answer.services, answer[0].probability, answer[0].support
    (['plot'], 1.0, 3)
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    @property
    def services(self) -> list[str]:
        """The keys of the services, the likeliest first."""
        return [prediction.service for prediction in self.answer.predictions]

    def __len__(self) -> int:
        return len(self.answer.predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...

    def __getitem__(self, index: int | slice) -> Prediction | list[Prediction]:
        return self.answer.predictions[index]

    def to_dataframe(self) -> pandas.DataFrame:
        """A row per service: context (0), at, rank, service, probability, support."""
        return _frame(_rows([self]))

    def _table(self) -> Table:
        answer = self.answer
        place = "" if answer.at is None else f" after node {answer.at}"
        notes = [note for note in (answer.why,) if note]
        if answer.unknown:
            notes.append(f"not in the training data: {', '.join(answer.unknown)}")
        if answer.explanation is not None:
            notes += [
                f"{step.service}: {step.compositions} compositions after {' > '.join(step.after)}, "
                f"such as {', '.join(step.examples)}"
                for step in answer.explanation.steps
                if step.after
            ]
        rows = [(p.service, f"{p.probability:.4f}", p.support) for p in self]
        title = f"{answer.model}{place}, mask {answer.mask.value}, {answer.candidates} candidates"
        return Table(title, ("service", "probability", "support"), rows, notes=notes)

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table().html()


class Model:
    """A fitted recommender with its vocabulary, graph, mask and training evidence.

    Made by :func:`dagrec.fit` and :func:`dagrec.load`. What it stores on disk is a bundle, as the
    service and the command line use it.

    Examples
    --------
    >>> import dagrec
    >>> model = dagrec.fit(dagrec.from_paths([["table_1", "clean", "plot"]] * 3), "markov")
    >>> model.label, model.services
    ('markov', ('clean', 'plot'))
    """

    def __init__(self, bundle: Bundle, label: str | None = None) -> None:
        self.bundle = bundle
        self.label, self.fitted = bundle.model(label)
        self._predictor = Predictor(bundle)

    @property
    def recommender(self) -> Recommender:
        """The fitted recommender, with its ``config`` and, of a network, the ``history`` of epochs."""
        return self.fitted.recommender

    @property
    def services(self) -> tuple[str, ...]:
        """The keys of all services that can be recommended."""
        return self.bundle.vocabulary.services

    def recommend(
        self,
        contexts: Context | Sequence[Context],
        k: int = 10,
        *,
        as_dataframe: bool = False,
        **options: Any,
    ) -> Any:
        """The k services that most likely come next after one context, or after each of several.

        Parameters
        ----------
        contexts
            One context, or a list of them. A context is a path of node keys, a composition (native
            JSON, :class:`Composition`, or ``networkx.DiGraph``), or a request
            (``{"path": ..., "history": ...}``).
        k
            Services in each answer, at most.
        as_dataframe
            Whether to return one pandas frame with the columns context (position in the list), at,
            rank, service, probability and support.
        **options
            Fields of a request: ``at`` (the node of a composition to extend), ``mask`` (``observed``,
            ``catalogue``, ``soft`` or ``none``), ``history``, ``time``, ``allow``, ``deny``,
            ``no_repeats``, ``diversity``, ``novelty``, ``explain``.

        Returns
        -------
        Recommendations
            For one context; a list of them for a list of contexts. A composition without ``at`` is
            answered at each of its open ends: where it has several, its answer is a list, too.

        Raises
        ------
        RequestError
            For what is no context, naming its position in the list (counted from 0), and for an option
            that does not exist, naming the nearest ones, or does not fit.

        Examples
        --------
        >>> import dagrec
        >>> data = dagrec.from_paths([["table_1", "clean", "plot"]] * 3)
        >>> model = dagrec.fit(data, "markov")
        >>> model.recommend(["table_1", "clean"], k=1).services
        ['plot']
        """
        try:
            require_known(options, OPTIONS, "recommend")
        except ConfigError as error:
            raise RequestError(str(error)) from None
        given = as_list(contexts)
        single = is_context(given)
        items: list[Any] = [given] if single else list(given)
        fields = {"k": k, **options}
        answers = [
            self._recommend(item, fields, "" if single else f"contexts[{number}]: ")
            for number, item in enumerate(items)
        ]
        if as_dataframe:
            return _frame(_rows(answers))
        return answers[0] if single else answers

    def _recommend(
        self, context: Any, options: dict[str, Any], place: str
    ) -> Recommendations | list[Recommendations]:
        try:
            values = {**options, "model": self.label, **request_values(context)}
            if not isinstance(values.get("time"), str | None):
                values["time"] = parse_moment(values["time"], "time")
            answer = self._predictor.answer(make_request(values))
        except (RequestError, DataError) as error:
            raise RequestError(f"{place}{error}") from None
        if isinstance(answer, Answers):
            return [Recommendations(each) for each in answer.answers]
        return Recommendations(answer)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model to a folder, from which :func:`dagrec.load` reads it again.

        The folder is a bundle: ``dagrec predict --store PATH`` answers from it, too. A bundle that is
        there is replaced.

        Parameters
        ----------
        path
            A folder: a new one, an empty one, or one that a model was saved to before.

        Raises
        ------
        StoreError
            For a folder that holds anything else, or that cannot be written.

        Examples
        --------
        >>> import dagrec, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> dagrec.fit(dagrec.from_paths([["clean", "plot"]]), "popularity").save(folder)
        >>> dagrec.load(folder).label
        'popularity'
        """
        save_bundle(require_path(path, "save: path"), self.bundle)

    def _table(self) -> Table:
        entry = self.bundle.manifest.models[self.label]
        data = self.bundle.manifest.data
        rows: list[tuple[str, object]] = [
            ("recommender", entry.recommender),
            ("fitted to", f"{data.get('examples', 0):,} examples of {data.get('path', '?')}"),
            ("services", f"{len(self.services):,}"),
            ("parameters", f"{entry.parameters:,}"),
            ("mask", self.fitted.mask.value),
            ("temperature", f"{self.fitted.temperature:.3g}"),
            *((name, f"{value:.4f}") for name, value in entry.metrics.items() if name == "mrr"),
        ]
        notes = [f"note: {note}" for note in fit_notes(self.bundle)]
        return Table(f"model {self.label}", ("", "value"), rows, notes=notes)

    def __repr__(self) -> str:
        return str(self._table())

    def _repr_html_(self) -> str:
        return self._table().html()


def fit(
    data: Dataset,
    model: ModelSpec = "auto",
    *,
    mask: str | MaskPolicy = MaskPolicy.OBSERVED,
    examples: str | Mapping[str, Any] | None = None,
    calibrate: bool = False,
    seed: int | None = None,
    catalogue: Iterable[tuple[str | int, str | int]] | None = None,
    services: Mapping[str | int, str] | None = None,
    device: Device | None = None,
    progress: bool = True,
    **options: Any,
) -> Model:
    """Fit a recommender to a data set.

    Parameters
    ----------
    data
        From :func:`dagrec.read`, ``from_paths``, ``from_dataframe`` or ``from_networkx``.
    model
        A name (``dagrec models`` lists them) or a configured recommender, as
        ``dagrec.models.GRU4Rec(epochs=20)``. ``auto`` blends several, weighed on held-out data.
    mask
        Which services may follow a node: ``observed`` (seen in training), ``catalogue``, ``soft`` or
        ``none``.
    examples
        ``paths`` learns each step of each path, ``links`` each link once; by default that of the data's
        format. Or a dict of the options of examples (``form``, ``count``, ``max_paths``, ``seed``).
    calibrate
        Whether scores are divided by a temperature under which three held-out parts of the data are
        likeliest; without it the temperature is 1.
    seed
        Of sampling and training; one seed gives one model. By default that of a configured
        recommender, or 0.
    catalogue
        Declared (source key, service key) links, for mask ``catalogue``.
    services
        Key -> text of services that may be recommended whether or not the data show them.
    device
        ``auto``, ``cpu`` or ``cuda``; by default a GPU where there is one.
    progress
        Whether long training shows its progress.
    **options
        Hyperparameters of the recommender, where ``model`` is a name.

    Raises
    ------
    ConfigError
        For a name or hyperparameter that does not exist, naming the nearest ones.
    DataError
        For data without an example to learn from, and for a catalogue or services of another form.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.from_paths([["table_1", "clean", "plot"]] * 3)
    >>> dagrec.fit(data, "markov", order=2).recommender.config.order
    2
    """
    data = require_dataset(data, "fit: data")
    model = require_model(model, "fit: model")
    calibrate = require_flag(calibrate, "fit: calibrate")
    if seed is None:
        seed = model.seed if isinstance(model, Recommender) else 0
    config = run_config(model, options, fit, mask=mask, examples=examples, seed=seed)
    (label,) = config.models
    candidates = require_candidates(catalogue, services, config.mask, "fit")
    drawn, extracted = data.examples(config.examples)
    with running(progress, device) as bars:
        quality = Quality()
        if calibrate:
            task = bars.add("calibrating", total=CALIBRATION_PARTS)
            parts = held_out_parts(drawn, config, candidates, CALIBRATION_PARTS, CALIBRATION_SHARE)
            quality = measure_quality(label, config, parts, lambda _: bars.update(task, advance=1))
        bundle = fit_bundle(data.about(extracted), drawn, config, candidates, {label: quality})
    return Model(bundle)


def load(path: str | PathLike[str], model: str | None = None, *, version: str | None = None) -> Model:
    """A model that was saved, or the live bundle of a store.

    Parameters
    ----------
    path
        A folder that :meth:`Model.save` wrote, or a store that ``dagrec train`` published to.
    model
        Label of a model of the bundle; by default its champion.
    version
        Version of a store's bundle; by default the live one.

    Raises
    ------
    StoreError
        For a folder that is neither, or is damaged, for a version that the store does not have, and
        for any version where the folder is a single bundle.
    ConfigError
        For a label that the bundle does not have, naming those that it has, and for what cannot be
        the name of a version.

    Examples
    --------
    >>> import dagrec, tempfile
    >>> folder = tempfile.mkdtemp()
    >>> dagrec.fit(dagrec.from_paths([["clean", "plot"]]), "popularity").save(folder)
    >>> dagrec.load(folder).recommend(["clean"]).services
    ['plot']
    """
    folder = require_path(path, "load: path")
    if model is not None and not isinstance(model, str):
        raise ConfigError(
            f"load: model must be the label of a model, found {type(model).__name__}; "
            "leave it out for the champion"
        )
    if version is not None and not (isinstance(version, str) and VERSION.fullmatch(version)):
        raise ConfigError(
            f"load: version must be the name of a bundle in a store, found {quoted(version)}; "
            "`dagrec bundles` lists them"
        )
    return Model(open_bundle(folder, version), model)


def _rows(
    answers: Sequence[Recommendations | list[Recommendations]],
) -> Iterator[tuple[int, str | None, int, str, float, int]]:
    for number, item in enumerate(answers):
        for each in item if isinstance(item, list) else [item]:
            for p in each:
                yield number, each.answer.at, p.rank, p.service, p.probability, p.support


def _frame(rows: Iterator[tuple[Any, ...]]) -> pandas.DataFrame:
    try:
        import pandas
    except ModuleNotFoundError as error:
        raise missing_package("a data frame", error, "pandas") from None
    return pandas.DataFrame(list(rows), columns=list(COLUMNS))


__all__ = ["Model", "Recommendations", "fit", "load"]
