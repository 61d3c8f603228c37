"""Python objects into data sets: lists of paths, data frames, networkx graphs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, get_args

from dagrec.data.compositions import Composition, Node, OnCycle, compose
from dagrec.data.dataset import Dataset, ReadReport
from dagrec.data.formats.base import Draft, compose_draft
from dagrec.data.formats.calls import CallRow, draft_session, sessions
from dagrec.data.formats.graphs import Graph, Values, draft_of_graph, split_graph
from dagrec.data.scalars import (
    describe,
    nearest_to,
    optional_key,
    optional_text,
    parse_moment,
    plain,
    quoted,
    require_key,
)
from dagrec.errors import ConfigError, DataError

if TYPE_CHECKING:
    import networkx

Services = Collection[str | int] | Callable[[str], bool]
MAX_COLUMNS_SHOWN = 20
OBJECTS = Values(optional_key, optional_text, optional_text, parse_moment)
"""How attributes of networkx graphs are read."""


def from_paths(
    paths: Iterable[Sequence[Any]],
    *,
    services: Services | None = None,
    owners: Iterable[Any] | None = None,
    times: Iterable[Any] | None = None,
) -> Dataset:
    """A data set in which each path of node keys is one composition.

    Parameters
    ----------
    paths
        Node keys from the first to the last of each path: texts or integers.
    services
        Which keys are services, the others being tables or data: a collection of them, or a function
        of a key; by default all keys but those that only ever begin a path: nothing shows that they
        follow anything.
    owners, times
        One of each path: who made it, and when (seconds since 1970, ISO 8601 text, or datetime; UTC
        where it names no zone).

    Raises
    ------
    DataError
        For a path that is empty or no list, a key that is no text, or a time that is none, naming the
        path by its position, and for more or fewer owners or times than paths.

    Examples
    --------
    >>> import dagrec
    >>> data = dagrec.from_paths([["table_1", "clean", "plot"], ["table_1", "plot"]])
    >>> len(data)
    2
    """
    report = ReadReport()
    items = _list(paths, "paths", "a list of paths")
    keys_of_paths = [_keys(path, f"paths[{number}]") for number, path in enumerate(items)]
    chosen = _services(services)
    if chosen is None:
        chosen = frozenset(key for keys in keys_of_paths for key in keys[1:])
    is_service: Callable[[str], bool] = chosen.__contains__ if isinstance(chosen, frozenset) else chosen
    owners = _of_each_path(owners, len(items), "owners")
    times = _of_each_path(times, len(items), "times")
    compositions = []
    for number, (keys, owner, moment) in enumerate(zip(keys_of_paths, owners, times, strict=True)):
        what = f"paths[{number}]"
        nodes = [
            Node(str(i), key, "service" if is_service(key) else "data")
            for i, key in enumerate(keys, start=1)
        ]
        composition, _ = compose(
            f"path-{number}",
            nodes,
            [(a.id, b.id) for a, b in pairwise(nodes)],
            owner=optional_key(owner, f"{what}: owner"),
            time=parse_moment(moment, f"{what}: time"),
        )
        compositions.append(composition)
    if isinstance(chosen, frozenset):
        found = {node.key for composition in compositions for node in composition.nodes}
        if missing := len(chosen - found):
            report.notes["services that no path has"] = missing
    return _dataset(compositions, report, "a list of paths")


def from_dataframe(
    frame: Any,
    *,
    owner: str | int,
    service: str | int,
    time: str | int | None = None,
    session_gap: float | None = None,
) -> Dataset:
    """A data set of a log of calls, or of any table of users and items: a path per owner.

    Parameters
    ----------
    frame
        A ``pandas.DataFrame``, or anything else with named columns (polars, a dict of lists). One row
        is one call of a service by an owner.
    owner, service, time
        Names of the columns. Times are seconds since 1970, ISO 8601 text, or datetimes (UTC where
        they name no zone); without a column of times, the calls of an owner are in the order of the
        rows.
    session_gap
        Minutes of pause after which a new path begins; by default an owner has one path.

    Raises
    ------
    DataError
        For a column that does not exist, naming the nearest ones, and for a cell without an owner,
        service or time, naming its row (counted from 0).
    ConfigError
        For a session gap that is no positive number.

    Examples
    --------
    >>> import dagrec
    >>> table = {"user": ["ann", "ann", "bob"], "item": ["clean", "plot", "plot"], "at": [1, 2, 3]}
    >>> data = dagrec.from_dataframe(table, owner="user", service="item", time="at")
    >>> [[node.key for node in composition.nodes] for composition in data]
    [['clean', 'plot'], ['plot']]
    """
    if session_gap is not None:
        if time is None:
            raise DataError("session_gap needs a time column, found none; name it", rule="no-time")
        session_gap = _minutes(session_gap)
    owners = _column(frame, owner, "owner")
    services = _column(frame, service, "service")
    times = [None] * len(owners) if time is None else _column(frame, time, "time")
    if not len(owners) == len(services) == len(times):
        raise DataError(
            f"the columns of a data frame must have equal lengths, found {len(owners)} owners, "
            f"{len(services)} services and {len(times)} times; complete them",
            rule="wrong-length",
        )
    calls: dict[str, list[CallRow]] = {}
    for row, (owner_cell, service_cell, time_cell) in enumerate(
        zip(owners, services, times, strict=True)
    ):
        what = f"row {row}"
        who = require_key(owner_cell, f"{what}: {owner}")
        key = require_key(service_cell, f"{what}: {service}")
        when = parse_moment(time_cell, f"{what}: {time}")
        if when is None and time is not None:
            raise DataError(f"{what}: {time} must be a time, found none; fill it in", rule="no-time")
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

    Node attributes ``key`` (by default the node itself), ``kind`` (``service`` by default), ``text``,
    ``operation`` and ``time``, edge attributes ``output`` and ``input``, and graph attributes ``id`` or
    ``name``, ``owner``, ``time`` and ``goal`` are read where they are given. A node attribute
    ``composition`` splits a graph into several compositions.

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
    ConfigError
        For another ``on_cycle``.

    Examples
    --------
    >>> import dagrec, networkx
    >>> data = dagrec.from_networkx(networkx.DiGraph([("clean", "join"), ("join", "plot")]))
    >>> data[0].links
    (('clean', 'join'), ('join', 'plot'))
    """
    if on_cycle not in (choices := get_args(OnCycle)):
        nearest = nearest_to(on_cycle, choices)
        raise ConfigError(
            f"from_networkx: on_cycle must be fail, skip or break, found {quoted(on_cycle)}{nearest}"
        )
    items = [graphs] if hasattr(graphs, "edges") else _list(graphs, "graphs", "networkx graphs")
    report = ReadReport()
    compositions = []
    for number, graph in enumerate(items):
        what = f"graphs[{number}]"
        try:
            drafts = _drafts(graph, report.notes)
        except DataError as error:
            raise error.at(what) from None
        for draft in drafts:
            try:
                composition, dropped = compose_draft(draft, f"graph-{number}", on_cycle)
            except DataError as error:
                report.cycles += error.rule == "cycle"
                if error.rule != "cycle" or on_cycle != "skip":
                    raise error.at(what) from None
                report.skip(error.at(what))
                continue
            report.cycles += dropped > 0
            report.broken_links += dropped
            if repeated := len(draft.links) - len(set(draft.links)):
                report.notes["links given more than once"] += repeated
            compositions.append(composition)
    return _dataset(compositions, report, "networkx graphs")


