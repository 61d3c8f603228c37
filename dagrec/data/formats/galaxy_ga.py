"""Galaxy workflow files (``.ga``): ``steps{id: {type, tool_id, input_connections}}``.

Sub-workflows are expanded: their steps take the place of the step that called them. A link into a
sub-workflow goes to the inner input step first; such a step then gives way to what feeds it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dagrec.data.compositions import Link, Node
from dagrec.data.formats.documents import (
    Json,
    describe_value,
    optional_text,
    require_id,
    require_list,
    require_object,
)
from dagrec.data.formats.draft import Draft, Format, ReadOptions
from dagrec.data.formats.galaxy_tsv import step_node
from dagrec.errors import DataError

DEEPEST = 20
"""Levels of sub-workflows; a file with more would be refused by Galaxy too."""

INPUT_TYPES = frozenset({"data_input", "data_collection_input", "parameter_input"})
Port = tuple[str, str]
"""(step id, name of its output)."""


def _recognises(first: str | dict[str, Json]) -> bool:
    return isinstance(first, dict) and "steps" in first and "nodes" not in first


def _draft(document: Json, options: ReadOptions) -> Draft:
    workflow = require_object(document, "a workflow")
    flat = _Flat()
    flat.add(workflow, prefix="", depth=0)
    flat.replace_inner_inputs()
    names = [field for field in ("uuid", "name") if workflow.get(field) not in (None, "")]
    return Draft(
        id=require_id(workflow[names[0]], names[0]) if names else None,
        nodes=list(flat.nodes.values()),
        links=flat.links,
        notes=flat.notes,
    )


@dataclass
class _Flat:
    """A workflow with its sub-workflows laid flat; inner ids are ``outer.inner``."""

    nodes: dict[str, Node] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    made_by: dict[Port, Port] = field(default_factory=dict)
    """Output of an expanded step -> the inner output behind it."""
    inner_inputs: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, workflow: dict[str, Json], prefix: str, depth: int) -> None:
        if depth > DEEPEST:
            raise DataError(
                f"step {prefix[:60]!r}: sub-workflows may be nested {DEEPEST} deep, "
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
                self.notes["sub-workflows expanded"] += 1
                continue
            if id_ in self.nodes:
                raise DataError(
                    f"step {id_!r}: an id may occur once, found a step of a sub-workflow with the same "
                    "one; rename the outer step",
                    rule="duplicate-id",
                )
            self.nodes[id_] = self._node(id_, step)
            if depth and kind in INPUT_TYPES:
                self.inner_inputs.append(id_)
        self._link(steps, prefix)

    def _link(self, steps: dict[str, dict[str, Json]], prefix: str) -> None:
        for id_, step in steps.items():
            inputs = step.get("input_connections")
            inputs = require_object({} if inputs is None else inputs, f"step {id_}: input_connections")
            for name, ends in inputs.items():
                for end in ends if isinstance(ends, list) else [ends]:
                    wire = require_object(end, f"step {id_}: input {name!r}")
                    self.links.append((self._source(prefix, id_, wire), self._target(id_, name, wire)))

    def _node(self, id_: str, step: dict[str, Json]) -> Node:
        tool = step.get("tool_id")
        if step.get("type") == "subworkflow":  # called by reference: its content is not in the file
            tool = step.get("content_id") or step.get("name")
            self.notes["sub-workflows without their content"] += 1
        label = optional_text(step.get("label"), f"step {id_}: label")
        return step_node(
            id_, "" if tool in (None, "") else require_id(tool, f"step {id_}: tool_id"), label
        )

    def _name_outputs(self, id_: str, inner: dict[str, Json]) -> None:
        """The names under which Galaxy offers the outputs of an inner workflow to the outer one."""
        for name, step in inner["steps"].items():
            where = f"step {id_}.{name}: workflow_outputs"
            outputs = step.get("workflow_outputs")
            for item in require_list([] if outputs is None else outputs, where):
                output = require_object(item, where)
                made = (f"{id_}.{name}", _output_name(output, where))
                self.made_by[id_, f"{name}:{made[1]}"] = made
                if label := optional_text(output.get("label"), f"{where}: label"):
                    self.made_by[id_, label] = made

    def _source(self, prefix: str, target: str, wire: dict[str, Json]) -> str:
        where = f"step {target}"
        port = (prefix + require_id(wire.get("id"), f"{where}: id"), _output_name(wire, where))
        while port in self.made_by:
            port = self.made_by[port]
        if port[0] not in self.nodes:
            raise DataError(
                f"link {port[0]!r} -> {target!r}: its source must be a step of the workflow or a "
                f"named output of a sub-workflow, found {port[0]!r} (output {port[1]!r}), which is "
                "neither; correct the file",
                rule="dangling-link",
            )
        return port[0]

    def _target(self, id_: str, name: str, wire: dict[str, Json]) -> str:
        if id_ in self.nodes:
            return id_
        field = "input_subworkflow_step_id"
        step = require_id(wire.get(field), f"step {id_}: input {name!r}: {field}")
        if (inner := f"{id_}.{step}") not in self.nodes:
            raise DataError(
                f"step {id_}: input {name!r} of the sub-workflow must name an inner step ({field}), "
                f"found {describe_value(step)}; export the workflow again",
                rule="dangling-link",
            )
        return inner

    def replace_inner_inputs(self) -> None:
        """Each inner input that something feeds gives way to what feeds it."""
        for id_ in self.inner_inputs:
            # Each pair once: the links of inputs that feed inputs would multiply at every step.
            before = dict.fromkeys(source for source, target in self.links if target == id_)
            if not before or id_ in before:
                continue
            after = dict.fromkeys(target for source, target in self.links if source == id_)
            self.links = [link for link in self.links if id_ not in link]
            known = set(self.links)
            new = [(source, target) for source in before for target in after]
            self.links += [link for link in new if link not in known]
            del self.nodes[id_]


def _output_name(item: dict[str, Json], where: str) -> str:
    return optional_text(item.get("output_name"), f"{where}: output_name") or ""


FORMAT = Format(
    name="galaxy-ga",
    about="Galaxy workflow file (.ga), sub-workflows expanded",
    on_cycle="fail",
    recognises=_recognises,
    draft=_draft,
)
