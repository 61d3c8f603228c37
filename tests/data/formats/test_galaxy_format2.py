"""Galaxy workflows in gxformat2, as YAML and JSON."""

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
from dagrec.data.formats import FORMATS, Content, Reading, compose_draft, read
from dagrec.errors import DataError
from tests.data.formats.drawn import compositions, is_same

WORKFLOW = """\
class: GalaxyWorkflow
label: Count reads
doc: From raw reads to a table.
inputs:
  reads: data
  genome:
    type: data
    doc: the reference
outputs:
  table:
    outputSource: count/table
steps:
  trim:
    tool_id: toolshed.g2.bx.psu.edu/repos/devteam/trimmer/trim/1.0
    doc: cut the ends
    in:
      input: reads
  map:
    in:
      first/read: trim/out
      reference: {source: genome}
    run:
      class: GalaxyWorkflow
      inputs: {first/read: data, reference: data}
      outputs:
        mapped: {outputSource: bwa/bam}
      steps:
        bwa:
          tool_id: bwa
          in: {fastq: first/read, ref: reference}
  count:
    tool_id: count
    in:
      bam: {source: [map/mapped]}
"""


def load(tmp_path: Path, text: str, name: str = "workflow.gxwf.yml") -> Composition:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    data = read(file)
    assert dict(data.report.formats) == {"galaxy-format2": 1}
    return data[0]


def test_steps_links_ports_and_texts_are_read(tmp_path: Path) -> None:
    composition = load(tmp_path, WORKFLOW)
    assert composition.goal == "Count reads\nFrom raw reads to a table."
    assert {node.id: node.key for node in composition.nodes} == {
        "reads": "__input__",
        "genome": "__input__",
        "trim": "trim",
        "map.bwa": "bwa",
        "count": "count",
    }
    assert composition.by_id["trim"].text == "trim\ncut the ends"
    assert set(composition.wires) == {
        Wire("reads", "trim", "output", "input"),
        Wire("trim", "map.bwa", "out", "fastq"),
        Wire("genome", "map.bwa", "output", "ref"),
        Wire("map.bwa", "count", "bam", "bam"),
    }


def test_arrays_equal_objects(tmp_path: Path) -> None:
    as_arrays = """\
class: GalaxyWorkflow
inputs: [{id: reads, type: data}]
steps:
  - {label: cut, tool_id: cut, in: [{id: x, source: reads}]}
  - {label: join, tool_id: join, connect: {y: cut/out}}
"""
    as_objects = """\
class: GalaxyWorkflow
inputs: {reads: data}
steps:
  cut: {tool_id: cut, in: {x: reads}}
  join: {tool_id: join, in: {y: cut/out}}
"""
    one, other = load(tmp_path, as_arrays), load(tmp_path, as_objects)
    assert (
        one.wires
        == other.wires
        == (
            Wire("reads", "cut", "output", "x"),
            Wire("cut", "join", "out", "y"),
        )
    )
    assert [node.key for node in one.nodes] == [node.key for node in other.nodes]


def test_sources_are_labels_ids_or_numbers(tmp_path: Path) -> None:
    """Steps without a label have numbers, which count the inputs, too."""
    text = """\
class: GalaxyWorkflow
inputs:
  reads: data
  genome: data
steps:
  - tool_id: trim
    in: {input: reads}
  - {id: m, label: Map it, tool_id: map, in: {reads: 2/out, genome: genome}}
  - {tool_id: sort, in: {one: m/bam, other: Map it/bam, third: 3/bam}}
  - {id: _unlabeled_step_5, tool_id: plot, in: {x: 4#out}}
"""
    composition = load(tmp_path, text)
    assert [(node.id, node.text) for node in composition.nodes] == [
        ("reads", "reads"),
        ("genome", "genome"),
        ("2", None),
        ("Map it", "Map it"),
        ("4", None),
        ("_unlabeled_step_5", None),
    ]
    assert set(composition.wires) == {
        Wire("reads", "2", "output", "input"),
        Wire("2", "Map it", "out", "reads"),
        Wire("genome", "Map it", "output", "genome"),
        Wire("Map it", "4", "bam", "one"),
        Wire("Map it", "4", "bam", "other"),
        Wire("Map it", "4", "bam", "third"),
        Wire("4", "_unlabeled_step_5", "out", "x"),
    }


