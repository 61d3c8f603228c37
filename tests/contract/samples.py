"""A small composition in every format, and helpers for documents and files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagrec.data.compositions import Composition
from dagrec.data.dataset import Dataset
from dagrec.data.formats import FORMATS, ReadOptions, read
from dagrec.errors import DataError
from tests.checks import says
from tests.contract import editor_samples, graph_samples

Json = Any
Step = str | int
TOOLSHED = "toolshed.g2.bx.psu.edu/repos/devteam/cutter/cut/1.0"
NOON = "2024-05-01T12:00:00"


# The composition has the links input -> cut, input -> join and cut -> join. `number` is the type of the
# ids if the format allows several; `back` adds the link join -> cut; `broken` violates one rule.


def native(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    links = [(1, 2), (2, 3), (1, 3)] + [(3, 2)] * back + [(1, 9)] * broken
    return {
        "id": id_,
        "owner": "ann",
        "nodes": [
            {"id": number(1)},
            {"id": number(2), "mid": number(308), "text": "cut", "start_time": NOON},
            {"id": number(3), "key": "join", "kind": "service", "owner": "ann"},
        ],
        "links": [{"source": number(a), "target": number(b)} for a, b in links],
    }


def n8n(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    def to(name: int) -> Json:
        return {"node": number(name), "type": "main", "index": 0}

    return {
        "id": id_,
        "owner": "ann",
        "updatedAt": NOON,
        "nodes": [
            {"id": "x", "name": number(1), "type": "base.webhook", "notes": "start"},
            {"id": "y", "name": number(2), "type": "base.set"},
            {"id": "z", "name": number(3), "type": "base.merge"},
        ],
        "connections": {
            "1": {"main": [[to(2)], None, [to(3)]]},
            "2": {"main": [[to(3)]], "ai_tool": [[{"node": None}] * broken]},
            "3": {"main": [[to(2)] * back]},
        },
    }


def galaxy_ga(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    def wire(step: int) -> Json:
        return {"id": number(step), "output_name": "out"}

    joined = [{"output_name": "out", "label": "joined"}]
    cut, join = (
        {"a": wire(1), "b": [wire(3)] * back},
        {"a": [wire(2), wire(1)], "b": [wire(9)] * broken},
    )
    return {
        "a_galaxy_workflow": "true",
        "uuid": id_,
        "steps": {
            "1": {"type": "data_input", "tool_id": None, "label": "reads"},
            "2": {"type": "tool", "tool_id": TOOLSHED, "input_connections": cut},
            "3": {
                "type": "tool",
                "tool_id": "join",
                "input_connections": join,
                "workflow_outputs": joined,
            },
        },
    }


def galaxy_format2(id_: str, *, number: type = str, back: bool = False, broken: bool = False) -> Json:
    cut, join = (
        {"a": "1", "b": ["3/out"] * back},
        {"a": {"source": ["2/out", "1"]}, "b": ["9/out"] * broken},
    )
    return {
        "class": "GalaxyWorkflow",
        "uuid": id_,
        "inputs": [{"id": number(1), "type": "data"}],
        "outputs": {"joined": {"outputSource": "3/out"}},
        "steps": [
            {"id": number(2), "tool_id": TOOLSHED, "in": cut},
            {"id": number(3), "tool_id": "join", "in": join},
        ],
    }


def galaxy_tsv(id_: str, *, back: bool = False, broken: bool = False) -> str:
    tools = {1: "", 2: TOOLSHED, 3: "join"}
    links = [(1, 2), (2, 3), (1, 3)] + [(3, 2)] * back
    time = "yesterday" if broken else NOON
    return "".join(f"{id_}\t{time}\t{a}\t{tools[a]}\t1\t{b}\t{tools[b]}\t1\tin\n" for a, b in links)


def calls(id_: str, *, broken: bool = False) -> str:
    """A call log has only paths: input, cut, join."""
    if broken:
        return f"{id_};input;yesterday\n"
    return "".join(f"{id_};{key};2024-05-0{i}\n" for i, key in enumerate(("input", "cut", "join"), 1))


def is_json(format_name: str) -> bool:
    return ".json" in FORMATS[format_name].suffixes


@dataclass(frozen=True)
class Sample:
    """The composition in one format, and the expected result of reading it.

    nodes: (id, key, kind); rule: the rule that the broken document violates; place, value: the position
    and the value in the error message if it is the second document of a file; header, footer: start and
    end of a file that is not JSON.
    """

    name: str
    document: Callable[..., Json]
    nodes: tuple[tuple[str, str, str], ...]
    links: frozenset[tuple[str, str]]
    rule: str
    place: str
    value: str
    header: str = ""
    footer: str = ""

    def text(self, *documents: Json) -> str:
        """The content of a file with these documents."""
        if self.is_table:
            return self.header + "".join(documents) + self.footer
        return json.dumps(documents)

    @property
    def is_table(self) -> bool:
        """Whether a file is a table of text, not JSON."""
        return not is_json(self.name)

    def file_name(self, name: str) -> str:
        """The name of a file in this format, with the extension that is needed in a folder."""
        return f"{name}.{'tsv' if self.is_table else 'json'}"


def sample(
    document: Callable[..., Json],
    nodes: str,
    links: str,
    *broken: str,
    header: str = "",
    footer: str = "",
) -> Sample:
    """Make a sample from nodes like ``id:key:kind``, links like ``source>target``, and other fields."""
    return Sample(
        document.__name__.replace("_", "-"),
        document,
        tuple(_node(word) for word in nodes.split()),
        frozenset((a, b) for a, b in (word.split(">") for word in links.split())),
        *broken,
        header=header,
        footer=footer,
    )


def _node(word: str) -> tuple[str, str, str]:
    id_, _, rest = word.partition(":")
    key, _, kind = rest.rpartition(":")
    return id_, key, kind


ALL_LINKS = "1>2 2>3 1>3"
SAMPLES = {
    s.name: s
    for s in (
        sample(
            native,
            "1:table_1:table 2:service_308:service 3:join:service",
            ALL_LINKS,
            "dangling-link",
            "composition 2",
            "'9'",
        ),
        sample(
            n8n,
            "1:base.webhook:service 2:base.set:service 3:base.merge:service",
            ALL_LINKS,
            "missing-id",
            "composition 2",
            "nothing",
        ),
        sample(
            galaxy_ga,
            "1:__input__:data 2:cut:service 3:join:service",
            ALL_LINKS,
            "dangling-link",
            "composition 2",
            "'9'",
        ),
        sample(
            galaxy_format2,
            "1:__input__:data 2:cut:service 3:join:service",
            ALL_LINKS,
            "dangling-link",
            "composition 2",
            "'9'",
        ),
        sample(
            editor_samples.node_red,
            "1:inject:service 2:cut:service 3:join:service",
            ALL_LINKS,
            "missing-id",
            "composition 2, tab 1",
            "nothing",
        ),
        sample(
            editor_samples.comfyui,
            "1:input:service 2:cut:service 3:join:service",
            ALL_LINKS,
            "wrong-type",
            "composition 2",
            "an array of 2",
        ),
        sample(
            editor_samples.react_flow,
            "1:input:service 2:cut:service 3:join:service",
            ALL_LINKS,
            "missing-id",
            "composition 2",
            "nothing",
        ),
        sample(
            editor_samples.step_functions,
            "1:Choice:service 2:cut:service 3:join:service",
            ALL_LINKS,
            "dangling-link",
            "composition 2",
            "'9'",
        ),
        sample(
            graph_samples.node_link,
            "1:input:data 2:cut:service 3:join:service",
            ALL_LINKS,
            "dangling-link",
            "composition 2",
            "'9'",
        ),
        sample(
            graph_samples.graphml,
            "1:input:service 2:cut:service 3:join:service",
            ALL_LINKS,
            "bad-time",
            "graph 2",
            '"yesterday"',
            header="<?xml version='1.0'?>\n<graphml>\n",
            footer="</graphml>\n",
        ),
        sample(
            graph_samples.dot,
            "1:input:service 2:cut:service 3:join:service",
            ALL_LINKS,
            "bad-time",
            "graph 2",
            '"yesterday"',
        ),
        sample(
            graph_samples.edges,
            "1:input:service 2:cut:service 3:join:service",
            ALL_LINKS,
            "bad-time",
            "composition 8: line 5",
            '"yesterday"',
            header="composition,source,target,source_key,target_key,time\n",
        ),
        sample(
            graph_samples.traces,
            "1:geo:input:service 2:geo:cut:service 3:geo:join:service",
            ALL_LINKS,
            "missing-id",
            "trace 8",
            "nothing",
        ),
        sample(
            graph_samples.paths,
            "1:1:service 2:2:service 3:3:service",
            "1>2 2>3",
            "missing-id",
            "composition 2",
            "nothing",
        ),
        sample(
            galaxy_tsv,
            "1:__input__:data 2:cut:service 3:join:service",
            ALL_LINKS,
            "bad-time",
            "workflow 8: line 4",
            '"yesterday"',
        ),
        sample(
            calls,
            "2:input:service 3:cut:service 4:join:service",
            "2>3 3>4",
            "bad-time",
            "line 5",
            '"yesterday"',
            header="owner;service;time\n",
        ),
    )
}
JSON_FORMATS = sorted(filter(is_json, FORMATS))

NESTED = {
    "steps": {
        "1": {"type": "data_input"},
        "2": {
            "type": "subworkflow",
            "input_connections": {
                "reads": {"id": 1, "output_name": "out", "input_subworkflow_step_id": 0}
            },
            "subworkflow": {
                "steps": {
                    "0": {"type": "data_input"},
                    "1": {
                        "type": "tool",
                        "tool_id": "cut",
                        "input_connections": {"a": {"id": 0, "output_name": "out"}},
                        "workflow_outputs": [{"output_name": "out", "label": "done"}],
                    },
                }
            },
        },
        "3": {"tool_id": "join", "input_connections": {"a": {"id": 2, "output_name": "done"}}},
    }
}
CONDITIONAL = copy.deepcopy(NESTED) | {"name": "n", "annotation": "a", "a_galaxy_workflow": "true"}
CONDITIONAL["steps"]["2"] |= {"when": "$(inputs.when)", "errors": "a tool is missing"}
CONDITIONAL["steps"]["2"]["input_connections"]["when"] = {"id": 1, "output_name": "out"}
ANSWER = {
    "model_class": "StoredWorkflow",
    "id": "7",
    "owner": "ann",
    "update_time": NOON,
    "deleted": True,
    "steps": {
        "1": {"type": "data_input", "input_steps": {}},
        "2": {"type": "pause", "input_steps": {"a": {"source_step": 1, "step_output": "out"}}},
        "3": {"type": "subworkflow", "workflow_id": "x", "input_steps": {"a": [{"source_step": 2}]}},
    },
}
GRAPH = {
    "$graph": [
        {
            "id": "part",
            "class": "GalaxyWorkflow",
            "inputs": {"x": "data"},
            "outputs": [{"id": "y", "outputSource": "cut/out"}],
            "steps": {"cut": {"tool_id": "cut", "in": {"a": "x"}, "when": "$(inputs.when)"}},
        },
        {
            "id": "main",
            "class": "GalaxyWorkflow",
            "inputs": [{"label": "reads", "doc": ["one", "two"]}],
            "steps": [
                {"id": "p", "run": "#part", "in": [{"id": "x", "source": "reads"}]},
                {"tool_id": "join", "state": {"q": [{"b": {"$link": "p/y"}}, {"$link": 0}]}},
                {
                    "run": {"class": "GalaxyUserTool", "id": "own"},
                    "connect": {"c": "2/out", "$step": "p"},
                },
            ],
        },
    ]
}
PAGE = {"data": [n8n("7")], "nextCursor": None}
TEMPLATE = {"workflow": {"id": 7, "name": "n", "workflow": n8n("7")}}
WRAPPED = {"id": "w", "composition": native("7") | {"time": NOON}}
DOCUMENTS = {name: SAMPLES[name].document("7") for name in JSON_FORMATS} | {
    "galaxy-ga-nested": NESTED,
    "galaxy-ga-conditional": CONDITIONAL,
    "galaxy-ga-answer": ANSWER,
    "galaxy-format2-graph": GRAPH,
    "n8n-page": PAGE,
    "n8n-template": TEMPLATE,
    "native-wrapped": WRAPPED,
    **editor_samples.DOCUMENTS,
    **graph_samples.DOCUMENTS,
}


def write(folder: Path, text: str | bytes, name: str = "file.txt") -> Path:
    """Write a file, whose default name does not depend on the format, and return its path."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def read_error(path: Path, options: ReadOptions | None = None) -> DataError:
    """The error of reading a path. Its message must contain the path and be printable."""
    with pytest.raises(DataError) as caught:
        read(path, options)
    assert says(caught, str(path))
    str(caught.value).encode()
    return caught.value


