"""Galaxy's second format (gxformat2) as YAML or JSON: ``class: GalaxyWorkflow``, inputs and steps.

Inputs and steps are objects by label, or arrays of objects with a ``label`` or ``id``. A step names its
sources under ``in`` (or ``connect``), as ``label/output``, and can have a workflow under ``run``. The
workflow is converted to the form of ``.ga`` files and read like them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import Json, describe_value, require_id, require_object
from dagrec.data.formats.galaxy_ga import INNER_ID, MAX_DEPTH, draft_workflow
from dagrec.errors import DataError

CLASS = "GalaxyWorkflow"


def _recognises(content: Content, options: ReadOptions) -> bool:
    return content.first.get("class") == CLASS


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    for item in content.items():
        if item.error is not None:
            reading.reject(item.error.at(item.place))
            continue
        yield Document(item.place, partial(_draft, item.value, reading))


def _draft(document: Json, reading: Reading) -> Draft:
    workflow = require_object(document, "a workflow")
    return draft_workflow(_converted(workflow, "the workflow", 0), reading)


def _converted(workflow: dict[str, Json], where: str, depth: int) -> dict[str, Json]:
    """A workflow in the form of ``.ga`` files, in which the ids of steps are their labels."""
    if depth > MAX_DEPTH:
        raise DataError(
            f"{where}: sub-workflows may be nested {MAX_DEPTH} deep, found more; flatten the file",
            rule="too-deep",
        )
    steps: dict[str, dict[str, Json]] = {}
    for label, item in _labelled(workflow.get("inputs"), f"inputs of {where}"):
        text = item.get("doc") if isinstance(item, dict) else None
        steps[label] = {"type": "data_input", "label": label, "annotation": text}
    for label, item in _labelled(workflow.get("steps"), f"steps of {where}"):
        if label in steps:
            raise DataError(
                f"step {label!r}: a label may occur once in a workflow, found it twice; rename one",
                rule="duplicate-id",
            )
        steps[label] = _step(label, require_object(item, f"step {label}"), depth)
    for label, item in _labelled(workflow.get("outputs"), f"outputs of {where}"):
        source = item.get("outputSource") if isinstance(item, dict) else item
        if isinstance(source, str):
            step, output = _end(source, steps)
            if step in steps:
                outputs = steps[step].setdefault("workflow_outputs", [])
                outputs.append({"output_name": output, "label": label})
    return {
        "uuid": workflow.get("uuid"),
        "name": workflow.get("label") or workflow.get("name"),
        "annotation": workflow.get("doc"),
        "steps": {
            label: step | {"input_connections": _connections(step, steps)}
            for label, step in steps.items()
        },
    }


def _step(label: str, item: dict[str, Json], depth: int) -> dict[str, Json]:
    step: dict[str, Json] = {
        "type": "tool",
        "tool_id": item.get("tool_id"),
        "label": item.get("label") or label,
        "annotation": item.get("doc"),
        "sources": _sources(label, item),
    }
    if isinstance(item.get("run"), dict):
        inner = _converted(item["run"], f"step {label}", depth + 1)
        step |= {"type": "subworkflow", "subworkflow": inner, "tool_id": None}
    elif item.get("type") in ("pause", "subworkflow"):
        step["tool_id"] = item.get("tool_id") or item["type"]
    return step


def _sources(label: str, item: dict[str, Json]) -> list[tuple[str, str]]:
    """The (input, source) pairs of a step."""
    where = f"step {label}: in"
    pairs: list[tuple[str, str]] = []
    for field in ("in", "connect"):
        for name, value in _labelled(item.get(field), where):
            source = value.get("source") if isinstance(value, dict) else value
            for each in source if isinstance(source, list) else [source]:
                if isinstance(each, str):
                    pairs.append((name, each))
    if isinstance(item.get("when"), str):  # an expression; its inputs are among the others
        return [pair for pair in pairs if pair[0] != "when"]
    return pairs


def _connections(step: dict[str, Json], steps: dict[str, dict[str, Json]]) -> dict[str, Json]:
    """The ``input_connections`` of a step."""
    connections: dict[str, list[Json]] = {}
    for name, source in step.pop("sources", []):
        id_, output = _end(source, steps)
        wire = {"id": id_, "output_name": output}
        if "subworkflow" in step:
            wire[INNER_ID] = name
        connections.setdefault(name, []).append(wire)
    return connections


def _end(source: str, steps: dict[str, dict[str, Json]]) -> tuple[str, str]:
    """The label and the output of a source; a label can contain slashes."""
    if source in steps:
        return source, "output"
    label, _, output = source.rpartition("/")
    return (label or source), (output if label else "output")


def _labelled(value: Json, where: str) -> Iterator[tuple[str, Json]]:
    """The items of an object by label, or of an array by their ``label`` or ``id``."""
    if value is None:
        return
    if isinstance(value, dict):
        for label, item in value.items():
            yield require_id(label, f"{where}: a label"), item
    elif isinstance(value, list):
        for number, item in enumerate(value):
            named = item.get("label") or item.get("id") if isinstance(item, dict) else item
            yield require_id(str(number) if named is None else named, f"{where}: a label"), item
    else:
        raise DataError(
            f"{where} must be an object or an array, found {describe_value(value)}", rule="wrong-type"
        )


FORMAT = Format(
    name="galaxy-format2",
    description="Galaxy workflow in gxformat2 (YAML or JSON), sub-workflows expanded",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".gxwf.yml", ".yml", ".yaml", ".json"),
    fields=("class", "inputs", "outputs", "steps"),
)