def test_labels_can_contain_slashes(tmp_path: Path) -> None:
    text = """\
class: GalaxyWorkflow
inputs: {Host/Other Genome: data}
steps:
  A/B: {tool_id: a, in: {x: Host/Other Genome}}
  A: {tool_id: b, in: {y: A/B/out}}
"""
    assert load(tmp_path, text).wires == (
        Wire("Host/Other Genome", "A/B", "output", "x"),
        Wire("A/B", "A", "out", "y"),
    )


def test_links_in_the_state_are_read(tmp_path: Path) -> None:
    text = """\
class: GalaxyWorkflow
inputs: {reads: data, more: data}
steps:
  cat:
    tool_id: cat
    state:
      input1: {$link: reads}
      queries:
        - input2: {$link: 1}
        - input2: null
      all: [{$link: reads}, {$link: more}]
      mode: {value: 5, file: {$link: more}}
"""
    assert set(load(tmp_path, text).wires) == {
        Wire("reads", "cat", "output", "input1"),
        Wire("more", "cat", "output", "queries_0|input2"),
        Wire("reads", "cat", "output", "all"),
        Wire("more", "cat", "output", "all"),
        Wire("more", "cat", "output", "mode|file"),
    }


def test_condition_is_link_of_tool_and_dropped_for_sub_workflow(tmp_path: Path) -> None:
    text = """\
class: GalaxyWorkflow
inputs: {reads: data, run_it: boolean}
steps:
  trim: {tool_id: trim, when: $(inputs.when), in: {x: reads, when: run_it}}
  inner:
    when: $(inputs.go)
    in: {x: trim/out, go: run_it}
    run:
      class: GalaxyWorkflow
      inputs: {x: data}
      steps: {sort: {tool_id: sort, in: {input: x}}}
"""
    file = tmp_path / "w.yml"
    file.write_text(text)
    data = read(file)
    assert data[0].links == (("reads", "trim"), ("run_it", "trim"), ("trim", "inner.sort"))
    assert data.report.notes["conditions of sub-workflows dropped"] == 1


def test_runs_that_are_no_workflow_are_services(tmp_path: Path) -> None:
    text = """\
class: GalaxyWorkflow
inputs: {reads: data}
steps:
  own: {run: {class: GalaxyUserTool, id: my_cat, shell_command: cat}, in: {x: reads}}
  url: {run: "https://example.org/w.ga", in: {x: own/out}}
  file: {run: {"@import": other.yml}, in: {x: url/out}}
  stop: {type: pause, in: {input: file/out}}
  old: {type: input_collection}
"""
    composition = load(tmp_path, text)
    assert [(node.key, node.kind) for node in composition.nodes] == [
        ("__input__", "data"),
        ("my_cat", "service"),
        ("https://example.org/w.ga", "service"),
        ("other.yml", "service"),
        ("pause", "service"),
        ("__input__", "data"),
    ]
    assert len(composition.links) == 4


GRAPH = """\
format-version: v2.0
$graph:
- {id: part, class: GalaxyWorkflow, inputs: {x: data}, outputs: {y: sort/out},
   steps: {sort: {tool_id: sort, in: {input: x}}}}
- {id: main, class: GalaxyWorkflow, label: whole, inputs: {reads: data},
   steps: {a: {run: "#part", in: {x: reads}}, b: {run: "#part", in: {x: a/y}}}}
"""


def test_workflow_calls_others_of_its_graph(tmp_path: Path) -> None:
    composition = load(tmp_path, GRAPH)
    assert composition.goal == "whole"
    assert composition.links == (("reads", "a.sort"), ("a.sort", "b.sort"))


