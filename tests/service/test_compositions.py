"""Validation of compositions over HTTP, compared with the library."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dagrec_service.app import create_app
from dagrec_service.routes.compositions import EXAMPLES
from dagrec_service.settings import make_settings
from fastapi.testclient import TestClient

from dagrec.data.formats import read
from dagrec.data.paths import count_pairs, count_paths
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.store.store import Store
from tests.service.conftest import HTTP

DATA = Path(__file__).parents[2] / "data" / "compositions.json"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A client of the application in this process."""
    store = Store(tmp_path_factory.mktemp("compositions"))
    train(read(DATA), store, load_config(models=["popularity"]), measure=0)
    with TestClient(create_app(make_settings(store=store.root, max_body=10**7))) as client:
        yield client


@pytest.fixture
def validate(client: TestClient) -> Callable[[Any], dict[str, Any]]:
    def validate(document: Any) -> dict[str, Any]:
        response = client.post("/compositions/validate", json=document)
        assert response.status_code == 200, response.text
        result: dict[str, Any] = response.json()
        return result

    return validate


Validate = Callable[[Any], dict[str, Any]]


def native(ids: list[Any], *links: tuple[Any, Any]) -> dict[str, Any]:
    nodes = [{"id": id_, "mid": 301} for id_ in ids]
    return {"nodes": nodes, "links": [{"source": a, "target": b} for a, b in links]}


def rules(result: dict[str, Any]) -> list[str]:
    assert result["valid"] is False
    assert result["problems"]
    assert all(result[name] is None for name in ("nodes", "links", "paths", "pairs", "ends", "dropped"))
    return [problem["rule"] for problem in result["problems"]]


def test_counts_equal_library(validate: Validate) -> None:
    documents = json.loads(DATA.read_text())[:20]
    for document, expected in zip(documents, read(DATA).compositions, strict=False):
        result = validate(document)
        assert (result["valid"], result["format"], result["problems"]) == (True, "native", [])
        assert result["nodes"] == len(expected.nodes)
        assert result["links"] == len(expected.links)
        assert result["paths"] == count_paths(expected)
        assert result["pairs"] == count_pairs(expected)
        assert (result["sources"], result["ends"]) == (list(expected.sources), list(expected.sinks))
        assert result["unknown"] == []


def test_unknown_keys_and_dropped_links_are_reported(validate: Validate) -> None:
    document = native([1, 2], (1, 2), (1, 2))
    document["nodes"] += [{"id": "x", "key": "never seen"}, {"id": "y", "key": "never seen"}]
    result = validate({"composition": document})
    assert (result["nodes"], result["services"], result["links"]) == (4, 4, 1)
    assert result["unknown"] == ["never seen"]
    assert result["dropped"] == {"links given more than once": 1}
    assert result["ends"] == ["2", "x", "y"]


def ladder(steps: int) -> dict[str, Any]:
    """Return 2 ** steps paths: two nodes per step, each linked to both of the next step."""
    ids = [f"{side}{i}" for i in range(steps) for side in "ab"]
    links = [(f"{a}{i}", f"{b}{i + 1}") for i in range(steps - 1) for a in "ab" for b in "ab"]
    return native(ids, *links)


def test_large_path_counts_are_exact(validate: Validate) -> None:
    assert validate(ladder(53))["paths"] == 2**53
    result = validate(ladder(60))
    assert result["paths"] == str(2**60)
    # Each of the 59 * 2 nodes that are not sources is a target on half of the paths.
    assert result["pairs"] == str(59 * 2**60)


