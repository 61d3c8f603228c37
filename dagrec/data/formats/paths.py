"""Lists of paths: each is one composition, whose nodes are services with these keys.

JSON is an array of paths or JSON lines of them. A path is an array of keys, or an object of such a
``path`` with an ``id``, ``owner``, ``time`` and ``goal``. Rows of keys without a header (CSV, TSV) look
like any table, so they are only read as paths if the format is named.

All nodes are services, even those that only ever begin a path: a path must mean the same in every file
and in a request, and what the other paths of a file contain must not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

from dagrec.data.compositions import Node
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content, Item
from dagrec.data.formats.documents import Json, optional_id, plain_text, require_id, require_list
from dagrec.data.formats.rows import SEPARATORS, numbered_rows
from dagrec.errors import DataError

ENDINGS = {".csv": ",", ".tsv": "\t", ".psv": "|"}
"""The endings of file names that tell the separator of cells."""


def _recognises(content: Content, options: ReadOptions) -> bool:
    if not content.is_json:
        return False
    head = content.head
    if isinstance(head, list) and not content.is_json_lines:
        head = head[0] if head else None
    if isinstance(head, dict) and not {"nodes", "links"} & head.keys():
        path = head.get("path")
        return isinstance(path, list) and not any(isinstance(key, list | dict) for key in path)
    return _is_path(head)


def _is_path(value: Json) -> bool:
    """Whether a value is an array of keys, and has at least one."""
    return isinstance(value, list) and bool(value) and all(map(_is_key, value))


def _is_key(value: Json) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    if not content.is_json:
        for line, row in numbered_rows(content.text, _separator(content), reading):
            cells = [cell.strip() for cell in row]
            while cells and not cells[-1]:  # tables have as many cells in each row
                cells.pop()
            yield Document(f"line {line}", partial(_draft, cells, reading))
        return
    is_one = not content.is_json_lines and _is_path(content.value)
    for item in [Item("composition 1", content.value)] if is_one else content.items():
        if item.error is not None:
            reading.reject(item.error.at(item.place))
        else:
            yield Document(item.place, partial(_draft, item.value, reading))


def _separator(content: Content) -> str:
    """The separator of cells: that of the ending, or the one that occurs in most lines."""
    for ending, separator in ENDINGS.items():
        if content.name.lower().endswith(ending):
            return separator
    lines = content.text.split("\n")[:1000]
    counts = {each: sum(each in line for line in lines) for each in SEPARATORS[:-1]}
    most = max(counts, key=lambda each: counts[each])
    return most if counts[most] else SEPARATORS[-1]


def _draft(value: Json, reading: Reading) -> Draft:
    about = value if isinstance(value, dict) else {"path": value}
    if "path" not in about:
        raise DataError("a path needs 'path', an array of keys; add it", rule="missing-field")
    keys = _keys(require_list(about["path"], "path" if about is value else "a path"))
    nodes = [Node(str(number), key) for number, key in enumerate(keys, start=1)]
    return Draft(
        id=optional_id(about.get("id"), "id"),
        nodes=nodes,
        links=[(before.id, after.id) for before, after in pairwise(nodes)],
        owner=optional_id(about.get("owner"), "owner"),
        time=reading.time(about.get("time"), "time"),
        goal=plain_text(about.get("goal")),
    )


def _keys(values: Sequence[Json]) -> list[str]:
    if not values:
        raise DataError("a path needs at least one key, found none; leave it out", rule="no-nodes")
    return [require_id(value, f"key {number}") for number, value in enumerate(values, start=1)]


FORMAT = Format(
    name="paths",
    description="lists of keys (JSON), or rows of keys without a header (CSV, TSV; name the format)",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".psv"),
    examples="paths",
    fields=("path",),
)
