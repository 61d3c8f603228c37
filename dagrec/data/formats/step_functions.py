"""State machines of AWS Step Functions, in the Amazon States Language as JSON or YAML.

A node is a state. Its key is the resource of a task, without the region and account of an ARN and
reduced to ``service:action`` for integrated services, or else the type of the state. The links are the
transitions (``Next``, ``Choices``, ``Default``, ``Catch``), and those into the branches of a parallel
state and the iterator of a map state; their output says which. What waits for a task (``.sync``) is the
operation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions, documents_of_items
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import (
    Json,
    join_texts,
    optional_id,
    parse_json,
    require_id,
    require_list,
    require_object,
)
from dagrec.errors import DataError

MAX_DEPTH = 20
"""The largest nesting depth of parallel and map states."""
ARN = re.compile(r"arn:[^:]*:([^:]*):[^:]*:[^:]*:(.+)", re.DOTALL)
INTEGRATION = re.compile(r"(?:aws-sdk:)?([^:.]+:[^:.]+)(?:\.(.+))?")
"""The service and action of an integrated service, and what waits for it."""
ITERATORS = ("ItemProcessor", "Iterator")
"""The name for the inner states of a map state, and the name that it had before."""


def _recognises(content: Content, options: ReadOptions) -> bool:
    first = content.first
    return _is_machine(first) or _has_definition(first)


def _is_machine(value: Json) -> bool:
    return isinstance(value, dict) and isinstance(value.get("States"), dict) and "StartAt" in value


def _has_definition(value: dict[str, Json]) -> bool:
    """Whether an object describes a state machine as the API of AWS does."""
    inner = value.get("definition")
    if isinstance(inner, str):
        return inner.lstrip().startswith("{") and '"States"' in inner and '"StartAt"' in inner
    return _is_machine(inner)


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    yield from documents_of_items(content, reading, draft)


def draft(document: Json, reading: Reading) -> Draft:
    """Return a draft from a parsed definition. Raises :class:`DataError`, which names the field."""
    about = require_object(document, "a state machine")
    machine = about
    if "States" not in about and "definition" in about:
        inner = about["definition"]
        inner = parse_json(inner) if isinstance(inner, str) else inner
        machine = require_object(inner, "definition")
    found = _Machine()
    found.add(machine, "the state machine", depth=0)
    is_described = machine is not about
    return Draft(
        id=optional_id(about.get("name"), "name") if is_described else None,
        nodes=found.nodes,
        links=found.wires,
        goal=join_texts(about.get("name") if is_described else None, machine.get("Comment")),
    )


@dataclass
class _Machine:
    """The states of a state machine, with those inside of others."""

    nodes: list[Node] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    ids: dict[str, int] = field(default_factory=dict)
    """Id of a state -> the number of states that were given this name or one made of it."""

    def add(self, machine: dict[str, Json], where: str, depth: int) -> str:
        """Add the states of a machine at a nesting depth, and return the id of the first one."""
        if depth > MAX_DEPTH:
            raise DataError(
                f"{where[:80]}: parallel and map states may be nested {MAX_DEPTH} deep, found more; "
                "simplify them",
                rule="too-deep",
            )
        states = {
            require_id(name, f"{where}: name of a state"): require_object(state, f"state {name!r}")
            for name, state in require_object(machine.get("States"), f"{where}: States").items()
        }
        # Names should be unique in all of a machine, but inner states can repeat outer ones.
        ids = {name: self._new_id(name) for name in states}
        for name, state in states.items():
            self.nodes.append(_node(ids[name], name, state))
        for name, state in states.items():
            for output, target in _transitions(state, f"state {name!r}"):
                self.wires.append(Wire(ids[name], ids.get(target, target), output))
            for output, inner in _inner_machines(state, f"state {name!r}"):
                start = self.add(inner, f"state {name!r}: {output}", depth + 1)
                self.wires.append(Wire(ids[name], start, output))
        start = require_id(machine.get("StartAt"), f"{where}: StartAt")
        return ids.get(start, start)

    def _new_id(self, name: str) -> str:
        id_ = name
        while id_ in self.ids:
            self.ids[name] += 1
            id_ = f"{name}#{self.ids[name]}"
        self.ids[id_] = 1
        return id_


def _node(id_: str, name: str, state: dict[str, Json]) -> Node:
    where = f"state {name!r}"
    type_ = require_id(state.get("Type"), f"{where}: Type")
    operation = None
    key = type_
    if type_ == "Task":
        key, operation = _reduced(require_id(state.get("Resource"), f"{where}: Resource"))
    return Node(id=id_, key=key, text=join_texts(name, state.get("Comment")), operation=operation)


def _reduced(resource: str) -> tuple[str, str | None]:
    """Return a resource without region and account, and what waits for an integrated service."""
    arn = ARN.fullmatch(resource)
    if arn is None:
        return resource, None
    service, rest = arn.groups()
    integration = INTEGRATION.fullmatch(rest) if service == "states" else None
    if integration is None:
        return f"{service}:{rest}", None
    return integration[1], integration[2]


def _transitions(state: dict[str, Json], where: str) -> Iterator[tuple[str, str]]:
    """Yield the outputs of a state and the names of the states that they lead to."""
    for field_ in ("Choices", "Default", "Next", "Catch"):
        if field_ in ("Default", "Next"):
            if state.get(field_) is not None:
                yield field_, require_id(state[field_], f"{where}: {field_}")
            continue
        for i, item in enumerate(_optional_list(state.get(field_), f"{where}: {field_}")):
            rule = require_object(item, f"{where}: {field_} {i}")
            yield f"{field_}/{i}", require_id(rule.get("Next"), f"{where}: {field_} {i}: Next")


def _inner_machines(state: dict[str, Json], where: str) -> Iterator[tuple[str, dict[str, Json]]]:
    for i, branch in enumerate(_optional_list(state.get("Branches"), f"{where}: Branches")):
        yield f"Branches/{i}", require_object(branch, f"{where}: Branches {i}")
    for name in ITERATORS:
        if state.get(name) is not None:
            yield ITERATORS[0], require_object(state[name], f"{where}: {name}")
            return


def _optional_list(value: Json, name: str) -> list[Json]:
    return [] if value is None else require_list(value, name)


FORMAT = Format(
    name="step-functions",
    description="state machines of AWS Step Functions (Amazon States Language, JSON or YAML)",
    on_cycle="break",  # loops that wait are common
    recognises=_recognises,
    documents=_documents,
    suffixes=(".json", ".asl", ".jsonl", ".yml", ".yaml"),
    fields=("States", "StartAt", "Comment", "QueryLanguage", "TimeoutSeconds"),
)
