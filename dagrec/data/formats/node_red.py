"""Node-RED flows: the array of nodes in ``flows.json`` or in an export, with ``wires`` between them.

Each tab and each definition of a subflow is a composition. The key of a node is its type, which is
``subflow:<name>`` for an instance of a subflow, and the port of a link is the index of the output.
Configuration nodes, comments and groups are dropped, junctions are replaced by the links through them,
and link nodes are linked to those of the same tab that they name. The Admin API's ``{"flows": [...]}``
and single flows (``{"label": ..., "nodes": [...]}``) are read, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import (
    Json,
    join_texts,
    optional_id,
    plain_text,
    require_id,
    require_list,
    require_object,
)
from dagrec.data.formats.editors import join_links, known_links, name_of, written_name
from dagrec.errors import DataError

TABS = ("tab", "subflow")
LINK_SENDERS = ("link out", "link call")
LINK_RECEIVER = "link in"
DROPPED = {"comment": "comment nodes dropped", "group": "groups dropped"}
"""Type of items that are no nodes of a flow -> the note about them."""


def _recognises(content: Content, options: ReadOptions) -> bool:
    head = content.head
    if isinstance(head, list) and _is_flow(head):
        return True
    return _is_flow(content.first.get("flows")) or _is_single_flow(content.first)


def _is_flow(items: Json) -> bool:
    """Whether an array has nodes with wires, or tabs."""
    return isinstance(items, list) and any(map(_is_item, items))


def _is_item(item: Json) -> bool:
    if not isinstance(item, dict) or "id" not in item or not isinstance(item.get("type"), str):
        return False
    return isinstance(item.get("wires"), list) or (
        (item["type"] == "tab" and "label" in item) or (item["type"] == "subflow" and "out" in item)
    )


def _is_single_flow(value: dict[str, Json]) -> bool:
    nodes = value.get("nodes")
    return isinstance(nodes, list) and any(
        _is_item(item) and isinstance(item.get("wires"), list) for item in nodes
    )


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    for place, items in _flows(content, reading):
        yield from _File(reading, place).documents(items)


def _flows(content: Content, reading: Reading) -> Iterator[tuple[str, list[Json]]]:
    """Yield each array of nodes in a file, and its place."""
    if isinstance(content.head, list) and not ("flows" in content.first or "nodes" in content.first):
        yield "", content.head
        return
    for item in content.items():
        try:
            if item.error is not None:
                raise item.error
            value = require_object(item.value, "a flow")
            if "flows" in value:
                yield f"{item.place}, ", require_list(value["flows"], "flows")
            else:
                yield f"{item.place}, ", _items_of_single_flow(value)
        except DataError as error:
            reading.reject(error.at(item.place))


def _items_of_single_flow(value: dict[str, Json]) -> list[Json]:
    """Return the flow of the Admin API as it would be in a file."""
    tab = value | {"type": "tab"}
    nodes = require_list(value.get("nodes"), "nodes")
    configs = require_list(value.get("configs") or [], "configs")
    inside = [item | {"z": value.get("id")} if isinstance(item, dict) else item for item in nodes]
    return [tab, *inside, *configs]


@dataclass
class _Tab:
    """A tab, or the definition of a subflow, and the numbers and items of its nodes."""

    about: dict[str, Json]
    nodes: list[tuple[int, dict[str, Json]]] = field(default_factory=list)
    comments: set[str] = field(default_factory=set)


@dataclass
class _File:
    """All nodes of a file, by tab."""

    reading: Reading
    place: str
    tabs: dict[str, _Tab] = field(default_factory=dict)
    """Id of a tab -> the tab. Nodes of no tab have the id ""."""
    ids: set[str] = field(default_factory=set)
    """The ids of all nodes of all tabs."""

    def documents(self, items: list[Json]) -> Iterator[Document]:
        """Yield a document for each tab that has nodes."""
        for i, item in enumerate(items, start=1):
            try:
                self._add_tab(require_object(item, f"node {i}"), i)
            except DataError as error:
                self.reading.reject(error.at(self.place.rstrip(", ")) if self.place else error)
        for i, item in enumerate(items, start=1):
            if isinstance(item, dict) and item.get("type") not in TABS:
                self._add_node(item, i)
        notes = self.reading.notes
        for number, (id_, tab) in enumerate(self.tabs.items(), start=1):
            if not tab.nodes:
                notes["empty tabs dropped"] += 1
                continue
            if tab.about.get("disabled") is True:
                notes["disabled tabs"] += 1
            yield Document(f"{self.place}tab {number}", partial(self.draft, id_, tab))

    def _add_tab(self, item: dict[str, Json], number: int) -> None:
        if item.get("type") in TABS:
            self.tabs[require_id(item.get("id"), f"node {number}: id")] = _Tab(item)

    def _add_node(self, item: dict[str, Json], number: int) -> None:
        id_, tab_id = name_of(item.get("id")), name_of(item.get("z"))
        note = DROPPED.get(name_of(item.get("type")))
        if note is None and not _is_on_canvas(item, tab_id):
            note = "configuration nodes dropped"
        if note is None:
            self.tabs.setdefault(tab_id, _Tab({})).nodes.append((number, item))
            self.ids.add(id_)
        else:
            self.reading.notes[note] += 1
            if tab_id in self.tabs:
                self.tabs[tab_id].comments.add(id_)

    def draft(self, id_: str, tab: _Tab) -> Draft:
        """Return the draft of a tab. Raises :class:`DataError`, which names the field."""
        nodes = [self._node(item, number) for number, item in tab.nodes]
        ids = {node.id for node in nodes}
        through = {node.id for node in nodes if node.key == "junction"}
        if through:
            self.reading.notes["junctions replaced by links"] += len(through)
        wires = known_links(self._wires(tab), ids, tab.comments, self.reading.notes)
        wires += self._named_links(tab, ids)
        about = tab.about
        return Draft(
            id=optional_id(id_, "z"),
            nodes=[node for node in nodes if node.id not in through],
            links=join_links(wires, through),
            goal=join_texts(about.get("label"), about.get("name"), about.get("info")),
        )

    def _node(self, item: dict[str, Json], number: int) -> Node:
        id_ = require_id(item.get("id"), f"node {number}: id")
        key = require_id(item.get("type"), f"node {number} ({id_}): type")
        if key.startswith("subflow:"):
            definition = self.tabs.get(key.removeprefix("subflow:"))
            name = None if definition is None else plain_text(definition.about.get("name"))
            key = require_id(f"subflow:{name}", f"node {number} ({id_}): type") if name else key
        if item.get("d") is True:
            self.reading.notes["disabled nodes"] += 1
        text = join_texts(written_name(item.get("name"), key), item.get("info"))
        return Node(id=id_, key=key, text=text)

    def _wires(self, tab: _Tab) -> Iterator[Wire]:
        for number, item in tab.nodes:
            where = f"node {number}: wires"
            outputs = item.get("wires")
            for index, ends in enumerate(require_list([] if outputs is None else outputs, where)):
                for end in require_list([] if ends is None else ends, where):
                    if end is not None:
                        yield Wire(str(item["id"]), require_id(end, where), str(index))

    def _named_links(self, tab: _Tab, ids: set[str]) -> list[Wire]:
        """Return the links between link nodes. Both ends name the other one."""
        links: dict[Wire, None] = {}
        for number, item in tab.nodes:
            type_, where = item["type"], f"node {number}: links"
            if type_ != LINK_RECEIVER and type_ not in LINK_SENDERS:
                continue
            others = item.get("links")
            for other in require_list([] if others is None else others, where):
                end, this = require_id(other, where), str(item["id"])
                if end in ids:
                    links[Wire(end, this) if type_ == LINK_RECEIVER else Wire(this, end)] = None
                elif type_ != LINK_RECEIVER:
                    place = "in other tabs" if end in self.ids else "that are gone"
                    self.reading.notes[f"links to nodes {place} dropped"] += 1
        return list(links)


def _is_on_canvas(item: dict[str, Json], tab_id: str) -> bool:
    """Whether an item is a node of a flow; configuration nodes have no wires and no position."""
    has_position = "x" in item and "y" in item
    if "wires" in item:
        return has_position or tab_id != ""
    return has_position and tab_id != ""


FORMAT = Format(
    name="node-red",
    description="Node-RED flows (flows.json, exports, the Admin API): a composition for each tab",
    on_cycle="break",  # loops are common in flows
    recognises=_recognises,
    documents=_documents,
    suffixes=(".json",),
    fields=("z", "wires", "flows", "rev"),
)
