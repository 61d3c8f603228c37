"""Edge lists: rows of text with a source and a target, which are names of nodes.

With a column that tells compositions apart, its rows with the same cell are one composition, in any
order; without one, the file is one composition. The id of a node is its name, and so is its key, unless
there is a column for it. A row with only one of both names is a node without a link. Of a composition,
the owner is that of its rows if they all have the same, and the time is the latest. In a file without
a header, columns have the names 1, 2, 3 ...
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.calls import USUAL_NAMES as CALLS
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import optional_id
from dagrec.data.formats.rows import Row, Table
from dagrec.errors import DataError

PAIRS = (("source", "target"), ("from", "to"), ("src", "dst"))
"""The usual names of the columns of both ends."""
COMPOSITIONS = ("composition", "composition_id", "workflow", "workflow_id", "graph", "dag", "dag_id")
OWNERS = ("owner", "user", "user_id", "userid")


class _End(NamedTuple):
    """The indices of the columns of one end of a link."""

    name: int
    key: int | None
    kind: int | None


class _Columns(NamedTuple):
    """The indices of the columns; None for those that the table does not have."""

    source: _End
    target: _End
    composition: int | None
    owner: int | None
    time: int | None
    output: int | None
    input: int | None


def _table(content: Content, options: ReadOptions) -> Table:
    names = (options.source_column, options.target_column, options.composition_column)
    return Table.of(content.text, (*names, options.owner_column, options.time_column))


def _recognises(content: Content, options: ReadOptions) -> bool:
    if content.is_json or content.is_yaml:
        return False
    return is_edge_list(_table(content, options), options)


def is_edge_list(table: Table, options: ReadOptions) -> bool:
    """Whether a table has columns for both ends of a link, and is no call log."""
    if options.service_column is not None or _pair(table, options) is None:
        return False
    # A call log can have more columns, such as the source and target of a message.
    is_named = options.source_column or options.target_column or options.composition_column
    columns = [table.find(None, CALLS[name]) for name in ("owner", "service", "time")]
    return bool(is_named) or None in columns


def _pair(table: Table, options: ReadOptions) -> tuple[int, int] | None:
    """The columns of both ends, which are named by options or have usual names."""
    for source_name, target_name in PAIRS:
        source = table.find(options.source_column, [source_name])
        target = table.find(options.target_column, [target_name])
        if source is not None and target is not None:
            return source, target
    return None


def _columns(table: Table, options: ReadOptions) -> _Columns:
    pair = _pair(table, options)
    if pair is None:
        sources, targets = zip(*PAIRS, strict=True)
        pair = (
            table.column("source", options.source_column, sources, "--source-column"),
            table.column("target", options.target_column, targets, "--target-column"),
        )

    def column(what: str, option: str | None, usual_names: Sequence[str]) -> int | None:
        if option is not None:
            return table.column(what, option, (), f"--{what}-column")
        return table.find(None, usual_names)

    def end(what: str, index: int) -> _End:
        return _End(index, table.find(None, [f"{what}_key"]), table.find(None, [f"{what}_kind"]))

    return _Columns(
        source=end("source", pair[0]),
        target=end("target", pair[1]),
        composition=column("composition", options.composition_column, COMPOSITIONS),
        owner=column("owner", options.owner_column, OWNERS),
        time=column("time", options.time_column, CALLS["time"]),
        output=table.find(None, ["output", "source_port"]),
        input=table.find(None, ["input", "target_port"]),
    )


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    return documents_of_edges(_table(content, reading.options), reading)


def documents_of_edges(table: Table, reading: Reading) -> Iterator[Document]:
    """The compositions in a table of links."""
    columns = _columns(table, reading.options)
    compositions: dict[str, list[Row]] = {}
    for line, row in table.rows(reading):
        name = _cell(row, columns.composition)
        if columns.composition is not None and not name:
            error = DataError(
                "a row needs the name of its composition, found none; add it", rule="bad-row"
            )
            reading.reject(error.at(f"{table.row_name} {line}"))
            continue
        compositions.setdefault(name, []).append((line, row))
    for name, rows in compositions.items():
        place = f"composition {name}" if name else "composition 1"
        yield Document(place, partial(_draft, name, rows, table, columns, reading))


def _draft(name: str, rows: Sequence[Row], table: Table, columns: _Columns, reading: Reading) -> Draft:
    nodes: dict[str, Node] = {}
    links, owners, times = [], set(), []
    for line, row in rows:
        try:
            ends = [_node(row, end, nodes) for end in (columns.source, columns.target)]
            if ends == [None, None]:
                raise DataError(
                    "a row needs a source or a target, found neither; add them", rule="missing-id"
                )
            output = optional_id(_cell(row, columns.output), "output")
            input_ = optional_id(_cell(row, columns.input), "input")
            owners.add(optional_id(_cell(row, columns.owner), "owner"))
            times.append(reading.time(_cell(row, columns.time), "time"))
        except DataError as error:
            raise error.at(f"{table.row_name} {line}") from None
        source, target = ends
        if source is not None and target is not None:
            links.append(Wire(source, target, output, input_))
    return Draft(
        id=optional_id(name, "composition"),
        nodes=[replace(n, key=n.key or n.id, kind=n.kind or "service") for n in nodes.values()],
        links=links,
        owner=owners.pop() if len(owners) == 1 else None,
        time=max((time for time in times if time is not None), default=None),
    )


def _node(row: list[str], end: _End, nodes: dict[str, Node]) -> str | None:
    """Add a node, or what a row says about it, to the nodes by id, and return its id."""
    id_ = optional_id(_cell(row, end.name), "the name of a node")
    if id_ is None:
        return None
    key = optional_id(_cell(row, end.key), "the key of a node") or ""
    kind = optional_id(_cell(row, end.kind), "the kind of a node") or ""
    # Until something is given, a node has neither a key nor a kind.
    node = nodes.get(id_) or Node(id_, "", "")
    for what, known, value in (("key", node.key, key), ("kind", node.kind, kind)):
        if value and known and value != known:
            raise DataError(
                f"node {id_!r}: must have one {what} in a composition, found {value!r} "
                f"after {known!r}; rename one of the nodes",
                rule=f"two-{what}s",
            )
    if id_ not in nodes or (key and not node.key) or (kind and not node.kind):
        nodes[id_] = Node(id_, node.key or key, node.kind or kind)
    return id_


def _cell(row: Sequence[str], column: int | None) -> str:
    return "" if column is None else row[column].strip()


FORMAT = Format(
    name="edges",
    description="edge list (CSV, TSV) of source and target, with or without a composition column",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".csv", ".tsv"),
    fields=("source", "target", "from", "to", "src", "dst"),
)
