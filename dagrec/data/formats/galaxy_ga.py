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
    need_id,
    need_list,
    need_object,
    optional_text,
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
    workflow = need_object(document, "a workflow")
    flat = _Flat()
    flat.add(workflow, prefix="", depth=0)
    flat.replace_inner_inputs()
    name = workflow.get("uuid") or workflow.get("name")
    return Draft(
        id=None if name is None else need_id(name, "name"),
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
        items = need_object(workflow.get("steps"), where).items()
        steps = {prefix + name: need_object(item, f"step {prefix}{name}") for name, item in items}
        for id_, step in steps.items():
            if step.get("type") == "subworkflow" and step.get("subworkflow") is not None:
                inner = need_object(step["subworkflow"], f"step {id_}: subworkflow")
                self.add(inner, f"{id_}.", depth + 1)
                self._name_outputs(id_, inner)
                self.notes["sub-workflows expanded"] += 1
            else:
                self.nodes[id_] = self._node(id_, step)
                if depth and step.get("type") in INPUT_TYPES:
                    self.inner_inputs.append(id_)
        for id_, step in steps.items():
            wires = need_object(step.get("input_connections") or {}, f"step {id_}: input_connections")
            for name, ends in wires.items():
                for end in ends if isinstance(ends, list) else [ends]:
                    wire = need_object(end, f"step {id_}: {name}")
                    self.links.append((self._source(prefix, id_, wire), self._target(id_, name, wire)))

    def _node(self, id_: str, step: dict[str, Json]) -> Node:
        tool = step.get("tool_id")
        if step.get("type") == "subworkflow":  # called by reference: its content is not in the file
            tool = step.get("content_id") or step.get("name")
            self.notes["sub-workflows without their content"] += 1
        label = optional_text(step.get("label"), f"step {id_}: label")
        return step_node(
            id_, "" if tool in (None, "") else need_id(tool, f"step {id_}: tool_id"), label
        )

    def _name_outputs(self, id_: str, inner: dict[str, Json]) -> None:
        """The names under which Galaxy offers the outputs of an inner workflow to the outer one."""
        for name, step in inner["steps"].items():
            outputs = need_list(step.get("workflow_outputs") or [], f"step {id_}.{name}: outputs")
            for item in outputs:
                output = need_object(item, f"step {id_}.{name}: workflow_outputs")
                made = (f"{id_}.{name}", str(output.get("output_name")))
                self.made_by[id_, f"{name}:{made[1]}"] = made
                if isinstance(label := output.get("label"), str):
                    self.made_by[id_, label] = made

    def _source(self, prefix: str, target: str, wire: dict[str, Json]) -> str:
        port = (prefix + need_id(wire.get("id"), f"step {target}: id"), str(wire.get("output_name")))
        while port in self.made_by:
            port = self.made_by[port]
        if port[0] not in self.nodes:
            raise DataError(
                f"link {port[0]!r} -> {target!r}: its source must be a step of the workflow or a "
                f"named output of a sub-workflow, found output {port[1]!r}; correct the file",
                rule="dangling-link",
            )
        return port[0]

    def _target(self, id_: str, name: str, wire: dict[str, Json]) -> str:
        if id_ in self.nodes:
            return id_
        inner = f"{id_}.{wire.get('input_subworkflow_step_id')}"
        if inner not in self.nodes:
            raise DataError(
                f"step {id_!r}: input {name!r} of the sub-workflow must name an inner step "
                f"(input_subworkflow_step_id), found {wire.get('input_subworkflow_step_id')!r}; "
                "export the workflow again",
                rule="dangling-link",
            )
        return inner

    def replace_inner_inputs(self) -> None:
        """Each inner input that something feeds gives way to what feeds it."""
        for id_ in self.inner_inputs:
            before = [source for source, target in self.links if target == id_]
            if not before:
                continue
            after = [target for source, target in self.links if source == id_]
            self.links = [link for link in self.links if id_ not in link]
            self.links += [(source, target) for source in before for target in after]
            del self.nodes[id_]


FORMAT = Format(
    name="galaxy-ga",
    about="Galaxy workflow file (.ga), sub-workflows expanded",
    on_cycle="fail",
    recognises=_recognises,
    draft=_draft,
)
