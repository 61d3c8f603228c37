"""Galaxy workflow files (``.ga``): ``steps{id: {type, tool_id, input_connections}}``.

Answers of Galaxy's API are read, too, in which the connections are ``input_steps``. The ports of a link
are the names of the output and the input. Sub-workflows are expanded.
"""

from __future__ import annotations

from collections.abc import Iterator

from dagrec.data.formats.base import Document, Draft, Format, Reading, ReadOptions, documents_of_items
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import Json, join_texts, optional_id, require_id, require_object
from dagrec.data.formats.galaxy_flat import (
    CONNECTIONS,
    INNER_ID,
    INPUT_TYPES,
    MAX_DEPTH,
    FlatWorkflow,
)

API_CLASSES = ("StoredWorkflow", "Workflow")
"""``model_class`` of the answers of the API."""


def _recognises(content: Content, options: ReadOptions) -> bool:
    first = content.first
    if "steps" not in first or "class" in first or "nodes" in first:
        return False
    steps = first["steps"]
    if str(first.get("a_galaxy_workflow")).lower() == "true":
        return True
    if not isinstance(steps, dict) or not all(isinstance(step, dict) for step in steps.values()):
        return False
    if first.get("model_class") in API_CLASSES:
        return True
    return any(
        isinstance(step.get(name), dict) and ("type" in step or "tool_id" in step)
        for step in steps.values()
        for name in CONNECTIONS
    )


def _documents(content: Content, reading: Reading) -> Iterator[Document]:
    yield from documents_of_items(content, reading, _draft)


def _draft(document: Json, reading: Reading) -> Draft:
    return draft_workflow(require_object(document, "a workflow"), reading)


def draft_workflow(workflow: dict[str, Json], reading: Reading) -> Draft:
    """Return the draft of a parsed ``.ga`` workflow."""
    flat = FlatWorkflow(reading)
    flat.add(workflow, prefix="", depth=0)
    flat.replace_inner_inputs()
    if workflow.get("deleted") is True:
        reading.notes["deleted workflows"] += 1
    if flat.has_errors or workflow.get("has_errors") is True:
        reading.notes["workflows with errors"] += 1
    if len(flat.nodes) > 1 and not flat.links:
        reading.notes["workflows without any link"] += 1
    is_answer = "model_class" in workflow
    names = ("uuid", "id", "name") if is_answer else ("uuid", "name")
    name = next((name for name in names if workflow.get(name) not in (None, "")), None)
    times = ("update_time", "create_time") if is_answer else ()
    time = next((name for name in times if workflow.get(name) not in (None, "")), None)
    return Draft(
        id=require_id(workflow[name], name) if name else None,
        nodes=list(flat.nodes.values()),
        links=flat.links,
        owner=optional_id(workflow.get("owner"), "owner") if is_answer else None,
        time=reading.time(workflow[time], time) if time else None,
        goal=join_texts(workflow.get("name"), workflow.get("annotation")),
    )


FORMAT = Format(
    name="galaxy-ga",
    description="Galaxy workflow file (.ga) or answer of the API, sub-workflows expanded",
    recognises=_recognises,
    documents=_documents,
    suffixes=(".ga", ".json", ".jsonl"),
    fields=("steps", "a_galaxy_workflow", "format-version", "annotation"),
)

__all__ = ["FORMAT", "INNER_ID", "INPUT_TYPES", "MAX_DEPTH", "draft_workflow"]
