"""The reader of Galaxy workflow files, and the expansion of sub-workflows."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Wire
from dagrec.data.dataset import Dataset
from dagrec.data.formats import ReadOptions, read, read_composition
from dagrec.errors import DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same

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


def test_ports_are_kept_through_expansion(tmp_path: Path) -> None:
    inner = workflow(data(), tool("trim", wire(0), outputs=[("trimmed", "reads")]))
    inner["steps"]["1"]["workflow_outputs"][0]["output_name"] = "trimmed"
    outer = workflow(
        tool("fetch"), subworkflow(inner, wire(0, "raw", into=0)), tool("map", wire(1, "reads"))
    )
    assert set(load_one(outer, tmp_path).wires) == {
        Wire("0", "1.1", "raw", "input0"),
        Wire("1.1", "2", "trimmed", "input0"),
    }


def test_inner_input_with_several_sources_links_each(tmp_path: Path) -> None:
    inner = workflow(data(), tool("trim", wire(0)), tool("plot", wire(0)))
    step = subworkflow(inner)
    step["input_connections"] = {"reads": [wire(0, "out", 0), wire(1, "best", 0)]}
    composition = load_one(workflow(tool("a"), tool("b"), step), tmp_path)
    assert set(composition.wires) == {
        Wire("0", "2.1", "out", "input0"),
        Wire("0", "2.2", "out", "input0"),
        Wire("1", "2.1", "best", "input0"),
        Wire("1", "2.2", "best", "input0"),
    }


@pytest.mark.parametrize(
    ("name", "when"), [("when", "$(inputs.when)"), ("run_it", "$(inputs.run_it)"), ("when", None)]
)
def test_condition_of_sub_workflow_is_dropped_and_counted(
    name: str, when: str | None, tmp_path: Path
) -> None:
    """The condition is an input of the step that calls the sub-workflow, and of none inside."""
    inner = workflow(data(), tool("trim", wire(0), outputs=[("out", "trimmed")]))
    step = subworkflow(inner, wire(0, into=0)) | {"when": when}
    step["input_connections"][name] = wire(1, "output")
    outer = workflow(data(), data(kind="parameter_input"), step, tool("plot", wire(2, "trimmed")))
    dataset = load(outer, tmp_path)
    assert set(dataset.compositions[0].links) == {("0", "2.1"), ("2.1", "3")}
    assert dict(dataset.report.notes) == {
        "sub-workflows expanded": 1,
        "conditions of sub-workflows dropped": 1,
    }


def test_condition_of_tool_is_link(tmp_path: Path) -> None:
    step = tool("trim", wire(0)) | {"when": "$(inputs.when)"}
    step["input_connections"]["when"] = wire(1, "output")
    composition = load_one(workflow(data(), data(kind="parameter_input"), step), tmp_path)
    assert composition.wires[1] == Wire("1", "2", "output", "when")


def test_input_of_sub_workflow_can_be_found_by_its_label(tmp_path: Path) -> None:
    inner = workflow(data(label="reads"), tool("trim", wire(0)))
    step = subworkflow(inner)
    step["input_connections"] = {"reads": wire(0)}
    assert load_one(workflow(tool("make"), step), tmp_path).links == (("0", "1.1"),)


def test_order_without_data_is_link_except_into_sub_workflows(tmp_path: Path) -> None:
    after = {"__NO_INPUT_OUTPUT_NAME__": wire(0, "__NO_INPUT_OUTPUT_NAME__")}
    inner = subworkflow(workflow(tool("trim"))) | {"input_connections": after}
    second = tool("second") | {"input_connections": after}
    dataset = load(workflow(tool("first"), second, inner), tmp_path)
    assert dataset.compositions[0].links == (("0", "1"),)
    assert dataset.compositions[0].wires == ()
    assert dataset.report.notes["links that only order sub-workflows dropped"] == 1


# ---- steps, texts and flags


def test_steps_that_are_neither_tools_nor_inputs_are_services(tmp_path: Path) -> None:
    pause = {"type": "pause", "tool_id": None, "input_connections": {"input": wire(0)}}
    composition = load_one(workflow(tool("map"), pause, tool("plot", wire(1))), tmp_path)
    assert [(node.key, node.kind) for node in composition.nodes] == [
        ("map", "service"),
        ("pause", "service"),
        ("plot", "service"),
    ]


def test_tool_defined_in_workflow_has_its_id(tmp_path: Path) -> None:
    defined = {"class": "GalaxyUserTool", "id": "my_cat", "name": "My cat"}
    step = tool("", wire(0)) | {"tool_id": None, "tool_representation": defined}
    nameless = tool("", wire(0)) | {"tool_id": None}
    dataset = load(workflow(data(), step, nameless), tmp_path)
    assert keys_by_id(dataset.compositions[0]) == {"0": "__input__", "1": "my_cat", "2": "__input__"}
    assert dict(dataset.report.notes) == {"steps without a tool read as input data": 1}


def test_goal_and_texts_are_what_users_wrote(tmp_path: Path) -> None:
    steps = (
        data(label="reads") | {"annotation": "paired"},
        tool("trim", wire(0)) | {"annotation": " "},
    )
    document = workflow(*steps, name="Clean", annotation="Trims reads.")
    composition = load_one(document, tmp_path)
    assert composition.goal == "Clean\nTrims reads."
    assert [node.text for node in composition.nodes] == ["reads\npaired", None]


def test_errors_are_counted_by_workflow(tmp_path: Path) -> None:
    broken = tool("gone", wire(0)) | {"errors": "The tool is not installed"}
    dataset = load(workflow(data(), broken, broken), tmp_path)
    assert dict(dataset.report.notes) == {"workflows with errors": 1}
    assert len(dataset.compositions[0].nodes) == 3


def answer(**more: Json) -> Json:
    """What Galaxy's API answers for a workflow."""
    steps = {
        "4": {"id": 4, "type": "data_input", "tool_id": None, "input_steps": {}},
        "5": {
            "id": 5,
            "type": "tool",
            "tool_id": "cut",
            "annotation": "first column",
            "input_steps": {"input": {"source_step": 4, "step_output": "output"}},
        },
        "6": {
            "id": 6,
            "type": "subworkflow",
            "tool_id": None,
            "workflow_id": "f2db41e1",
            "input_steps": {"data": {"source_step": 5, "step_output": "out_file1"}},
        },
    }
    return {"model_class": "StoredWorkflow", "id": "ebfb8f50", "name": "n", "steps": steps, **more}


