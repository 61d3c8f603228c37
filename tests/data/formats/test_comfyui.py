"""The reader of ComfyUI workflows."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagrec.data.compositions import Composition, Wire, compose
from dagrec.data.dataset import Dataset
from dagrec.data.formats import comfyui, read, read_composition
from dagrec.errors import DataError
from tests.checks import says
from tests.data.formats.drawn import compositions, is_same

Json = Any
Socket = tuple[str, str]


def node(
    id_: int,
    type_: str,
    inputs: list[Socket] | None = None,
    outputs: list[Socket] | None = None,
    **more: Json,
) -> dict[str, Json]:
    return {
        "id": id_,
        "type": type_,
        "pos": [0, 0],
        "mode": 0,
        "inputs": [{"name": name, "type": kind, "link": None} for name, kind in inputs or []],
        "outputs": [{"name": name, "type": kind, "links": []} for name, kind in outputs or []],
        "properties": {"Node name for S&R": type_},
        **more,
    }


def workflow(nodes: list[Json], links: list[Json], **more: Json) -> dict[str, Json]:
    return {
        "last_node_id": 9,
        "last_link_id": 9,
        "nodes": nodes,
        "links": links,
        "version": 0.4,
        **more,
    }


def load(folder: Path, document: Json) -> Dataset:
    file = folder / "workflow.json"
    file.write_text(json.dumps(document))
    return read(file)


def only(dataset: Dataset) -> Composition:
    (composition,) = dataset.compositions
    return composition


LOADER = node(4, "CheckpointLoaderSimple", outputs=[("MODEL", "MODEL"), ("CLIP", "CLIP")])
SAMPLER = node(
    3, "KSampler", [("model", "MODEL"), ("seed", "INT")], [("LATENT", "LATENT")], title="Draw"
)
SAVER = node(5, "SaveLatent", [("samples", "LATENT")], title="Save Latent")


def test_links_have_names_and_types_of_sockets(tmp_path: Path) -> None:
    links = [[1, 4, 0, 3, 0, "MODEL"], [2, 3, 0, 5, 0, "LATENT"]]
    extra = {"ds": {"scale": 1}, "info": {"name": "Portrait", "description": "of a cat"}}
    dataset = load(tmp_path, workflow([SAMPLER, LOADER, SAVER], links, id="w", extra=extra))
    composition = only(dataset)
    assert dict(dataset.report.formats) == {"comfyui": 1}
    assert (composition.id, composition.goal) == ("w", "Portrait\nof a cat")
    assert composition.wires == (
        Wire("4", "3", "MODEL/MODEL", "model/MODEL"),
        Wire("3", "5", "LATENT/LATENT", "samples/LATENT"),
    )
    assert [(n.key, n.text) for n in composition.nodes] == [
        ("KSampler", "Draw"),
        ("CheckpointLoaderSimple", None),
        ("SaveLatent", None),
    ]


def test_links_that_are_objects_are_read(tmp_path: Path) -> None:
    link = {"id": 1, "origin_id": 4, "origin_slot": 1, "target_id": 3, "target_slot": 0, "type": "CLIP"}
    composition = only(load(tmp_path, workflow([LOADER, SAMPLER], [link])))
    assert composition.wires == (Wire("4", "3", "CLIP/CLIP", "model/MODEL"),)


def test_sockets_that_are_not_listed_have_their_number_and_the_type_of_the_link(tmp_path: Path) -> None:
    bare = [{"id": 1, "type": "a"}, {"id": 2, "type": "b", "inputs": [{"name": "x", "type": ["p"]}]}]
    links = [[1, 1, 2, 2, 0, "MASK"], [2, 1, -1, 2, 5]]
    composition = only(load(tmp_path, workflow(bare, links)))
    assert composition.wires == (Wire("1", "2", "2/MASK", "x/MASK"), Wire("1", "2", "-1", "5"))


def test_notes_and_links_to_nodes_that_are_gone_are_dropped_and_counted(tmp_path: Path) -> None:
    notes = [node(7, "Note"), node(8, "MarkdownNote")]
    links = [None, [1, 4, 0, 3, 0, "MODEL"], [2, 99, 0, 3, 0, "MODEL"]]
    dataset = load(tmp_path, workflow([LOADER, SAMPLER, *notes], links))
    assert only(dataset).links == (("4", "3"),)
    assert dict(dataset.report.notes) == {
        "comment nodes dropped": 2,
        "links to nodes that are gone dropped": 1,
    }


def test_reroutes_are_replaced_by_links(tmp_path: Path) -> None:
    reroutes = [node(7, "Reroute", [("", "*")], [("", "MODEL")]), node(8, "Reroute (rgthree)")]
    links = [[1, 4, 0, 7, 0, "MODEL"], [2, 7, 0, 8, 0, "MODEL"], [3, 8, 0, 3, 0, "MODEL"]]
    dataset = load(tmp_path, workflow([LOADER, *reroutes, SAMPLER], links))
    assert only(dataset).wires == (Wire("4", "3", "MODEL/MODEL", "model/MODEL"),)
    assert dict(dataset.report.notes) == {"reroutes replaced by links": 2}


def test_set_and_get_nodes_of_a_variable_are_replaced_by_links(tmp_path: Path) -> None:
    set_, get = node(7, "SetNode", widgets_values=["m", None]), node(8, "GetNode", widgets_values=["m"])
    other = node(9, "GetNode", widgets_values=["other"])
    links = [[1, 4, 0, 7, 0, "MODEL"], [2, 8, 0, 3, 0, "MODEL"], [3, 9, 0, 3, 1, "INT"]]
    composition = only(load(tmp_path, workflow([LOADER, set_, get, other, SAMPLER], links)))
    assert composition.wires == (Wire("4", "3", "MODEL/MODEL", "model/MODEL"),)


def subgraph(nodes: list[Json], *links: tuple[int, int, int, int], id_: str = "sub") -> dict[str, Json]:
    names = ("origin_id", "origin_slot", "target_id", "target_slot")
    return {
        "id": id_,
        "name": "Work",
        "inputNode": {"id": -10},
        "outputNode": {"id": -20},
        "nodes": nodes,
        "links": [{"id": i} | dict(zip(names, link, strict=True)) for i, link in enumerate(links)],
    }


def test_subgraphs_are_expanded(tmp_path: Path) -> None:
    inner = subgraph(
        [
            node(1, "Upscale", [("image", "IMAGE")], [("out", "IMAGE")]),
            node(2, "Sharpen", [("i", "IMAGE")]),
        ],
        (-10, 0, 1, 0),
        (1, 0, 2, 0),
        (1, 0, -20, 0),
    )
    outer = workflow(
        [
            node(4, "LoadImage", outputs=[("IMAGE", "IMAGE")]),
            node(6, "sub"),
            node(5, "Save", [("images", "IMAGE")]),
        ],
        [[1, 4, 0, 6, 0, "IMAGE"], [2, 6, 0, 5, 0, "IMAGE"]],
        definitions={"subgraphs": [inner]},
    )
    dataset = load(tmp_path, outer)
    composition = only(dataset)
    assert [n.id for n in composition.nodes] == ["4", "6:1", "6:2", "5"]
    assert set(composition.wires) == {
        Wire("4", "6:1", "IMAGE/IMAGE", "image/IMAGE"),
        Wire("6:1", "6:2", "out/IMAGE", "i/IMAGE"),
        Wire("6:1", "5", "out/IMAGE", "images/IMAGE"),
    }
    assert dict(dataset.report.notes) == {"subgraphs expanded": 1}


def test_nested_subgraphs_and_several_instances_are_expanded(tmp_path: Path) -> None:
    inner = subgraph([node(1, "Work")], (-10, 0, 1, 0), (1, 0, -20, 0), id_="inner")
    middle = subgraph([node(1, "inner")], (-10, 0, 1, 0), (1, 0, -20, 0), id_="middle")
    nodes = [node(1, "Start"), node(2, "middle"), node(3, "middle")]
    links = [[1, 1, 0, 2, 0, "X"], [2, 2, 0, 3, 0, "X"]]
    document = workflow(nodes, links, definitions={"subgraphs": [inner, middle]})
    composition = only(load(tmp_path, document))
    assert set(composition.links) == {("1", "2:1:1"), ("2:1:1", "3:1:1")}


def test_subgraph_in_itself_is_rejected(tmp_path: Path) -> None:
    document = workflow([node(1, "sub")], [], definitions={"subgraphs": [subgraph([node(1, "sub")])]})
    with pytest.raises(DataError) as error:
        load(tmp_path, document)
    assert error.value.rule == "too-deep"
    assert says(error, "may be nested 20 deep")


def test_subgraphs_that_multiply_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comfyui, "MAX_EXPANDED", 1000)
    graphs = [
        subgraph([node(i, f"s{level + 1}") for i in range(10)], id_=f"s{level}") for level in range(15)
    ]
    with pytest.raises(DataError) as error:
        load(tmp_path, workflow([node(1, "s0")], [], definitions={"subgraphs": graphs}))
    assert error.value.rule == "too-large"
    assert says(error, "may add 1000 nodes and links")


PROMPT = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "3": {
        "class_type": "KSampler",
        "inputs": {"model": ["4", 0], "clip": [4, 1], "seed": 7, "size": [512, 512], "old": ["9", 0]},
        "_meta": {"title": "Draw"},
    },
    "12:5": {
        "class_type": "SaveLatent",
        "inputs": {"samples": ["3", 0]},
        "_meta": {"title": "SaveLatent"},
    },
}


def test_format_of_the_api_is_read(tmp_path: Path) -> None:
    dataset = load(tmp_path, PROMPT)
    composition = only(dataset)
    assert composition.wires == (
        Wire("4", "3", "0", "model"),
        Wire("4", "3", "1", "clip"),
        Wire("3", "12:5", "0", "samples"),
    )
    assert [(n.key, n.text) for n in composition.nodes][1:] == [
        ("KSampler", "Draw"),
        ("SaveLatent", None),
    ]
    assert dict(dataset.report.notes) == {"links to nodes that are gone dropped": 1}
    request = load(tmp_path, {"client_id": "c", "prompt_id": "p", "prompt": PROMPT})
    assert only(request).id == "p"
    assert only(request).links == composition.links


def test_reroutes_in_the_api_are_replaced_by_links(tmp_path: Path) -> None:
    document = {
        "1": {"class_type": "Load", "inputs": {}},
        "2": {"class_type": "Reroute", "inputs": {"": ["1", 1]}},
        "3": {"class_type": "Save", "inputs": {"image": ["2", 0]}},
    }
    assert only(load(tmp_path, document)).wires == (Wire("1", "3", "1", "image"),)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("nodes", 0), 3, "node 1 must be an object, found 3"),
        (
            ("nodes", 0, "id"),
            None,
            "node 1: id must be a non-empty string or an integer, found nothing",
        ),
        (
            ("nodes", 0, "type"),
            3.5,
            "node 1 (4): type must be a non-empty string or an integer, found 3.5",
        ),
        (("links", 1), 3, "link 2 must be an array, found 3"),
        (
            ("links", 1),
            [1, 2],
            "link 2 must have an id, a source, an output, a target and an input, found",
        ),
        (
            ("links", 1, 1),
            {},
            "link 2: source must be a non-empty string or an integer, found an object",
        ),
    ],
)
def test_invalid_value_is_named(
    place: tuple[Any, ...], value: Json, message: str, tmp_path: Path
) -> None:
    links = [[1, 4, 0, 3, 0, "MODEL"], [2, 3, 0, 5, 0, "LATENT"]]
    document = copy.deepcopy(workflow([LOADER, SAMPLER, SAVER], links))
    here: Any = document
    for step in place[:-1]:
        here = here[step]
    here[place[-1]] = value
    with pytest.raises(DataError) as error:
        load(tmp_path, document)
    assert says(error, f"composition 1: {message}")


@pytest.mark.parametrize(
    "value",
    [
        {"nodes": [{"id": 1, "type": "a"}], "links": {}},
        {"nodes": [{"id": 1, "type": "a"}], "links": [[1, 1]]},
        {"prompt": {"a": {"class_type": 3, "inputs": {}}}},
        {"prompt": "class_type", "inputs": []},
    ],
)
def test_other_json_is_not_recognised(value: Json, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        load(tmp_path, value)


def test_native_links_stay_native(tmp_path: Path) -> None:
    native = {
        "nodes": [{"id": 1, "mid": 2}, {"id": 2, "mid": 3}],
        "links": [{"source": 1, "target": 2}],
    }
    for document in (native, native | {"links": []}):
        assert dict(load(tmp_path, document).report.formats) == {"native": 1}


PORTS = st.sampled_from(["MODEL/MODEL", "image/IMAGE", "0/MASK"])


def as_saved(composition: Composition) -> Json:
    """Write a composition as the editor does, with its sockets."""
    nodes: list[Json] = []
    slots: dict[tuple[str, str], list[str]] = {}
    for n in composition.nodes:
        for side, end, name in (("outputs", 0, 2), ("inputs", 1, 3)):
            ports = [str(wire[name]) for wire in composition.wires if wire[end] == n.id]
            slots[n.id, side] = list(dict.fromkeys(ports))
        sockets = {
            side: [
                dict(zip(("name", "type"), label.split("/"), strict=True))
                for label in slots[n.id, side]
            ]
            for side in ("outputs", "inputs")
        }
        title = {} if n.text is None else {"title": n.text}
        nodes.append({"id": n.id, "type": n.key, **sockets, **title})
    links = [
        [
            i,
            w.source,
            slots[w.source, "outputs"].index(str(w.output)),
            w.target,
            slots[w.target, "inputs"].index(str(w.input)),
            "X",
        ]
        for i, w in enumerate(composition.wires)
    ]
    info = {} if composition.goal is None else {"name": composition.goal}
    return workflow(nodes, links, id=composition.id, extra={"info": info})


@given(compositions(outputs=PORTS, inputs=PORTS))
def test_written_composition_is_read_back(composition: Composition) -> None:
    assert is_same(read_composition(as_saved(composition)), composition)


@given(compositions(outputs=st.sampled_from("012"), inputs=st.none()))
def test_written_prompt_is_read_back(drawn: Composition) -> None:
    wires = [wire._replace(input=f"in{i}") for i, wire in enumerate(drawn.wires)]
    composition = compose(drawn.id, drawn.nodes, wires)[0]
    prompt = {
        n.id: {
            "class_type": n.key,
            "inputs": {w.input: [w.source, int(w.output or 0)] for w in wires if w.target == n.id},
            "_meta": {"title": n.text},
        }
        for n in composition.nodes
    }
    read_back = read_composition({"prompt_id": composition.id, "prompt": prompt})
    assert is_same(read_back, composition)
