"""Galaxy's second format (gxformat2) as YAML or JSON: ``class: GalaxyWorkflow``, inputs and steps.

Inputs and steps are objects by label, or arrays of objects with a ``label`` or ``id``. A step names its
sources under ``in``, ``connect`` or as ``$link`` in its state, as ``label/output``, and can have a
workflow under ``run``. A file can have several workflows under ``$graph``, of which ``main`` calls the
others. The workflow is converted to the form of ``.ga`` files and read like them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from dagrec.data.compositions import MAX_KEY_LENGTH
from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import (
    Json,
    describe_value,
    optional_id,
    require_id,
    require_list,
    require_object,
)
from dagrec.data.formats.galaxy_flat import INNER_ID, MAX_DEPTH, NO_PORT
from dagrec.data.formats.galaxy_ga import draft_workflow
from dagrec.errors import DataError

CLASS = "GalaxyWorkflow"
CLASS_LINE = re.compile(rf"^class:[ \t]*[\"']?{CLASS}[\"']?[ \t]*$", re.MULTILINE)
"""How YAML is recognised that has no name, such as that of standard input."""
GRAPH = "$graph"
MAX_STEPS = 10_000
"""The largest number of steps of a workflow with the workflows of its ``$graph`` that it calls."""
MAX_STATE_DEPTH = 50
"""Links are looked for so deep in the state of a step."""
UNLABELED = "_unlabeled_"
"""How labels begin that gxformat2 makes up."""
TYPES = {
    "input": "data_input",
    "input_collection": "data_collection_input",
    "parameter": "parameter_input",
}
"""Types of steps in files of older versions."""
Workflow = dict[str, Json]


def _recognises(content: Content, options: ReadOptions) -> bool:
    if _is_unnamed_yaml(content):
        return True
    first = content.first
    graph = first.get(GRAPH)
    return first.get("class") == CLASS or (
        isinstance(graph, list)
        and any(isinstance(item, dict) and item.get("class") == CLASS for item in graph)
    )


def _is_unnamed_yaml(content: Content) -> bool:
    is_text = not content.is_json and not content.is_yaml
    return is_text and CLASS_LINE.search(content.text) is not None


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    if _is_unnamed_yaml(content):
        content = Content(content.text, f"{content.name}.yml")
    for item in content.items():
        if item.error is not None:
            reading.reject(item.error.at(item.place))
            continue
        yield Document(item.place, partial(_draft, item.value, reading))


def _draft(document: Json, reading: Reading) -> Draft:
    workflow = require_object(document, "a workflow")
    graph: dict[str, Workflow] = {}
    if GRAPH in workflow:
        for number, item in enumerate(require_list(workflow[GRAPH], GRAPH), start=1):
            where = f"{GRAPH} {number}"
            graph[require_id(require_object(item, where).get("id"), f"{where}: id")] = item
        if "main" not in graph:
            raise DataError(
                f"{GRAPH} must have a workflow with the id main, which calls the others, found "
                f"{', '.join(map(describe_value, list(graph)[:5])) or 'none'}; name it main",
                rule="missing-field",
            )
        workflow = graph["main"]
    level = _Level(graph, [0])
    return draft_workflow(level.converted(workflow, "the workflow", 0), reading)


@dataclass
class _Level:
    """A workflow that is converted to the form of ``.ga`` files. The ids of steps are their labels."""

    graph: dict[str, Workflow]
    count: list[int]
    """The number of all steps so far."""
    steps: dict[str, Workflow] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    """Label, other id or number of a step -> its id in ``steps``."""
    ids: dict[str, str] = field(default_factory=dict)
    """All names of a step -> its id in ``steps``."""

    def converted(self, workflow: Workflow, where: str, depth: int) -> Workflow:
        if depth > MAX_DEPTH:
            raise DataError(
                f"{where}: sub-workflows may be nested {MAX_DEPTH} deep, found more; flatten the file",
                rule="too-deep",
            )
        sources: dict[str, list[tuple[str, str]]] = {}
        for key, label, item in _labelled(workflow.get("inputs"), f"inputs of {where}"):
            doc = item.get("doc") if isinstance(item, dict) else None
            step = {"type": "data_input", "annotation": _text(doc)}
            self._add(key, label, item, step)
        for key, label, item in _labelled(workflow.get("steps"), f"steps of {where}"):
            name = f"step {len(self.steps) if key is None else key}"
            step = self._step(name, require_object(item, name), depth)
            sources[self._add(key, label, item, step)] = _sources(name, item)
        self.ids = self.aliases | {id_: id_ for id_ in self.steps}
        for id_, pairs in sources.items():
            self.steps[id_]["input_connections"] = self._connections(self.steps[id_], pairs)
        self._name_outputs(workflow, where)
        return {
            "uuid": workflow.get("uuid"),
            "name": workflow.get("label") or workflow.get("name"),
            "annotation": _text(workflow.get("doc")),
            "steps": self.steps,
        }

    def _name_outputs(self, workflow: Workflow, where: str) -> None:
        """Write the outputs of the workflow to its steps."""
        for key, _, item in _labelled(workflow.get("outputs"), f"outputs of {where}"):
            source = item.get("outputSource", item.get("source")) if isinstance(item, dict) else item
            if isinstance(source, str):
                end, output = self._end(source)
                if end in self.steps:
                    outputs = self.steps[end].setdefault("workflow_outputs", [])
                    outputs.append({"output_name": output, "label": key})

    def _add(self, key: str | None, label: str | None, item: Json, step: Workflow) -> str:
        """Add a converted step, and return its id."""
        number = str(len(self.steps))
        id_ = number if key is None else key
        self._check(id_)
        for alias in (label, item.get("id") if isinstance(item, dict) else None, number):
            if isinstance(alias, str | int):
                self.aliases.setdefault(str(alias), id_)
        is_named = label is not None and not label.startswith(UNLABELED)
        self.steps[id_] = step | {"label": label if is_named else None}
        return id_

    def _check(self, id_: str) -> None:
        self.count[0] += 1
        if self.count[0] > MAX_STEPS and self.graph:
            raise DataError(
                f"step {id_!r}: a workflow may have {MAX_STEPS} steps with those of its {GRAPH}, found "
                "more; split it",
                rule="too-large",
            )
        if id_ in self.steps:
            raise DataError(
                f"step {id_!r}: a label may occur once in a workflow, found it twice; rename one",
                rule="duplicate-id",
            )

    def _step(self, where: str, item: Workflow, depth: int) -> Workflow:
        type_ = item.get("type")
        step: Workflow = {
            "type": TYPES.get(type_, type_) if isinstance(type_, str) else type_,
            "tool_id": item.get("tool_id"),
            "annotation": _text(item.get("doc")),
            "when": item.get("when"),
            "errors": item.get("errors"),
        }
        run = item.get("run")
        if isinstance(run, str) and run.startswith("#") and run[1:] in self.graph:
            run = self.graph[run[1:]]
        if isinstance(run, dict) and run.get("class", CLASS) == CLASS and "steps" in run:
            level = _Level(self.graph, self.count)
            inner = level.converted(run, where, depth + 1)
            step |= {"type": "subworkflow", "subworkflow": inner, "tool_id": None, "names": level.ids}
        elif isinstance(run, dict) and "@import" not in run:  # a tool that is defined in the workflow
            step |= {"type": "tool", "tool_representation": run}
        elif run is not None:
            name = run.get("@import") if isinstance(run, dict) else run
            step |= {"type": "subworkflow", "content_id": name, "tool_id": None}
        elif step["type"] is None:
            step["type"] = "tool"
        return step

    def _connections(self, step: Workflow, pairs: list[tuple[str, str]]) -> Workflow:
        """The ``input_connections`` of a step with these pairs of an input and its source."""
        connections: dict[str, list[Json]] = {}
        inner = step.pop("names", None)
        for name, source in pairs:
            id_, output = self._end(source)
            if name == "$step":
                name = output = NO_PORT
            wire = {"id": id_, "output_name": output}
            if inner is not None and name in inner:
                wire[INNER_ID] = inner[name]
            connections.setdefault(name, []).append(wire)
        return connections

    def _end(self, source: str) -> tuple[str, str]:
        """The id of the step and the output that a source names. A label can contain slashes."""
        for text in (source, source.replace("#", "/", 1)):  # older versions write label#output
            if text in self.ids:
                return self.ids[text], "output"
            end = len(text[: MAX_KEY_LENGTH + 1])
            while (end := text.rfind("/", 0, end)) > 0:
                if text[:end] in self.ids:
                    return self.ids[text[:end]], text[end + 1 :]
        label, _, output = source.partition("/")
        return label, output or "output"


def _sources(where: str, item: Workflow) -> list[tuple[str, str]]:
    """The pairs of an input and its source of a step, in document order."""
    pairs: list[tuple[str, str]] = []
    for field_ in ("in", "connect"):
        for name, _, value in _labelled(item.get(field_), f"{where}: {field_}"):
            source = value.get("source") if isinstance(value, dict) else value
            for each in source if isinstance(source, list) else [source]:
                if isinstance(each, str) and each and name is not None:
                    pairs.append((name, each))
    return pairs + list(_links_of_state(item.get("state")))


def _links_of_state(state: Json) -> Iterator[tuple[str, str]]:
    """The pairs of an input and its source that are ``{$link: source}`` in the state of a step.

    The name of an input is its path, such as ``library|input_1``; items of arrays have numbers, except
    if they are links themselves.
    """
    stack: list[tuple[str, Json, int]] = [("", state, 0)]
    while stack:
        path, value, depth = stack.pop()
        if isinstance(value, dict) and "$link" in value:
            if isinstance(value["$link"], str | int):
                yield path, str(value["$link"])
        elif depth < MAX_STATE_DEPTH and isinstance(value, dict):
            below = [(f"{path}|{name}" if path else name, each) for name, each in value.items()]
            stack += [(name, each, depth + 1) for name, each in reversed(below)]
        elif depth < MAX_STATE_DEPTH and isinstance(value, list):
            named = [
                (path if isinstance(each, dict) and "$link" in each else f"{path}_{number}", each)
                for number, each in enumerate(value)
            ]
            stack += [(name, each, depth + 1) for name, each in reversed(named)]


def _text(doc: Json) -> Json:
    """The text of a ``doc``, which can be an array of lines."""
    if isinstance(doc, list):
        return "\n".join(line for line in doc if isinstance(line, str))
    return doc


def _labelled(value: Json, where: str) -> Iterator[tuple[str | None, str | None, Json]]:
    """The items of an object or of an array, each with its id and its label, if it has them.

    The id is the name in an object, and the label or the id in an array. It is the label, too, if there
    is no other one, unless it is a number.
    """
    if value is None:
        return
    if not isinstance(value, dict | list):
        raise DataError(
            f"{where} must be an object or an array, found {describe_value(value)}", rule="wrong-type"
        )
    pairs = value.items() if isinstance(value, dict) else [(None, item) for item in value]
    for name, item in pairs:
        fields = item if isinstance(item, dict) else {}
        label = optional_id(fields.get("label"), f"{where}: a label")
        if isinstance(value, dict):
            key: str | None = require_id(name, f"{where}: a label")
        else:
            id_ = fields.get("id") if isinstance(item, dict) else item
            key = label or optional_id(id_, f"{where}: a label")
        if label is None and key is not None and not key.isdecimal():
            label = key
        yield key, label, item


FORMAT = Format(
    name="galaxy-format2",
    description="Galaxy workflow in gxformat2 (YAML or JSON), sub-workflows expanded",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".yml", ".yaml", ".json"),
    fields=("class", "inputs", "outputs", "steps"),
)