def names(dataset: Dataset) -> list[str]:
    """The ids of the compositions, or the owners in the ids for a call log."""
    return [composition.id.partition("-")[0] for composition in dataset.compositions]


def places(document: Json, prefix: tuple[Step, ...] = ()) -> Iterator[tuple[Step, ...]]:
    """The keys and indices that lead to each value in a document."""
    if isinstance(document, dict | list):
        items = document.items() if isinstance(document, dict) else enumerate(document)
        for step, value in items:
            yield (*prefix, step)
            yield from places(value, (*prefix, step))


def value_at(document: Json, place: tuple[Step, ...]) -> Json:
    for step in place:
        document = document[step]
    return document


def replaced(document: Json, place: tuple[Step, ...], value: Json) -> Json:
    """A copy with another value at a place, which can also be a new key of an object."""
    if not place:
        return value
    result = copy.deepcopy(document)
    value_at(result, place[:-1])[place[-1]] = value
    return result


def renamed(document: Json, place: tuple[Step, ...], name: str) -> Json:
    """A copy in which the value at a place of an object has another key."""
    result = copy.deepcopy(document)
    target = value_at(result, place[:-1])
    target[name] = target.pop(place[-1])
    return result


def is_valid(composition: Composition) -> bool:
    """Whether a composition is acyclic, with unique ids, resolved links and valid Unicode."""
    ids = {node.id for node in composition.nodes}
    texts = [composition.id, composition.owner or ""]
    texts += [text for n in composition.nodes for text in (n.id, n.key, n.kind, n.text or "")]
    "".join(texts).encode()
    return (
        len(ids) == len(composition.nodes)
        and all(source in ids and target in ids for source, target in composition.links)
        and sorted(composition.order) == sorted(ids)
        and all(node.id and node.key for node in composition.nodes)
    )