def composition_of_graph(graph: networkx.DiGraph) -> Composition:
    """The only composition of a directed graph without cycles."""
    drafts = _drafts(graph, Counter())
    if len(drafts) != 1:
        raise DataError(
            f"a graph must hold one composition here, found {len(drafts)} (node attribute "
            "`composition`); give one at a time",
            rule="not-one",
        )
    return compose_draft(drafts[0], "graph", "fail")[0]


def _drafts(graph: networkx.DiGraph, notes: Counter[str]) -> list[Draft]:
    """The compositions of a directed graph, one unless its nodes say otherwise."""
    if not (hasattr(graph, "edges") and hasattr(graph, "is_directed") and graph.is_directed()):
        raise DataError(
            f"must be a directed networkx graph, found {type(graph).__name__}; use networkx.DiGraph",
            rule="wrong-type",
        )
    nodes = [(_node_id(name), attributes) for name, attributes in graph.nodes(data=True)]
    links = [(_node_id(a), _node_id(b), attributes) for a, b, attributes in graph.edges(data=True)]
    parts = split_graph(Graph(nodes, links, graph.graph), OBJECTS, notes)
    return [draft_of_graph(part, OBJECTS) for part in parts]


def _keys(path: Any, what: str) -> list[str]:
    """The keys of one path: a sequence, or a one-dimensional array or series."""
    if hasattr(path, "tolist"):
        path = path.tolist()
    if isinstance(path, str | bytes | bytearray) or not isinstance(path, Sequence):
        raise DataError(
            f"{what}: must be a list of node keys, found {describe(path)}; write ['a', 'b']",
            rule="wrong-type",
        )
    if not path:
        raise DataError(
            f"{what}: must hold at least one key, found none; leave it out", rule="no-nodes"
        )
    return [require_key(key, f"{what}[{i}]") for i, key in enumerate(path)]


