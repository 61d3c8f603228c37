"""Galaxy workflow files (``.ga``): ``steps{id: {type, tool_id, input_connections}}``.

Answers of Galaxy's API are read, too, in which the connections are ``input_steps``. The ports of a link
are the names of the output and the input.

Sub-workflows are expanded: their steps replace the step that calls them. A link into a sub-workflow
first goes to the inner input step, which is then replaced by its sources.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions, documents_of_items
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import (
    Json,
    describe_value,
    join_texts,
    optional_text,
    require_id,
    require_list,
    require_object,
)
from dagrec.data.formats.galaxy_tsv import step_node
from dagrec.errors import DataError

MAX_DEPTH = 20
"""The largest nesting depth of sub-workflows; Galaxy has a limit, too."""

STEP_FIELDS = frozenset({"tool_id", "input_connections", "input_steps", "subworkflow", "type"})
"""At least one of them is a field of every step."""
INPUT_TYPES = frozenset({"data_input", "data_collection_input", "parameter_input"})
INNER_ID = "input_subworkflow_step_id"
Port = tuple[str, str]
"""(step id, output name)."""


def _recognises(content: Content, options: ReadOptions) -> bool:
    steps = content.first.get("steps")
    if content.first.get("class") == "GalaxyWorkflow" or "nodes" in content.first:
        return False
    first: Json = next(iter(steps.values()), None) if isinstance(steps, dict) else steps
    is_galaxy = any(name in content.first for name in ("a_galaxy_workflow", "format-version"))
    return is_galaxy or (isinstance(first, dict) and bool(set(first) & STEP_FIELDS))


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    yield from documents_of_items(content, reading, _draft)


def _draft(document: Json, reading: Reading) -> Draft:
    return draft_workflow(require_object(document, "a workflow"), reading)


def draft_workflow(workflow: dict[str, Json], reading: Reading) -> Draft:
    """Return the draft of a parsed ``.ga`` workflow."""
    flat = _FlatWorkflow(reading)
    flat.add(workflow, prefix="", depth=0)
    flat.replace_inner_inputs()
    names = [field for field in ("uuid", "name") if workflow.get(field) not in (None, "")]
    return Draft(
        id=require_id(workflow[names[0]], names[0]) if names else None,
        nodes=list(flat.nodes.values()),
        links=flat.links,
        goal=join_texts(workflow.get("name"), workflow.get("annotation")),
    )


@dataclass
class _FlatWorkflow:
    """A workflow with expanded sub-workflows. Ids of inner steps are ``outer.inner``."""

    reading: Reading
    nodes: dict[str, Node] = field(default_factory=dict)
    links: list[Wire] = field(default_factory=list)
    inner_ports: dict[Port, Port] = field(default_factory=dict)
    """Output of an expanded step -> the output of an inner step that it stands for."""
    inner_inputs: list[str] = field(default_factory=list)
    """Ids of the input steps of sub-workflows."""

    def add(self, workflow: dict[str, Json], prefix: str, depth: int) -> None:
        """Add the steps and links of a workflow at a nesting depth; ``prefix`` precedes their ids."""
        if depth > MAX_DEPTH:
            raise DataError(
                f"step {prefix[:60]!r}: sub-workflows may be nested {MAX_DEPTH} deep, "
                "found more; flatten the file",
                rule="too-deep",
            )
        where = f"steps of {prefix.rstrip('.') or 'the workflow'}"
        steps: dict[str, dict[str, Json]] = {}
        for name, item in require_object(workflow.get("steps"), where).items():
            id_ = prefix + require_id(name, f"{where}: id")
            steps[id_] = require_object(item, f"step {id_}")
        for id_, step in steps.items():
            kind = optional_text(step.get("type"), f"step {id_}: type")
            if kind == "subworkflow" and step.get("subworkflow") is not None:
                inner = require_object(step["subworkflow"], f"step {id_}: subworkflow")
                self.add(inner, f"{id_}.", depth + 1)
                self._name_outputs(id_, inner)
                self.reading.notes["sub-workflows expanded"] += 1
                continue
            if id_ in self.nodes:
                raise DataError(
                    f"step {id_!r}: an id may occur once, found a step of a sub-workflow with the same "
                    "id; rename the outer step",
                    rule="duplicate-id",
                )
            self.nodes[id_] = self._node(id_, step)
            if depth and kind in INPUT_TYPES:
                self.inner_inputs.append(id_)
        self._link(steps, prefix)

    def _link(self, steps: dict[str, dict[str, Json]], prefix: str) -> None:
        for id_, step in steps.items():
            for name, wire in _connections(id_, step):
                source, output = self._source(prefix, id_, wire)
                if id_ not in self.nodes and name == "when" and wire.get(INNER_ID) is None:
                    self.reading.notes["conditions of sub-workflows dropped"] += 1
                    continue
                target = self._target(id_, name, wire)
                self.links.append(Wire(source, target, output or None, name))

    def _node(self, id_: str, step: dict[str, Json]) -> Node:
        tool = step.get("tool_id")
        if step.get("type") == "subworkflow":  # a reference, without the content of the sub-workflow
            tool = step.get("content_id") or step.get("name")
            self.reading.notes["sub-workflows without their content"] += 1
        label = optional_text(step.get("label"), f"step {id_}: label")
        text = join_texts(label, step.get("annotation"))
        return step_node(
            id_, "" if tool in (None, "") else require_id(tool, f"step {id_}: tool_id"), text
        )

    def _name_outputs(self, id_: str, inner: dict[str, Json]) -> None:
        """Register the names that Galaxy gives to the outputs of an inner workflow in the outer one."""
        for name, step in inner["steps"].items():
            where = f"step {id_}.{name}: workflow_outputs"
            outputs = step.get("workflow_outputs")
            for item in require_list([] if outputs is None else outputs, where):
                output = require_object(item, where)
                port = (f"{id_}.{name}", _output_name(output, where))
                self.inner_ports[id_, f"{name}:{port[1]}"] = port
                if label := optional_text(output.get("label"), f"{where}: label"):
                    self.inner_ports[id_, label] = port

    def _source(self, prefix: str, target: str, wire: dict[str, Json]) -> Port:
        """The source of a link to ``target``, inside sub-workflows if it is one of their outputs."""
        where = f"step {target}"
        port = (prefix + require_id(wire.get("id"), f"{where}: id"), _output_name(wire, where))
        while port in self.inner_ports:
            port = self.inner_ports[port]
        if port[0] not in self.nodes:
            raise DataError(
                f"link {port[0]!r} -> {target!r}: its source must be a step of the workflow or a "
                f"named output of a sub-workflow, found {port[0]!r} (output {port[1]!r}), which is "
                "neither; correct the file",
                rule="dangling-link",
            )
        return port

    def _target(self, id_: str, name: str, wire: dict[str, Json]) -> str:
        """The target of a link to input ``name`` of a step; an inner step if that is a sub-workflow."""
        if id_ in self.nodes:
            return id_
        step = require_id(wire.get(INNER_ID), f"step {id_}: input {name!r}: {INNER_ID}")
        if (inner := f"{id_}.{step}") not in self.nodes:
            raise DataError(
                f"step {id_}: input {name!r} of the sub-workflow must name an inner step ({INNER_ID}), "
                f"found {describe_value(step)}; export the workflow again",
                rule="dangling-link",
            )
        return inner

    def replace_inner_inputs(self) -> None:
        """Replace each inner input that has sources by links from its sources to its targets."""
        for id_ in self.inner_inputs:
            # Duplicates are dropped, or nested inputs would multiply them at every level.
            sources = dict.fromkeys((w.source, w.output) for w in self.links if w.target == id_)
            if not sources or any(source == id_ for source, _ in sources):
                continue
            targets = dict.fromkeys((w.target, w.input) for w in self.links if w.source == id_)
            self.links = [wire for wire in self.links if id_ not in wire[:2]]
            existing = set(self.links)
            new = [
                Wire(source, target, output, input_)
                for source, output in sources
                for target, input_ in targets
            ]
            self.links += [wire for wire in new if wire not in existing]
            del self.nodes[id_]


def _connections(id_: str, step: dict[str, Json]) -> Iterator[tuple[str, dict[str, Json]]]:
    """Yield the name of an input and the output that it is connected to, for each connection."""
    field = "input_steps" if "input_steps" in step else "input_connections"
    inputs = require_object({} if step.get(field) is None else step[field], f"step {id_}: {field}")
    for name, ends in inputs.items():
        for end in ends if isinstance(ends, list) else [ends]:
            wire = require_object(end, f"step {id_}: input {name!r}")
            if field == "input_steps":
                wire = {"id": wire.get("source_step"), "output_name": wire.get("step_output")} | wire
            yield name, wire


def _output_name(item: dict[str, Json], where: str) -> str:
    return optional_text(item.get("output_name"), f"{where}: output_name") or ""


FORMAT = Format(
    name="galaxy-ga",
    description="Galaxy workflow file (.ga), sub-workflows expanded",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".ga", ".json", ".jsonl"),
    fields=("steps", "a_galaxy_workflow", "format-version", "annotation"),
)
