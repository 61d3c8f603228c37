"""Workflows in the database of Galaxy: the latest version of each stored workflow.

The steps and connections of a workflow are put together as in a ``.ga`` file, and then read as such a
file: sub-workflows are expanded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from dagrec.data.databases.connection import Database
from dagrec.data.databases.queries import cell_text
from dagrec.data.formats.base import Document, Draft, Reading
from dagrec.data.formats.content import Content
from dagrec.data.formats.documents import Json, plain_text
from dagrec.data.formats.galaxy_ga import FORMAT, INPUT_TYPES, MAX_DEPTH
from dagrec.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import Select

BATCH = 100
"""The number of workflows whose steps are fetched by one statement."""
MAX_ROWS = 20_000
"""The largest number of steps, connections and outputs of a workflow."""
MAX_STEPS = 10_000
"""The largest number of steps of a workflow with its sub-workflows."""


@dataclass
class _Workflow:
    """The rows of a version of a workflow."""

    steps: dict[int, Any] = field(default_factory=dict)
    """Steps by id, in their order."""
    connections: list[Any] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    rows: int = 0

    def fits(self) -> bool:
        """Count a row, and return whether it is within the limit."""
        self.rows += 1
        return self.rows <= MAX_ROWS

    def names(self) -> dict[int, str]:
        """The name of each step in a file, by the id of the step."""
        names = {id_: str(step.order_index) for id_, step in self.steps.items()}
        if len(set(names.values())) < len(names):
            raise DataError(
                "the steps of a workflow must have distinct values of order_index, found one twice; "
                "save the workflow again",
                rule="duplicate-id",
            )
        return names


class _Tables:
    """The tables of workflows. Raises :class:`DataError` if the database does not have them."""

    def __init__(self, database: Database) -> None:
        self.stored = database.table(
            "stored_workflow",
            ("id", "latest_workflow_id"),
            ("name", "user_id", "update_time", "deleted"),
        )
        self.workflow = database.table("workflow", ("id",), ("has_errors",))
        self.step = database.table(
            "workflow_step",
            ("id", "workflow_id", "type", "tool_id", "order_index"),
            ("label", "subworkflow_id"),
        )
        self.input = database.table("workflow_step_input", ("id", "workflow_step_id", "name"), ())
        self.connection = database.table(
            "workflow_step_connection",
            ("id", "output_step_id", "input_step_input_id"),
            ("output_name", "input_subworkflow_step_id"),
        )
        self.output = database.table(
            "workflow_output", ("id", "workflow_step_id"), ("output_name", "label")
        )


def documents(database: Database, reading: Reading) -> Iterator[Document]:
    """The latest version of each workflow. Deleted ones are left out and counted."""
    tables = _Tables(database)
    kept = _kept(database, tables, reading)
    while batch := list(islice(kept, BATCH)):
        workflows = _load(database, tables, _ids(batch))
        for row in batch:
            workflow = workflows.get(row.latest_workflow_id)
            if workflow is None or not workflow.steps:
                reading.notes["workflows without steps left out"] += 1
                continue
            yield Document(f"workflow {row.id}", partial(_draft, row, workflows, reading))


def _ids(batch: Sequence[Any]) -> set[int]:
    return {row.latest_workflow_id for row in batch if row.latest_workflow_id is not None}


def _kept(database: Database, tables: _Tables, reading: Reading) -> Iterator[Any]:
    """The stored workflows that are not deleted."""
    from sqlalchemy import select

    columns = [column for column in tables.workflow.columns if column.name == "has_errors"]
    statement = (
        select(tables.stored, *columns)
        .outerjoin(tables.workflow, tables.stored.c.latest_workflow_id == tables.workflow.c.id)
        .order_by(tables.stored.c.id)
    )
    for row in database.limited(database.rows(statement)):
        if getattr(row, "deleted", False):
            reading.notes["deleted workflows left out"] += 1
            continue
        if getattr(row, "has_errors", False):
            reading.notes["workflows with errors"] += 1
        yield row


def _load(database: Database, tables: _Tables, ids: set[int]) -> dict[int, _Workflow]:
    """The workflows of these ids and all their sub-workflows, by id."""
    found: dict[int, _Workflow] = {}
    wanted = ids
    for _ in range(MAX_DEPTH + 2):  # one level more than is allowed, so that it is noticed
        level = {id_: _Workflow() for id_ in wanted}
        found |= level
        for part in _parts(sorted(level)):
            for row in database.rows(_steps(tables, part)):
                if level[row.workflow_id].fits():
                    level[row.workflow_id].steps[row.id] = row
            for row in database.rows(_connections(tables, part)):
                if level[row.workflow_id].fits():
                    level[row.workflow_id].connections.append(row)
            for row in database.rows(_outputs(tables, part)):
                if level[row.workflow_id].fits():
                    level[row.workflow_id].outputs.append(row)
        steps = [step for workflow in level.values() for step in workflow.steps.values()]
        inner = {getattr(step, "subworkflow_id", None) for step in steps}
        wanted = {id_ for id_ in inner if id_ is not None and id_ not in found}
        if not wanted:
            break
    return found


def _parts(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    yield from (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _steps(tables: _Tables, ids: Sequence[int]) -> Select[Any]:
    from sqlalchemy import select

    step = tables.step
    return select(step).where(step.c.workflow_id.in_(ids)).order_by(step.c.order_index, step.c.id)


def _connections(tables: _Tables, ids: Sequence[int]) -> Select[Any]:
    from sqlalchemy import select

    step, input_, connection = tables.step, tables.input, tables.connection
    return (
        select(step.c.workflow_id, input_.c.workflow_step_id, input_.c.name, connection)
        .join_from(connection, input_, connection.c.input_step_input_id == input_.c.id)
        .join(step, input_.c.workflow_step_id == step.c.id)
        .where(step.c.workflow_id.in_(ids))
        .order_by(connection.c.id)
    )


def _outputs(tables: _Tables, ids: Sequence[int]) -> Select[Any]:
    from sqlalchemy import select

    step, output = tables.step, tables.output
    return (
        select(step.c.workflow_id, output)
        .join_from(output, step, output.c.workflow_step_id == step.c.id)
        .where(step.c.workflow_id.in_(ids))
        .order_by(output.c.id)
    )


def _draft(row: Any, workflows: dict[int, _Workflow], reading: Reading) -> Draft:
    """The draft of a stored workflow."""
    document = _Builder(workflows, reading).document(row.latest_workflow_id, depth=0)
    (inner,) = FORMAT.documents(Content.of_value(document), reading)
    user = getattr(row, "user_id", None)
    return replace(
        inner.draft(),
        id=str(row.id),
        owner=None if user is None else str(user),
        time=reading.time(cell_text(getattr(row, "update_time", None), "update_time"), "update_time"),
        goal=plain_text(getattr(row, "name", None)),
    )


@dataclass
class _Builder:
    """Puts a workflow and its sub-workflows together, as a ``.ga`` file has them."""

    workflows: dict[int, _Workflow]
    reading: Reading
    count: int = 0
    """The number of steps until now."""

    def document(self, id_: int, depth: int) -> Json:
        """Return the document of a workflow. Raises :class:`DataError` if it is too large or deep."""
        workflow = self.workflows[id_]
        self.count += len(workflow.steps)
        if depth > MAX_DEPTH:
            raise DataError(
                f"sub-workflows may be nested {MAX_DEPTH} deep, found more; flatten the workflow",
                rule="too-deep",
            )
        if self.count > MAX_STEPS or workflow.rows > MAX_ROWS:
            raise DataError(
                f"a workflow may have {MAX_STEPS:,} steps with those of its sub-workflows, and "
                f"{MAX_ROWS:,} steps and connections, found more; split it",
                rule="too-large",
            )
        names = workflow.names()
        steps = {names[step.id]: self._step(step, depth) for step in workflow.steps.values()}
        for connection in workflow.connections:
            self._connect(connection, workflow, names, steps)
        for output in workflow.outputs:
            value = {"output_name": getattr(output, "output_name", None), "label": _label(output)}
            steps[names[output.workflow_step_id]]["workflow_outputs"].append(value)
        return {"steps": steps}

    def _step(self, step: Any, depth: int) -> dict[str, Json]:
        result = {
            "type": step.type,
            "tool_id": step.tool_id,
            "label": _label(step),
            "input_connections": {},
            "workflow_outputs": [],
        }
        inner = getattr(step, "subworkflow_id", None)
        if step.type == "subworkflow" and inner in self.workflows:
            result["subworkflow"] = self.document(inner, depth + 1)
        return result

    def _connect(
        self, connection: Any, workflow: _Workflow, names: dict[int, str], steps: dict[str, Json]
    ) -> None:
        if connection.output_step_id not in names:
            self.reading.notes["links to steps that are gone dropped"] += 1
            return
        end = {
            "id": names[connection.output_step_id],
            "output_name": getattr(connection, "output_name", None),
        }
        step = workflow.steps[connection.workflow_step_id]
        inner = self.workflows.get(getattr(step, "subworkflow_id", None) or 0)
        if step.type == "subworkflow" and inner is not None:
            name = _inner_step(connection, inner)
            if name is not None:
                end["input_subworkflow_step_id"] = name
        connections = steps[names[connection.workflow_step_id]]["input_connections"]
        connections.setdefault(str(connection.name), []).append(end)


def _inner_step(connection: Any, inner: _Workflow) -> str | None:
    """The name of the input step of a sub-workflow that a connection leads to.

    Like Galaxy, look for it by the name of the input if the connection does not have its id.
    """
    names = inner.names()
    id_ = getattr(connection, "input_subworkflow_step_id", None)
    if id_ is not None:
        return names.get(id_, str(id_))
    inputs = [step for step in inner.steps.values() if step.type in INPUT_TYPES]
    found = [step for step in inputs if _label(step) == connection.name]
    if not found:
        order = str(connection.name).partition(":")[0]
        found = [step for step in inputs if names[step.id] == order]
    return names[found[0].id] if len(found) == 1 else None


def _label(row: Any) -> str | None:
    return plain_text(getattr(row, "label", None))