def test_largest_composition_is_counted_quickly(validate: Validate) -> None:
    start = time.process_time()
    assert validate(ladder(5000))["paths"] == str(2**5000)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("document", "expected", "text"),
    [
        ({}, ["unknown-format"], "native JSON needs nodes and links"),
        ({"nodes": []}, ["missing-field"], "'links'"),
        (native([]), ["no-nodes"], "at least one node"),
        ({"nodes": {}, "links": []}, ["wrong-type"], "nodes must be an array"),
        ({"nodes": [1], "links": []}, ["wrong-type"], "node 1 must be an object"),
        ({"nodes": [{"id": 1, "mid": True}], "links": []}, ["wrong-type"], "mid"),
        ({"composition": None}, ["wrong-type"], "composition must be an object"),
        (native([1, 1, 1], (1, 2), (3, 1)), ["duplicate-id"] * 2 + ["dangling-link"] * 2, "found '2'"),
        (native([1, 2], (1, 2), (2, 1)), ["cycle"], "closes a cycle"),
        (native([1], (1, 1)), ["cycle"], "closes a cycle"),
        (native([1] * 100), ["duplicate-id"] * 20, "found it twice"),
        (
            native(list(range(10_001))),
            ["too-many-nodes"],
            "at most 10000 nodes are allowed, found 10001",
        ),
        (
            native([1, 2], *[(1, 2)] * 50_001),
            ["too-many-links"],
            "at most 50000 links are allowed, found 50001",
        ),
        ({"nodes": [{"name": "a"}], "connections": {}}, ["missing-id"], "node 1 (a): type"),
        ({"steps": []}, ["unknown-format"], "it has steps, but not what else that needs"),
    ],
    ids=str,
)
def test_invalid_composition_reports_broken_rules(
    document: Any, expected: list[str], text: str, validate: Validate
) -> None:
    result = validate(document)
    assert rules(result) == expected
    assert text in " ".join(problem["message"] for problem in result["problems"])


def test_lone_surrogate_is_reported(client: TestClient) -> None:
    body = '{"nodes": [{"id": "\\ud800"}], "links": []}'
    response = client.post(
        "/compositions/validate", content=body, headers={"content-type": "application/json"}
    )
    assert rules(response.json()) == ["surrogate"]


def test_n8n_loops_are_broken(validate: Validate) -> None:
    document = {
        "nodes": [
            {"name": "Loop", "type": "n8n-nodes-base.splitInBatches"},
            {"name": "Ask", "type": "n8n-nodes-base.httpRequest"},
            {"name": "Note", "type": "n8n-nodes-base.stickyNote"},
        ],
        "connections": {
            "Loop": {"main": [[{"node": "Ask"}]]},
            "Ask": {"main": [[{"node": "Loop"}]]},
        },
    }
    result = validate(document)
    assert (result["valid"], result["format"], result["nodes"], result["links"]) == (True, "n8n", 2, 1)
    assert result["dropped"] == {"comment nodes dropped": 1, "links that closed a cycle": 1}
    assert result["ends"] == ["Ask"]


def test_galaxy_workflow_is_recognised(validate: Validate) -> None:
    steps = {
        "0": {"id": 0, "type": "data_input", "input_connections": {}},
        "1": {
            "id": 1,
            "type": "tool",
            "tool_id": "cat1",
            "input_connections": {"input1": {"id": 0, "output_name": "output"}},
        },
    }
    result = validate({"name": "w", "steps": steps})
    assert (result["valid"], result["format"]) == (True, "galaxy-ga")
    assert (result["nodes"], result["services"], result["paths"], result["pairs"]) == (2, 1, 1, 1)
    assert result["unknown"] == ["__input__", "cat1"]


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=list(EXAMPLES))
def test_documented_examples_are_valid(example: Any, validate: Validate) -> None:
    assert validate(example["value"])["valid"] is True


def test_body_that_is_no_object_or_array_is_rejected(client: TestClient) -> None:
    for body in ('"text"', "null", "{", "[" * 100_000):
        response = client.post(
            "/compositions/validate", content=body, headers={"content-type": "application/json"}
        )
        assert response.status_code == 422, body[:20]
        assert response.headers["content-type"] == "application/problem+json"


def test_server_validates_composition(server: Any) -> None:
    response = HTTP.post(f"{server.url}/compositions/validate", json=ladder(60))
    assert response.json()["paths"] == str(2**60)
