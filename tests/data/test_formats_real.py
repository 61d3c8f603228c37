"""The readers on public data sets, which are not part of the project."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx
import pytest

from dagrec.data.compositions import Composition
from dagrec.data.dataset import Dataset
from dagrec.data.examples import extract
from dagrec.data.formats import ReadOptions, read
from dagrec.data.paths import count_paths
from dagrec.errors import DataError

REAL = Path(__file__).parents[3] / "shared" / "data"
N8N = REAL / "n8n" / "workflows.jsonl"
N8N_LARGE = REAL / "n8n-large" / "workflows.jsonl"
GALAXY = REAL / "galaxy" / "workflow-connections.tsv"
GEOPORTAL = REAL / "geoportal" / "compositions.json"


def read_real(file: Path, options: ReadOptions | None = None) -> Dataset:
    if not file.exists():
        pytest.skip(f"the real data of {file} are not part of the project")
    return read(file, options)


@pytest.fixture(scope="module")
def n8n() -> Dataset:
    return read_real(N8N)


@pytest.fixture(scope="module")
def galaxy() -> Dataset:
    return read_real(GALAXY)


def are_consistent(compositions: Sequence[Composition]) -> bool:
    return all(len(c.order) == len(c.nodes) == len({n.id for n in c.nodes}) for c in compositions)


# ---- n8n


def test_n8n_workflows_are_all_read(n8n: Dataset) -> None:
    assert len(n8n.compositions) == 1387
    assert dict(n8n.report.formats) == {"n8n": 1}
    assert not n8n.report.skipped
    assert are_consistent(n8n.compositions)


def test_n8n_cycles_are_broken_and_counted(n8n: Dataset) -> None:
    assert n8n.report.cycles == 221
    assert n8n.report.broken_links == 336


def test_n8n_comments_are_dropped_and_counted(n8n: Dataset) -> None:
    assert n8n.report.notes["comment nodes dropped"] == 4821
    assert not any("stickyNote" in node.key for c in n8n.compositions for node in c.nodes)


def test_n8n_workflows_with_cycles_can_be_skipped() -> None:
    dataset = read_real(N8N, ReadOptions(on_cycle="skip"))
    assert len(dataset.compositions) == 1387 - 221
    assert dict(dataset.report.skipped) == {"cycle": 221}


def test_n8n_cycles_can_fail() -> None:
    with pytest.raises(DataError, match=r"workflows\.jsonl: line \d+: link .* closes a cycle") as error:
        read_real(N8N, ReadOptions(on_cycle="fail"))
    assert error.value.rule == "cycle"


def test_n8n_workflows_with_many_paths_are_sampled(n8n: Dataset) -> None:
    counts = sorted(count_paths(c) for c in n8n.compositions)
    assert counts[-1] == 2044
    report = extract(n8n.compositions)[1]
    assert report.paths == sum(counts)
    assert report.sampled_compositions == sum(count > 100 for count in counts)
    assert report.paths_taken == sum(min(count, 100) for count in counts)


def graph_of_export(workflow: Any) -> networkx.DiGraph:
    """The links between names of nodes, from the parsed JSON alone."""
    nodes = {n["name"]: n["type"] for n in workflow["nodes"] if not n["type"].endswith(".stickyNote")}
    graph = networkx.DiGraph()
    for source, kinds in workflow["connections"].items():
        ends = [end for outputs in kinds.values() for output in outputs or () for end in output or ()]
        graph.add_edges_from(
            (source, end["node"]) for end in ends if {source, end["node"]} <= set(nodes)
        )
    return graph


@pytest.mark.parametrize("file", [N8N, N8N_LARGE], ids=["n8n", "n8n-large"])
def test_n8n_links_and_cycles_are_those_of_plain_json(file: Path) -> None:
    dataset = read_real(file)
    workflows = [json.loads(line) for line in file.read_text().splitlines() if line]
    graphs = [graph_of_export(workflow) for workflow in workflows]
    assert len(dataset.compositions) == len(workflows)
    is_cyclic = [not networkx.is_directed_acyclic_graph(graph) for graph in graphs]
    assert dataset.report.cycles == sum(is_cyclic)
    links = [len(composition.links) for composition in dataset.compositions]
    assert sum(links) + dataset.report.broken_links == sum(g.number_of_edges() for g in graphs)
    for composition, graph, cyclic in zip(dataset.compositions, graphs, is_cyclic, strict=True):
        names = {n.id: n.id.partition("#")[0] for n in composition.nodes}
        named = {(names[source], names[target]) for source, target in composition.links}
        assert named <= set(graph.edges)
        assert cyclic or named == set(graph.edges)


# ---- galaxy


def test_galaxy_workflows_are_all_read(galaxy: Dataset) -> None:
    assert len(galaxy.compositions) == 1434
    assert dict(galaxy.report.formats) == {"galaxy-tsv": 1}
    assert not galaxy.report.skipped
    assert galaxy.report.cycles == 0
    assert are_consistent(galaxy.compositions)


def test_galaxy_links_are_distinct_rows(galaxy: Dataset) -> None:
    wires = sum(len(c.wires) for c in galaxy.compositions)
    without_ports = sum(len(set(c.links) - set(c.ports)) for c in galaxy.compositions)
    assert sum(len(c.links) for c in galaxy.compositions) == 4935
    assert wires + without_ports + galaxy.report.notes["links given more than once"] == 6966


def test_galaxy_flags_are_counted_by_workflow(galaxy: Dataset) -> None:
    rows = [line.split("\t") for line in GALAXY.read_text().splitlines()]
    flagged = {row[0] for row in rows if row[10] == "t"}
    assert galaxy.report.notes["deleted workflows or workflows with errors"] == len(flagged) == 26


def test_galaxy_inputs_are_data_and_tool_keys_are_short(galaxy: Dataset) -> None:
    nodes = [node for c in galaxy.compositions for node in c.nodes]
    assert {node.key for node in nodes if not node.is_service} == {"__input__"}
    assert not any("/repos/" in node.key for node in nodes)
    assert len({node.key for node in nodes if node.is_service}) == 422


# ---- geoportal


def test_geoportal_ids_match_as_text_and_as_number(
    geoportal: Sequence[Composition],
) -> None:
    """In the file, the source of every link is a string and the target an integer."""
    assert are_consistent(geoportal)
    assert sum(len(c.links) for c in geoportal) == 1016
    assert {node.kind for c in geoportal for node in c.nodes} == {"service", "table"}
    assert {c.owner for c in geoportal} == {f"user-{i}" for i in range(1, 7)}
    assert all(c.time is not None for c in geoportal)


def test_geoportal_table_mids_can_be_given(geoportal: Sequence[Composition]) -> None:
    dataset = read_real(GEOPORTAL, ReadOptions(table_mid="^308$"))
    keys = {node.key for c in dataset.compositions for node in c.nodes}
    assert "service_308" in {node.key for c in geoportal for node in c.nodes}
    assert "table_308" in keys
    assert "service_308" not in keys