def test_graph_is_limited_in_size_and_depth(tmp_path: Path) -> None:
    def calls(number: int, count: int) -> str:
        steps = ", ".join(f's{i}: {{run: "#w{number + 1}"}}' for i in range(count))
        return f"- {{id: w{number}, class: GalaxyWorkflow, steps: {{{steps}}}}}\n"

    for count, levels, rule in ((2, 15, "too-large"), (1, 25, "too-deep")):
        parts = "".join(calls(number, count) for number in range(levels))
        last = f"- {{id: w{levels}, class: GalaxyWorkflow, steps: {{t: {{tool_id: t}}}}}}\n"
        with pytest.raises(DataError) as error:
            load(tmp_path, "$graph:\n" + parts.replace("id: w0", "id: main") + last)
        assert error.value.rule == rule
    with pytest.raises(DataError) as error:
        load(tmp_path, GRAPH.replace("id: main", 'id: "other"'))
    assert 'must have a workflow with the id main, which calls the others, found "part"' in str(
        error.value
    )


def test_file_without_ending_of_yaml_is_recognised_by_its_class(tmp_path: Path) -> None:
    assert load(tmp_path, WORKFLOW, "workflow").wires == load(tmp_path, WORKFLOW).wires
    with pytest.raises(DataError) as error:
        load(tmp_path, WORKFLOW.replace("class: Galaxy", "class: Other"), "workflow.txt")
    assert error.value.rule == "unknown-format"


def test_doc_can_be_lines(tmp_path: Path) -> None:
    text = "class: GalaxyWorkflow\ndoc: [One., Two.]\nsteps: {a: {tool_id: a, doc: [x, y]}}\n"
    composition = load(tmp_path, text)
    assert composition.goal == "One.\nTwo."
    assert composition.nodes[0].text == "a\nx\ny"


NAMES = st.sampled_from(["output", "out_file1", "queries_0|input2", "ü"])


@given(written=compositions(outputs=NAMES, inputs=NAMES), as_yaml=st.booleans(), as_list=st.booleans())
def test_written_composition_is_read_back(written: Composition, as_yaml: bool, as_list: bool) -> None:
    steps: dict[str, Any] = {}
    for node in written.nodes:
        sources: dict[str, list[str]] = {}
        for source, target, output, input_ in written.wires:
            if target == node.id:
                sources.setdefault(str(input_), []).append(f"{source}/{output}")
        steps[node.id] = {"tool_id": node.key, "doc": node.text, "in": sources}
    listed = [{"id": id_, **step} for id_, step in steps.items()]
    document = {"class": "GalaxyWorkflow", "uuid": written.id, "doc": written.goal}
    document["steps"] = listed if as_list else steps
    text = yaml.safe_dump(document, sort_keys=False) if as_yaml else json.dumps(document)
    content = Content(text, "w.gxwf.yml" if as_yaml else "w.json")
    (read_back,) = FORMATS["galaxy-format2"].documents(content, Reading())
    nodes = [
        replace(node, text=node.id if node.text is None else f"{node.id}\n{node.text}")
        for node in written.nodes
    ]
    expected = compose(written.id, nodes, written.wires, goal=written.goal)[0]
    assert is_same(compose_draft(read_back.draft(), "w", "fail")[0], expected)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("class: GalaxyWorkflow\nsteps: {a: {tool_id: a, in: {x: b/out}}}", "dangling-link"),
        ("class: GalaxyWorkflow\nsteps: 3", "wrong-type"),
        ("class: GalaxyWorkflow\nsteps: {a: 1}", "wrong-type"),
        ("class: GalaxyWorkflow\nsteps: {a: {tool_id: a, in: 5}}", "wrong-type"),
        ("class: GalaxyWorkflow\nsteps: {a: {tool_id: a, label: [b]}}", "wrong-type"),
        ("class: GalaxyWorkflow\ninputs: {a: data}\nsteps: {a: {tool_id: b}}", "duplicate-id"),
        ("class: GalaxyWorkflow\nsteps: &x {a: *x}", "not-yaml"),
        ("class: GalaxyWorkflow\nclass: GalaxyWorkflow", "duplicate-name"),
        ("class: [", "not-yaml"),
        ("$graph: [{class: GalaxyWorkflow}]", "missing-id"),
        ("$graph: [{class: GalaxyWorkflow, id: part}]", "missing-field"),
    ],
)
def test_invalid_workflow_is_rejected(text: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, text)
    assert error.value.rule == rule