def test_answer_of_api_is_read(tmp_path: Path) -> None:
    more = {"owner": "ann", "update_time": "2024-05-01T12:00:00", "annotation": "a", "deleted": False}
    composition = load_one(answer(**more), tmp_path)
    assert (composition.id, composition.owner, composition.goal) == ("ebfb8f50", "ann", "n\na")
    assert composition.time == 1714564800
    assert keys_by_id(composition) == {"4": "__input__", "5": "cut", "6": "f2db41e1"}
    assert composition.by_id["5"].text == "first column"
    assert composition.wires == (
        Wire("4", "5", "output", "input"),
        Wire("5", "6", "out_file1", "data"),
    )


def test_deleted_workflow_is_kept_and_counted(tmp_path: Path) -> None:
    dataset = load(answer(deleted=True), tmp_path)
    assert dataset.report.notes["deleted workflows"] == 1
    assert len(dataset.compositions) == 1


@pytest.mark.parametrize(
    "document",
    [
        {"steps": {"1": {"type": "tool", "next": "2"}, "2": {"type": "tool"}}},
        {"steps": {"1": {"tool_id": "cut"}}, "format-version": "0.1"},
        {"steps": [{"type": "tool", "input_connections": {}}]},
        {"steps": {"1": {"input_connections": {}}, "2": 5}},
        {"steps": {}, "name": "empty"},
        {"steps": {"1": {"type": "tool"}}, "a_galaxy_workflow": "false"},
        {"model_class": "HistoryDatasetAssociation", "steps": {"1": {"tool_id": "cut"}}},
    ],
    ids=str,
)
def test_foreign_steps_are_not_read_as_galaxy(document: Json, tmp_path: Path) -> None:
    error = load_error(document, tmp_path)
    assert error.value.rule == "unknown-format"


def test_workflow_without_any_link_is_said(tmp_path: Path) -> None:
    steps = {"0": {"type": "data_input"}, "1": {"type": "tool", "tool_id": "cut"}}
    dataset = load({"a_galaxy_workflow": "true", "steps": steps}, tmp_path)
    assert dict(dataset.report.notes) == {"workflows without any link": 1}


NAMES = st.sampled_from(["output", "out_file1", "queries_0|input2", "ü"])


@given(compositions(outputs=NAMES, inputs=NAMES))
def test_written_composition_is_read_back(composition: Composition) -> None:
    steps: Json = {}
    for node in composition.nodes:
        connections: Json = {}
        for source, target, output, input_ in composition.wires:
            if target == node.id:
                connections.setdefault(input_, []).append({"id": source, "output_name": output})
        steps[node.id] = {
            "type": "tool",
            "tool_id": node.key,
            "label": node.text,
            "input_connections": connections,
        }
    document = {"a_galaxy_workflow": "true", "uuid": composition.id, "steps": steps}
    assert is_same(read_composition(document | {"annotation": composition.goal}), composition)


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


def test_long_expansion_takes_time_linear_in_links(tmp_path: Path) -> None:
    steps = [data() for _ in range(3000)]
    inner = workflow(*steps, *(tool("use", wire(i)) for i in range(3000)))
    sources = [wire(0, into=i) for i in range(3000)]
    start = time.perf_counter()
    composition = load_one(workflow(data(), subworkflow(inner, *sources)), tmp_path)
    assert time.perf_counter() - start < 2
    assert len(composition.links) == 3000


def test_number_of_links_of_expansion_is_limited(tmp_path: Path) -> None:
    inner = workflow(data(), *(tool("use", wire(0)) for _ in range(400)))
    step = subworkflow(inner)
    step["input_connections"] = {"all": [wire(i, into=0) for i in range(400)]}
    error = load_error(workflow(*(tool("make") for _ in range(400)), step), tmp_path)
    assert error.value.rule == "too-large"
    assert says(error, "step 400.0: a workflow may have 100000 links", "found more", "split")


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
