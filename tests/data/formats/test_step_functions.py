"""The reader of state machines of AWS Step Functions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Wire, compose
from dagrec.data.dataset import Dataset
from dagrec.data.formats import read, read_composition
from dagrec.errors import DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same

Json = Any


def machine(start: str, comment: str | None = None, **states: Json) -> dict[str, Json]:
    return {"Comment": comment, "StartAt": start, "States": states}


def task(resource: str, **more: Json) -> dict[str, Json]:
    return {"Type": "Task", "Resource": resource, **more}


def load(folder: Path, document: Json, name: str = "machine.json") -> Dataset:
    file = folder / name
    file.write_text(yaml.safe_dump(document) if name.endswith("yaml") else json.dumps(document))
    return read(file)


def only(dataset: Dataset) -> Composition:
    (composition,) = dataset.compositions
    return composition


ORDER = machine(
    "Check",
    "Handles an order",
    Check=task("arn:aws:lambda:eu-west-1:123456789012:function:check", Next="In stock?"),
    Ship=task(
        "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        Comment="Tells the warehouse",
        Catch=[{"ErrorEquals": ["States.ALL"], "Next": "Sorry"}],
        End=True,
    ),
    Wait={"Type": "Wait", "Seconds": 60, "Next": "Sorry"},
    Sorry={"Type": "Fail"},
    **{
        "In stock?": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.n", "NumericGreaterThan": 0, "Next": "Ship"}, {"Next": "Wait"}],
            "Default": "Sorry",
        }
    },
)


@pytest.mark.parametrize("name", ["m.json", "m.asl", "m.asl.json", "m.asl.yaml"])
def test_states_are_nodes_and_transitions_are_links(name: str, tmp_path: Path) -> None:
    dataset = load(tmp_path, ORDER, name)
    composition = only(dataset)
    assert dict(dataset.report.formats) == {"step-functions": 1}
    assert composition.goal == "Handles an order"
    assert {n.id: n.key for n in composition.nodes} == {
        "Check": "lambda:function:check",
        "Ship": "sqs:sendMessage",
        "Wait": "Wait",
        "Sorry": "Fail",
        "In stock?": "Choice",
    }
    assert set(composition.wires) == {
        Wire("Check", "In stock?", "Next"),
        Wire("In stock?", "Ship", "Choices/0"),
        Wire("In stock?", "Wait", "Choices/1"),
        Wire("In stock?", "Sorry", "Default"),
        Wire("Ship", "Sorry", "Catch/0"),
        Wire("Wait", "Sorry", "Next"),
    }
    ship = composition.by_id["Ship"]
    assert (ship.operation, ship.text) == ("waitForTaskToken", "Ship\nTells the warehouse")


@pytest.mark.parametrize(
    ("resource", "key", "operation"),
    [
        ("arn:aws:states:::lambda:invoke", "lambda:invoke", None),
        ("arn:aws-cn:states:::dynamodb:putItem", "dynamodb:putItem", None),
        ("arn:aws:states:::batch:submitJob.sync", "batch:submitJob", "sync"),
        ("arn:aws:states:::states:startExecution.sync:2", "states:startExecution", "sync:2"),
        ("arn:aws:states:::aws-sdk:s3:listBuckets", "s3:listBuckets", None),
        ("arn:aws:states:us-east-1:123456789012:activity:Pack", "activity:Pack", None),
        ("arn:aws:lambda:us-east-1:123456789012:function:f:7", "lambda:function:f:7", None),
        ("${CheckFunctionArn}", "${CheckFunctionArn}", None),
    ],
)
def test_key_of_a_task_is_its_resource_without_account(
    resource: str, key: str, operation: str | None, tmp_path: Path
) -> None:
    (node,) = only(load(tmp_path, machine("A", A=task(resource, End=True)))).nodes
    assert (node.key, node.operation) == (key, operation)


def test_parallel_branches_start_at_the_state_that_holds_them(tmp_path: Path) -> None:
    branches = [machine("A", A=task("x", Next="B"), B=task("y")), machine("C", C={"Type": "Pass"})]
    both = {"Type": "Parallel", "Branches": branches, "Next": "Done"}
    composition = only(load(tmp_path, machine("Both", Both=both, Done={"Type": "Succeed"})))
    assert composition.wires == (
        Wire("Both", "Done", "Next"),
        Wire("A", "B", "Next"),
        Wire("Both", "A", "Branches/0"),
        Wire("Both", "C", "Branches/1"),
    )


@pytest.mark.parametrize("field", ["ItemProcessor", "Iterator"])
def test_states_of_a_map_are_read(field: str, tmp_path: Path) -> None:
    each = {"Type": "Map", field: machine("Work", Work=task("w", End=True)), "End": True}
    composition = only(load(tmp_path, machine("Each", Each=each)))
    assert composition.wires == (Wire("Each", "Work", "ItemProcessor"),)


def test_inner_states_can_repeat_names_of_outer_ones(tmp_path: Path) -> None:
    inner = machine("A", A=task("x", Next="B"), B=task("y", End=True))
    each = {"Type": "Map", "ItemProcessor": inner, "Next": "B"}
    composition = only(load(tmp_path, machine("A", A=each, B={"Type": "Succeed"})))
    assert set(composition.links) == {("A", "B"), ("A", "A#2"), ("A#2", "B#2")}
    assert composition.by_id["B#2"].text == "B"


def test_cycles_are_broken_by_default(tmp_path: Path) -> None:
    waiting = machine(
        "Wait",
        Wait={"Type": "Wait", "Seconds": 5, "Next": "Done?"},
        **{"Done?": {"Type": "Choice", "Choices": [{"Next": "Wait"}], "Default": "End"}},
        End={"Type": "Succeed"},
    )
    dataset = load(tmp_path, waiting)
    assert only(dataset).links == (("Wait", "Done?"), ("Done?", "End"))
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 1)


def test_definition_in_an_answer_of_aws_is_read(tmp_path: Path) -> None:
    answer = {"name": "orders", "status": "ACTIVE", "definition": json.dumps(ORDER)}
    composition = only(load(tmp_path, answer))
    assert (composition.id, composition.goal) == ("orders", "orders\nHandles an order")
    assert composition.nodes == only(load(tmp_path, ORDER)).nodes


def test_too_deep_nesting_is_rejected(tmp_path: Path) -> None:
    document = machine("A", A={"Type": "Pass"})
    for _ in range(30):
        document = machine("M", M={"Type": "Map", "ItemProcessor": document})
    with pytest.raises(DataError) as error:
        load(tmp_path, document)
    assert error.value.rule == "too-deep"


@pytest.mark.parametrize(
    ("state", "rule", "message"),
    [
        (3, "wrong-type", "state 'A' must be an object, found 3"),
        ({}, "missing-id", "state 'A': Type must be a non-empty string or an integer, found nothing"),
        ({"Type": "Task"}, "missing-id", "state 'A': Resource must be a non-empty string"),
        ({"Type": "Pass", "Next": []}, "wrong-type", "state 'A': Next must be a non-empty string"),
        ({"Type": "Pass", "Next": "B"}, "dangling-link", "link 'A' -> 'B': its target must be the id"),
        ({"Type": "Choice", "Choices": {}}, "wrong-type", "state 'A': Choices must be an array"),
        ({"Type": "Choice", "Choices": [{}]}, "missing-id", "state 'A': Choices 0: Next must be"),
        (
            {"Type": "Parallel", "Branches": [3]},
            "wrong-type",
            "state 'A': Branches 0 must be an object",
        ),
        (
            {"Type": "Map", "Iterator": {"StartAt": "x"}},
            "wrong-type",
            "state 'A': ItemProcessor: States",
        ),
    ],
)
def test_invalid_value_is_named(state: Json, rule: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, machine("A", A=state))
    assert error.value.rule == rule
    assert says(error, f"composition 1: {message}")


@pytest.mark.parametrize(
    "value", [{"States": ["Ohio"], "StartAt": 1}, {"States": {}}, {"definition": "States", "name": "x"}]
)
def test_other_json_is_not_recognised(value: Json, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, value)
    assert error.value.rule == "unknown-format"


@given(compositions(outputs=st.none(), inputs=st.none()))
def test_written_composition_is_read_back(drawn: Composition) -> None:
    states: dict[str, Json] = {}
    wires = []
    for node in drawn.nodes:
        children = drawn.children[node.id]
        caught = children[1:]
        states[node.id] = task(node.key, Comment=node.text, Next=children[0] if children else None)
        states[node.id]["Catch"] = [{"ErrorEquals": ["e"], "Next": child} for child in caught]
        wires += [Wire(node.id, child, "Next") for child in children[:1]]
        wires += [Wire(node.id, child, f"Catch/{i}") for i, child in enumerate(caught)]
    named = [replace(n, text="\n".join(filter(None, (n.id, n.text)))) for n in drawn.nodes]
    goal = "\n".join(filter(None, (drawn.id, drawn.goal)))
    composition = compose(drawn.id, named, wires, goal=goal)[0]
    document = {"name": drawn.id, "definition": machine(named[0].id, drawn.goal, **states)}
    assert is_same(read_composition(document), composition)
