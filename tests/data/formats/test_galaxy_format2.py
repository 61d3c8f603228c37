"""Galaxy workflows in gxformat2, as YAML and JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from dagrec.data.compositions import Composition, Wire
from dagrec.data.formats import read
from dagrec.errors import DataError

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


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("class: GalaxyWorkflow\nsteps: {a: {tool_id: a, in: {x: b/out}}}", "dangling-link"),
        ("class: GalaxyWorkflow\nsteps: 3", "wrong-type"),
        ("class: GalaxyWorkflow\nsteps: {a: 1}", "wrong-type"),
        ("class: GalaxyWorkflow\ninputs: {a: data}\nsteps: {a: {tool_id: b}}", "duplicate-id"),
        ("class: GalaxyWorkflow\nsteps: &x {a: *x}", "not-yaml"),
        ("class: GalaxyWorkflow\nclass: GalaxyWorkflow", "duplicate-name"),
        ("class: [", "not-yaml"),
    ],
)
def test_invalid_workflow_is_rejected(text: str, rule: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        load(tmp_path, text)
    assert error.value.rule == rule
