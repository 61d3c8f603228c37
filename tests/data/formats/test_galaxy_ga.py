"""The reader of Galaxy workflow files, and the expansion of sub-workflows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dagrec.data.compositions import Composition
from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions, read
from dagrec.errors import DataError
from tests.checks import says

Json = Any


def wire(step: int | str, output: str = "out", into: int | None = None) -> Json:
    """A connection to an output; ``into`` is the inner step if the input belongs to a sub-workflow."""
    connection: Json = {"id": step, "output_name": output}
    return connection if into is None else connection | {"input_subworkflow_step_id": into}


def tool(name: str, *sources: Json, outputs: Json = ()) -> Json:
    inputs = {f"input{i}": source for i, source in enumerate(sources)}
    return {
        "type": "tool",
        "tool_id": name,
        "input_connections": inputs,
        "workflow_outputs": [{"output_name": name, "label": label} for name, label in outputs],
    }


def data(*sources: Json, kind: str = "data_input", label: str | None = None) -> Json:
    inputs = {f"input{i}": source for i, source in enumerate(sources)}
    return {"type": kind, "tool_id": None, "label": label, "input_connections": inputs}


def subworkflow(inner: Json, *sources: Json) -> Json:
    inputs = {f"input{i}": source for i, source in enumerate(sources)}
    return {"type": "subworkflow", "tool_id": None, "subworkflow": inner, "input_connections": inputs}


def workflow(*steps: Json, **more: Json) -> Json:
    return {"steps": {str(i): step for i, step in enumerate(steps)}, **more}


def load(document: Json, folder: Path, options: ReadOptions | None = None) -> Dataset:
    file = folder / "workflow.ga"
    file.write_text(json.dumps(document))
    return read(file, options)


def load_one(document: Json, folder: Path) -> Composition:
    return load(document, folder).compositions[0]


def keys_by_id(composition: Composition) -> dict[str, str]:
    return {node.id: node.key for node in composition.nodes}


def load_error(document: Json, folder: Path) -> pytest.ExceptionInfo[DataError]:
    with pytest.raises(DataError) as error:
        load(document, folder)
    return error


# ---- workflows without sub-workflows


def test_steps_with_a_tool_are_services_and_inputs_are_data(tmp_path: Path) -> None:
    shed = "toolshed.g2.bx.psu.edu/repos/iuc/multiqc/multiqc/1.11+galaxy0"
    composition = load_one(workflow(data(label="reads"), tool(shed, wire(0)), name="plain"), tmp_path)
    assert composition.id == "plain"
    assert [(n.key, n.kind, n.text) for n in composition.nodes] == [
        ("__input__", "data", "reads"),
        ("multiqc", "service", None),
    ]
    assert composition.links == (("0", "1"),)


def test_id_is_uuid_or_name(tmp_path: Path) -> None:
    steps = (data(), tool("cut", wire(0)))
    assert load_one(workflow(*steps, uuid="u", name="n"), tmp_path).id == "u"
    assert load_one(workflow(*steps, uuid=None, name=""), tmp_path).id == "workflow-1"


def test_input_with_several_sources_has_link_from_each(tmp_path: Path) -> None:
    composition = load_one(workflow(data(), data(), tool("join", [wire(0), wire(1)])), tmp_path)
    assert composition.links == (("0", "2"), ("1", "2"))


def test_outer_inputs_are_kept(tmp_path: Path) -> None:
    kinds = ("data_input", "data_collection_input", "parameter_input")
    inputs = (data(kind=kind) for kind in kinds)
    composition = load_one(workflow(*inputs, tool("cut", wire(0))), tmp_path)
    expected = {"0": "__input__", "1": "__input__", "2": "__input__", "3": "cut"}
    assert keys_by_id(composition) == expected
    fed = load_one(workflow(tool("make"), data(wire(0)), tool("use", wire(1))), tmp_path)
    assert keys_by_id(fed) == {"0": "make", "1": "__input__", "2": "use"}


# ---- sub-workflows


def test_nested_sub_workflows_are_expanded(tmp_path: Path) -> None:
    """0 input -> 1 [ 0 input -> 1 trim -> 2 [ 0 input -> 1 sort ] -> 3 count ] -> 2 plot.

    The output of sort is labelled "sorted", that of count "counts". The outer plot reads "counts", the
    "sorted" of the middle workflow as "2:sorted", and the unlabelled output of trim. All inner inputs
    are replaced by their sources.
    """
    innermost = workflow(data(), tool("sort", wire(0), outputs=[("out", "sorted")]))
    middle = workflow(
        data(kind="data_collection_input"),
        tool("trim", wire(0), outputs=[("out", None)]),
        subworkflow(innermost, wire(1, into=0)) | {"workflow_outputs": [{"output_name": "sorted"}]},
        tool("count", wire(2, "sorted"), outputs=[("out", "counts")]),
    )
    outer = workflow(
        data(label="reads"),
        subworkflow(middle, wire(0, into=0)),
        tool("plot", wire(1, "counts"), wire(1, "2:sorted"), wire(1, "1:out")),
    )
    dataset = load(outer, tmp_path)
    (composition,) = dataset.compositions
    assert keys_by_id(composition) == {
        "0": "__input__",
        "1.1": "trim",
        "1.2.1": "sort",
        "1.3": "count",
        "2": "plot",
    }
    assert set(composition.links) == {
        ("0", "1.1"),
        ("1.1", "1.2.1"),
        ("1.2.1", "1.3"),
        ("1.3", "2"),
        ("1.2.1", "2"),
        ("1.1", "2"),
    }
    assert dict(dataset.report.notes) == {"sub-workflows expanded": 2}


def test_inner_input_without_source_is_kept(tmp_path: Path) -> None:
    inner = workflow(data(), data(), tool("join", wire(0), wire(1)))
    composition = load_one(workflow(data(), subworkflow(inner, wire(0, into=1))), tmp_path)
    assert keys_by_id(composition) == {"0": "__input__", "1.0": "__input__", "1.2": "join"}
    assert set(composition.links) == {("0", "1.2"), ("1.0", "1.2")}


def test_inner_input_that_is_also_output_is_replaced(tmp_path: Path) -> None:
    inner = workflow(data() | {"workflow_outputs": [{"output_name": "out", "label": "same"}]})
    outer = workflow(tool("make"), subworkflow(inner, wire(0, into=0)), tool("use", wire(1, "same")))
    composition = load_one(outer, tmp_path)
    assert keys_by_id(composition) == {"0": "make", "2": "use"}
    assert composition.links == (("0", "2"),)


def test_sub_workflow_can_be_used_twice(tmp_path: Path) -> None:
    inner = workflow(data(), tool("trim", wire(0), outputs=[("out", "trimmed")]))
    outer = workflow(
        data(), subworkflow(inner, wire(0, into=0)), subworkflow(inner, wire(1, "trimmed", into=0))
    )
    composition = load_one(outer, tmp_path)
    assert keys_by_id(composition) == {"0": "__input__", "1.1": "trim", "2.1": "trim"}
    assert set(composition.links) == {("0", "1.1"), ("1.1", "2.1")}


def test_sub_workflow_without_content_is_service(tmp_path: Path) -> None:
    step = {
        "type": "subworkflow",
        "content_id": "abc",
        "name": "clean",
        "input_connections": {"i": wire(0)},
    }
    dataset = load(workflow(data(), step), tmp_path)
    assert keys_by_id(dataset.compositions[0]) == {"0": "__input__", "1": "abc"}
    assert dataset.report.notes["sub-workflows without their content"] == 1


def test_cycle_through_inner_input_is_rejected(tmp_path: Path) -> None:
    inner = workflow(data(), tool("trim", wire(0), outputs=[("out", "trimmed")]))
    outer = workflow(subworkflow(inner, wire(1, into=0)), tool("loop", wire(0, "trimmed")))
    error = load_error(outer, tmp_path)
    assert error.value.rule == "cycle"
    dataset = load(outer, tmp_path, ReadOptions(on_cycle="break"))
    assert (dataset.report.cycles, dataset.report.broken_links) == (1, 1)


def test_inner_input_linked_to_itself_is_rejected(tmp_path: Path) -> None:
    inner = workflow(data(wire(0)), tool("trim", wire(0)))
    error = load_error(workflow(data(), subworkflow(inner, wire(0, into=0))), tmp_path)
    assert error.value.rule == "cycle"
    assert says(error, "link '1.0' -> '1.0'")


# ---- invalid files


@pytest.mark.parametrize("depth", [20, 21])
def test_nesting_depth_is_limited(depth: int, tmp_path: Path) -> None:
    document = workflow(tool("innermost"))
    for _ in range(depth):
        document = workflow(subworkflow(document))
    if depth <= 20:
        assert keys_by_id(load_one(document, tmp_path)) == {"0." * depth + "0": "innermost"}
    else:
        error = load_error(document, tmp_path)
        assert error.value.rule == "too-deep"
        assert says(error, "may be nested 20 deep", "found more", "flatten")


def test_nested_inputs_do_not_multiply_links(tmp_path: Path) -> None:
    """There are sixty inputs with two links each, but one link in the result and not 2 ** 60."""
    steps = [data(), *(data(wire(i), wire(i)) for i in range(60)), tool("use", wire(60), wire(60))]
    start = time.perf_counter()
    dataset = load(workflow(data(), subworkflow(workflow(*steps), wire(0, into=0))), tmp_path)
    assert time.perf_counter() - start < 1
    assert dataset.compositions[0].links == (("0", "1.61"),)
    assert dict(dataset.report.notes) == {"sub-workflows expanded": 1}


@pytest.mark.parametrize(
    ("document", "rule", "parts"),
    [
        (
            workflow(data(), subworkflow(workflow(data()), wire(0, into=7))),
            "dangling-link",
            ["step 1: input 'input0'", "must name an inner step", 'found "7"', "export"],
        ),
        (
            workflow(data(), subworkflow(workflow(data()), wire(0))),
            "missing-id",
            ["input_subworkflow_step_id must be a non-empty string or an integer, found nothing"],
        ),
        (
            workflow(subworkflow(workflow(tool("a"))), tool("b", wire(0, "gone"))),
            "dangling-link",
            [
                "link '0' -> '1'",
                "a named output of a sub-workflow",
                "found '0' (output 'gone')",
                "correct",
            ],
        ),
        (
            {"steps": {"1": subworkflow(workflow(tool("a"))), "1.0": tool("b")}},
            "duplicate-id",
            ["step '1.0'", "may occur once", "rename"],
        ),
        (
            {"steps": {"1.0": tool("b"), "1": subworkflow(workflow(tool("a")))}},
            "duplicate-id",
            ["step '1.0'", "may occur once", "rename"],
        ),
        (
            workflow(subworkflow(workflow(data() | {"type": ["data_input"]}))),
            "wrong-type",
            ["step 0.0: type must be a string, found an array of 1"],
        ),
        (
            workflow(subworkflow(workflow(data() | {"workflow_outputs": [{"output_name": {}}]}))),
            "wrong-type",
            ["step 0.0: workflow_outputs: output_name must be a string, found an object of 0"],
        ),
        (
            workflow(subworkflow(workflow(data() | {"workflow_outputs": [{"label": 1}]}))),
            "wrong-type",
            ["step 0.0: workflow_outputs: label must be a string, found 1"],
        ),
        (
            workflow(subworkflow(workflow(data() | {"workflow_outputs": {"0": "x"}}))),
            "wrong-type",
            ["step 0.0: workflow_outputs must be an array, found an object of 1"],
        ),
        (
            workflow(subworkflow(["steps"])),
            "wrong-type",
            ["step 0: subworkflow must be an object, found an array of 1"],
        ),
        (
            workflow(subworkflow({"steps": []})),
            "wrong-type",
            ["steps of 0 must be an object, found an array of 0"],
        ),
        (
            {"steps": {"": tool("a")}},
            "missing-id",
            ["steps of the workflow: id must be a non-empty string or an integer, found"],
        ),
        (
            {"steps": {"\ud800": tool("a")}},
            "surrogate",
            ["steps of the workflow: id must be valid Unicode", "found a lone surrogate"],
        ),
    ],
)
def test_errors_in_sub_workflows_name_step_and_field(
    document: Json, rule: str, parts: list[str], tmp_path: Path
) -> None:
    error = load_error(document, tmp_path)
    assert error.value.rule == rule
    assert says(error, "workflow.ga: composition 1: ", *parts)
