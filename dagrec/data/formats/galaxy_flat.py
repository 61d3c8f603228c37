"""Workflows of Galaxy as graphs: steps, connections and ports, with expanded sub-workflows.

The steps of a sub-workflow replace the step that calls it. A link into a sub-workflow first goes to the
inner input step, which is then replaced by its sources.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from dagrec.data.compositions import Node, Wire
from dagrec.data.formats.base import Reading
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
MAX_LINKS = 100_000
"""The largest number of links that inputs of sub-workflows are replaced by."""
INPUT_TYPES = frozenset({"data_input", "data_collection_input", "parameter_input"})
CONNECTIONS = ("input_connections", "input_steps")
"""The field with the connections of a step, in files and in answers of the API."""
INNER_ID = "input_subworkflow_step_id"
NO_PORT = "__NO_INPUT_OUTPUT_NAME__"
"""The input and the output of a step that only has to run after another one."""
Port = tuple[str, str]
"""(step id, output name)."""


@dataclass
class FlatWorkflow:
    """A workflow with expanded sub-workflows. Ids of inner steps are ``outer.inner``."""

    reading: Reading
    nodes: dict[str, Node] = field(default_factory=dict)
    links: list[Wire] = field(default_factory=list)
    inner_ports: dict[Port, Port] = field(default_factory=dict)
    """Output of an expanded step -> the output of an inner step that it stands for."""
    inner_labels: dict[Port, str] = field(default_factory=dict)
    """(expanded step, label) -> the name of the input step of the sub-workflow with that label."""
    inner_inputs: list[str] = field(default_factory=list)
    """Ids of the input steps of sub-workflows."""
    has_errors: bool = False
    """Whether a step says that it has errors."""

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
            self.has_errors |= bool(step.get("errors"))
            if kind == "subworkflow" and step.get("subworkflow") is not None:
                inner = require_object(step["subworkflow"], f"step {id_}: subworkflow")
                self.add(inner, f"{id_}.", depth + 1)
                self._name_ports(id_, inner)
                self.reading.notes["sub-workflows expanded"] += 1
                continue
            if id_ in self.nodes:
                raise DataError(
                    f"step {id_!r}: an id may occur once, found a step of a sub-workflow with the same "
                    "id; rename the outer step",
                    rule="duplicate-id",
                )
            self.nodes[id_] = self._node(id_, kind, step)
            if depth and kind in INPUT_TYPES:
                self.inner_inputs.append(id_)
        self._link(steps, prefix)

    def _link(self, steps: dict[str, dict[str, Json]], prefix: str) -> None:
        for id_, step in steps.items():
            is_conditional = isinstance(step.get("when"), str)
            for name, wire in _connections(id_, step):
                outer = prefix + require_id(wire.get("id"), f"step {id_}: id")
                if NO_PORT in (name, wire.get("output_name")):
                    if id_ in self.nodes and outer in self.nodes:
                        self.links.append(Wire(outer, id_))
                    else:
                        self.reading.notes["links that only order sub-workflows dropped"] += 1
                    continue
                source, output = self._source(outer, id_, wire)
                if id_ in self.nodes:
                    self.links.append(Wire(source, id_, output or None, name))
                    continue
                step_name = wire.get(INNER_ID)
                if step_name is None and (is_conditional or name == "when"):
                    self.reading.notes["conditions of sub-workflows dropped"] += 1
                    continue
                if step_name is None:
                    step_name = self.inner_labels.get((id_, name))
                target = self._inner_target(id_, name, step_name)
                self.links.append(Wire(source, target, output or None, name))

    def _node(self, id_: str, kind: str | None, step: dict[str, Json]) -> Node:
        label = step.get("label")
        if not isinstance(label, str):
            optional_text(label, f"step {id_}: label")
        text = join_texts(label, step.get("annotation"))
        tool = step.get("tool_id")
        if kind == "subworkflow":  # a reference, without the content of the sub-workflow
            names = [step.get(name) for name in ("content_id", "workflow_id", "name", "label")]
            tool = next((name for name in names if name not in (None, "")), kind)
            self.reading.notes["sub-workflows without their content"] += 1
        elif tool in (None, ""):
            tool = self._tool_without_id(kind, step)
        return step_node(
            id_, "" if tool in (None, "") else require_id(tool, f"step {id_}: tool_id"), text
        )

    def _tool_without_id(self, kind: str | None, step: dict[str, Json]) -> Json:
        """The key of a step without a ``tool_id``, or an empty text for input data."""
        if kind in INPUT_TYPES:
            return ""
        if kind not in (None, "", "tool", "user_defined_tool"):
            return kind  # such as pause, a step that is no tool and no input
        defined = step.get("tool_representation")  # a tool that a user defined in the workflow
        names = [defined.get("id"), defined.get("name")] if isinstance(defined, dict) else []
        name = next((name for name in (*names, step.get("tool_uuid")) if name not in (None, "")), "")
        if name == "":
            self.reading.notes["steps without a tool read as input data"] += 1
        return name

    def _name_ports(self, id_: str, inner: dict[str, Json]) -> None:
        """Register the names that the outer workflow has for outputs and inputs of an inner one."""
        for name, step in inner["steps"].items():
            where = f"step {id_}.{name}: workflow_outputs"
            outputs = step.get("workflow_outputs")
            for item in require_list([] if outputs is None else outputs, where):
                output = require_object(item, where)
                port = (f"{id_}.{name}", _output_name(output, where))
                self.inner_ports[id_, f"{name}:{port[1]}"] = port
                if label := optional_text(output.get("label"), f"{where}: label"):
                    self.inner_ports[id_, label] = port
            if step.get("type") in INPUT_TYPES and isinstance(step.get("label"), str):
                self.inner_labels.setdefault((id_, step["label"]), name)

    def _source(self, outer: str, target: str, wire: dict[str, Json]) -> Port:
        """The source of a link to ``target``, inside sub-workflows if it is one of their outputs."""
        port = (outer, _output_name(wire, f"step {target}"))
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

    def _inner_target(self, id_: str, name: str, step_name: Json) -> str:
        """The inner step that input ``name`` of a sub-workflow belongs to."""
        step = require_id(step_name, f"step {id_}: input {name!r}: {INNER_ID}")
        if (inner := f"{id_}.{step}") not in self.nodes:
            raise DataError(
                f"step {id_}: input {name!r} of the sub-workflow must name an inner step ({INNER_ID}), "
                f"found {describe_value(step)}; export the workflow again",
                rule="dangling-link",
            )
        return inner

    def replace_inner_inputs(self) -> None:
        """Replace each inner input that has sources by links from its sources to its targets."""
        inner = set(self.inner_inputs)
        incoming: dict[str, dict[Wire, None]] = defaultdict(dict)
        outgoing: dict[str, dict[Wire, None]] = defaultdict(dict)
        alive: dict[Wire, None] = {}
        """The links from and to inner inputs, and those that replace them, without duplicates."""

        def add(wire: Wire) -> None:
            alive[wire] = incoming[wire.target][wire] = outgoing[wire.source][wire] = None

        touching = [wire for wire in self.links if not inner.isdisjoint(wire[:2])]
        others = set(self.links).difference(touching)
        for wire in touching:
            add(wire)
        number = len(self.links)
        for id_ in self.inner_inputs:
            # Duplicates are dropped, or nested inputs would multiply them at every level.
            sources = dict.fromkeys((w.source, w.output) for w in incoming[id_])
            targets = dict.fromkeys((w.target, w.input) for w in outgoing[id_])
            if not sources or any(source == id_ for source, _ in sources):
                continue
            number += len(sources) * len(targets)
            if number > MAX_LINKS:
                raise DataError(
                    f"step {id_}: a workflow may have {MAX_LINKS} links when its sub-workflows are "
                    "expanded, found more; split it",
                    rule="too-large",
                )
            for wire in [*incoming[id_], *outgoing[id_]]:
                del alive[wire], incoming[wire.target][wire], outgoing[wire.source][wire]
            for source, output in sources:
                for target, input_ in targets:
                    wire = Wire(source, target, output, input_)
                    if wire not in others:
                        add(wire)
            del self.nodes[id_]
        self.links = [wire for wire in self.links if inner.isdisjoint(wire[:2])] + list(alive)


def _connections(id_: str, step: dict[str, Json]) -> Iterator[tuple[str, dict[str, Json]]]:
    """Yield the name of an input and the output that it is connected to, for each connection."""
    field = next((name for name in CONNECTIONS if step.get(name) is not None), CONNECTIONS[0])
    inputs = require_object({} if step.get(field) is None else step[field], f"step {id_}: {field}")
    for name, ends in inputs.items():
        for end in ends if isinstance(ends, list) else [ends]:
            if end is None:  # an input without a connection, as the editor writes it
                continue
            wire = require_object(end, f"step {id_}: input {name!r}")
            if "source_step" in wire:
                wire = {"id": wire["source_step"], "output_name": wire.get("step_output")} | wire
            yield name, wire


def _output_name(item: dict[str, Json], where: str) -> str:
    return optional_text(item.get("output_name"), f"{where}: output_name") or ""
