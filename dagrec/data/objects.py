"""Python objects into data sets: lists of paths, data frames, networkx graphs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dagrec.data.compositions import Composition, Node, OnCycle, compose
from dagrec.data.dataset import Dataset, ReadReport
from dagrec.data.formats.calls import CallRow, draft_session, sessions
from dagrec.data.formats.documents import describe_value, optional_text, require_id
from dagrec.data.formats.draft import parse_time
from dagrec.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import networkx

Services = Collection[str] | Callable[[str], bool]


def from_paths(
    paths: Iterable[Sequence[str | int]],
    *,
    services: Services | None = None,
    owners: Sequence[str] | None = None,
    times: Sequence[Any] | None = None,
) -> Dataset:
    """A data set in which each path of node keys is one composition.

    Parameters
    ----------
    paths
        Node keys from the first to the last of each path: texts or integers.
    services
        Which keys are services, the others being tables or data: a collection of them, or a function
        of a key; by default all are services.
    owners, times
        One of each path: who made it, and when (seconds since 1970, ISO 8601 text, or datetime).

    Raises
    ------
    DataError
        For a path that is empty or no list, a key that is no text, or a time that is none, naming the
        path by its position.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.from_paths([["table_1", "clean", "plot"], ["table_1", "plot"]])
    >>> len(data)
    2
    """
    report = ReadReport()
    is_service = _predicate(services)
    compositions = []
    for number, path in enumerate(paths, start=1):
        what = f"path {number}"
        if isinstance(path, str) or not isinstance(path, Sequence):
            raise DataError(
                f"{what}: must be a list of node keys, found {_shown(path)}; write ['a', 'b']",
                rule="wrong-type",
            )
        if not path:
            raise DataError(f"{what}: must hold at least one key, found none", rule="no-nodes")
        keys = [require_id(key, f"{what}: key {i}") for i, key in enumerate(path, start=1)]
        nodes = [
            Node(str(i), key, "service" if is_service(key) else "data")
            for i, key in enumerate(keys, start=1)
        ]
        owner = _of_path(owners, number, "owners")
        time = parse_moment(_of_path(times, number, "times"), f"{what}: time")
        composition, _ = compose(
            f"path-{number}",
            nodes,
            [(a.id, b.id) for a, b in pairwise(nodes)],
            owner=None if owner is None else require_id(owner, f"{what}: owner"),
            time=time,
        )
        compositions.append(composition)
    return _dataset(compositions, report, "a list of paths")


def from_dataframe(
    frame: Any,
    *,
    owner: str,
    service: str,
    time: str | None = None,
    session_gap: float | None = None,
) -> Dataset:
    """A data set of a log of calls, or of any table of users and items: a path per owner.

    Parameters
    ----------
    frame
        A ``pandas.DataFrame``, or anything else with named columns (polars, a dict of lists). One row
        is one call of a service by an owner.
    owner, service, time
        Names of the columns. Times are seconds since 1970, ISO 8601 text, or datetimes; without a
        column of times, the calls of an owner are in the order of the rows.
    session_gap
        Minutes of pause after which a new path begins; by default an owner has one path.

    Raises
    ------
    DataError
        For a column that does not exist, naming the nearest ones, and for a cell without an owner,
        service or time, naming its row (counted from 0).

    Examples
    --------
    >>> import dagrec
    >>> table = {"user": ["ann", "ann", "bob"], "item": ["clean", "plot", "plot"], "at": [1, 2, 3]}
    >>> data = dagrec.from_dataframe(table, owner="user", service="item", time="at")
    >>> [[node.key for node in composition.nodes] for composition in data]
    [['clean', 'plot'], ['plot']]
    """
    if session_gap is not None and time is None:
        raise DataError("session_gap needs a time column, found none; name it", rule="no-time")
    columns = {
        name: _column(frame, column, name)
        for name, column in (("owner", owner), ("service", service), ("time", time))
        if column is not None
    }
    calls: dict[str, list[CallRow]] = {}
    for row, (owner_cell, service_cell) in enumerate(
        zip(columns["owner"], columns["service"], strict=True)
    ):
        what = f"row {row}"
        who = require_id(_plain(owner_cell), f"{what}: {owner}")
        key = require_id(_plain(service_cell), f"{what}: {service}")
        when = None
        if time is not None:
            when = parse_moment(columns["time"][row], f"{what}: {time}")
            if when is None:
                raise DataError(
                    f"{what}: {time} must be a time, found none; fill it in", rule="no-time"
                )
        calls.setdefault(who, []).append(CallRow(when, row, who, key))
    report = ReadReport()
    compositions = []
    for own in calls.values():
        for session in sessions(sorted(own, key=CallRow.order), session_gap):
            draft = draft_session(session)
            composition, _ = compose(
                draft.id or "", draft.nodes, draft.links, owner=draft.owner, time=draft.time
            )
            compositions.append(composition)
    return _dataset(compositions, report, "a data frame")


def from_networkx(
    graphs: networkx.DiGraph | Iterable[networkx.DiGraph], *, on_cycle: OnCycle = "fail"
) -> Dataset:
    """A data set in which each directed graph is one composition.

    Node attributes ``key`` (by default the node itself), ``kind`` (``service`` by default), ``text``
    and ``time``, and graph attributes ``id`` or ``name``, ``owner`` and ``time`` are read where they
    are given.

    Parameters
    ----------
    graphs
        One ``networkx.DiGraph`` (or ``MultiDiGraph``), or several.
    on_cycle
        ``fail``; ``skip`` leaves a graph with a cycle out, and counts it; ``break`` drops the links
        that close a cycle, and counts them.

    Raises
    ------
    DataError
        For an undirected graph, an empty one, a cycle, or an attribute of the wrong type, naming the
        graph by its position.

    Examples
    --------
    >>> import dagrec, networkx
    >>> data = dagrec.from_networkx(networkx.DiGraph([("clean", "join"), ("join", "plot")]))
    >>> data[0].links
    (('clean', 'join'), ('join', 'plot'))
    """
    report = ReadReport()
    compositions = []
    for number, graph in enumerate([graphs] if hasattr(graphs, "edges") else graphs, start=1):
        what = f"graph {number}"
        try:
            composition, dropped = composition_of_graph(graph, on_cycle=on_cycle, id=f"graph-{number}")
        except DataError as error:
            if error.rule == "cycle":
                report.cycles += 1
                if on_cycle == "skip":
                    report.skip(error.at(what))
                    continue
            raise error.at(what) from None
        report.cycles += dropped > 0
        report.broken_links += dropped
        compositions.append(composition)
    return _dataset(compositions, report, "networkx graphs")


def composition_of_graph(
    graph: networkx.DiGraph, *, on_cycle: OnCycle = "fail", id: str = "graph"
) -> tuple[Composition, int]:
    """The composition of a directed graph, and how many links were dropped to break its cycles."""
    if not hasattr(graph, "edges") or not graph.is_directed():
        raise DataError(
            f"must be a directed networkx graph, found {type(graph).__name__}; use networkx.DiGraph",
            rule="wrong-type",
        )
    if not len(graph):
        raise DataError("a composition needs at least one node, found none", rule="no-nodes")
    nodes = []
    for name, attributes in graph.nodes(data=True):
        id_ = _node_id(name)
        what = f"node {id_!r}"
        key = attributes.get("key")
        nodes.append(
            Node(
                id=id_,
                key=id_ if key is None else require_id(key, f"{what}: key"),
                kind=optional_text(attributes.get("kind"), f"{what}: kind") or "service",
                text=optional_text(attributes.get("text"), f"{what}: text"),
                time=parse_moment(attributes.get("time"), f"{what}: time"),
            )
        )
    about: Mapping[str, Any] = graph.graph
    name, owner = about.get("id") or about.get("name"), about.get("owner")
    return compose(
        require_id(name, "id") if name else id,
        nodes,
        [(_node_id(source), _node_id(target)) for source, target in graph.edges()],
        owner=None if owner is None else require_id(owner, "owner"),
        time=parse_moment(about.get("time"), "time"),
        on_cycle="break" if on_cycle == "break" else "fail",
    )


def parse_moment(value: Any, what: str) -> float | None:
    """Seconds since 1970 from what :func:`parse_time` reads, or from a datetime of any library."""
    value = _plain(value)
    if hasattr(value, "timestamp"):
        return float(value.timestamp())
    return parse_time(value, what)


def _plain(value: Any) -> Any:
    """A cell as a Python value: numpy's and pandas' scalars unwrapped, missing values as None."""
    if hasattr(value, "item") and not hasattr(value, "timestamp"):
        value = value.item()
    missing = value is None or value != value  # as NaN and NaT do
    if isinstance(missing, bool) and missing:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)  # a column of integers with gaps is one of floats
    return value


def _column(frame: Any, name: str, what: str) -> list[Any]:
    names = {str(column): column for column in getattr(frame, "columns", frame)}
    if str(name) not in names:
        nearest = did_you_mean(name, names) or f"; there are {', '.join(names)}"
        raise DataError(
            f"a data frame needs the column {name!r} for the {what}, found none{nearest}",
            rule="missing-field",
        )
    return list(frame[names[str(name)]])


def _predicate(services: Services | None) -> Callable[[str], bool]:
    if services is None:
        return lambda _: True
    if callable(services):
        return services
    keys = frozenset(services)
    return lambda key: key in keys


def _of_path(values: Sequence[Any] | None, number: int, what: str) -> Any:
    if values is None:
        return None
    if number > len(values):
        raise DataError(
            f"{what}: must have one value for each path, found {len(values)} values and more paths",
            rule="wrong-length",
        )
    return values[number - 1]


def _node_id(name: Any) -> str:
    return name if isinstance(name, str) else str(name)


def _shown(value: Any) -> str:
    return (
        describe_value(value) if isinstance(value, str | int | float | None) else type(value).__name__
    )


def _dataset(compositions: Sequence[Composition], report: ReadReport, source: str) -> Dataset:
    if not compositions:
        raise DataError(
            f"{source}: at least one composition is needed, found none; give it some", rule="empty"
        )
    return Dataset.of(compositions, report, source=source)