def _list(values: Any, what: str, kind: str) -> list[Any]:
    """What an iterable holds that is neither text nor a mapping."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise DataError(
            f"{what} must be {kind}, found {describe(values)}; give a list", rule="wrong-type"
        )
    return list(values)


def _of_each_path(values: Any, count: int, what: str) -> list[Any]:
    """One value of each path; None of each where there are none."""
    if values is None:
        return [None] * count
    items = _list(values, what, "a list with one value for each path")
    if len(items) != count:
        raise DataError(
            f"{what} must have one value for each of {count} paths, found {len(items)}; "
            "write None where there is none",
            rule="wrong-length",
        )
    return items


def _column(frame: Any, name: Any, what: str) -> list[Any]:
    """The cells of a column."""
    if not (hasattr(frame, "columns") or isinstance(frame, Mapping)):
        raise DataError(
            f"a data frame must have named columns, found {type(frame).__name__}; "
            "make a pandas.DataFrame or a dict of lists",
            rule="wrong-type",
        )
    if name is None:
        raise DataError(
            f"a data frame needs a column for the {what}, found None; name it", rule="no-name"
        )
    columns = list(getattr(frame, "columns", frame))
    found = [column for column in columns if _is_named(column, name)]
    if not found:
        names = [column if isinstance(column, str) else quoted(column) for column in columns]
        there = ", ".join(names[:MAX_COLUMNS_SHOWN]) or "none"
        nearest = nearest_to(name, names) or f"; the columns are {there}"
        raise DataError(
            f"a data frame needs the column {quoted(name)} for the {what}, found none{nearest}",
            rule="missing-field",
        )
    if len(found) > 1:
        raise DataError(
            f"the column {quoted(name)} for the {what} must occur once, found {len(found)}; "
            "rename the others",
            rule="duplicate-column",
        )
    return _list(frame[found[0]], f"the column {quoted(name)} for the {what}", "a list of cells")


def _is_named(column: Any, name: Any) -> bool:
    """Whether a column has this name, whatever kind of name that is."""
    if isinstance(column, str) or isinstance(name, str):
        return isinstance(column, str) and isinstance(name, str) and column == name
    return quoted(column) == quoted(name)


def _minutes(gap: Any) -> float:
    """A positive number of minutes."""
    number = plain(gap)
    try:
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        minutes = float(number) if is_number else math.nan
    except OverflowError:  # an integer beyond all floats
        minutes = math.inf
    if not 0 < minutes < math.inf:
        raise ConfigError(
            f"from_dataframe: session_gap must be a positive number of minutes, found {quoted(gap)}; "
            "leave it out for one path an owner"
        )
    return minutes


def _services(services: Any) -> frozenset[str] | Callable[[str], bool] | None:
    """The keys of the services, or a function of a key; None where nobody says."""
    if services is None:
        return None
    if callable(services):
        return services  # type: ignore[no-any-return]
    keys = _list(services, "services", "a list of keys or a function of a key")
    return frozenset(require_key(key, "services: a key") for key in keys)


def _node_id(name: Any) -> str:
    """A node of a graph as text; anything that networkx takes has one."""
    return require_key(name if isinstance(name, int) else str(name), "a node")


def _dataset(compositions: Sequence[Composition], report: ReadReport, source: str) -> Dataset:
    if not compositions:
        skipped = sum(report.skipped.values())
        why = f"; {skipped} skipped, the first: {report.problems[0]}" if skipped else ""
        raise DataError(
            f"{source}: at least one composition is needed, found none{why}; give it some",
            rule="empty",
        )
    return Dataset.of(compositions, report, source=source)
