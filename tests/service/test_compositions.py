"""Compositions are checked and counted over HTTP as the readers do it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dagrec_service.app import create_app
from dagrec_service.routes.compositions import EXAMPLES
from dagrec_service.settings import make_settings
from fastapi.testclient import TestClient

from dagrec.config import load_config
from dagrec.data.formats import read
from dagrec.data.paths import count_pairs, count_paths
from dagrec.jobs.train import train
from dagrec.store.store import Store

DATA = Path(__file__).parents[2] / "data" / "compositions.json"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The application in this process; that it is a server makes no difference here."""
    store = Store(tmp_path_factory.mktemp("compositions"))
    train(read(DATA), store, load_config(models=["popularity"]), measure=0)
    with TestClient(create_app(make_settings(store=store.root, max_body=10**7))) as client:
        yield client


@pytest.fixture
def validate(client: TestClient) -> Callable[[Any], dict[str, Any]]:
    def validate(document: Any) -> dict[str, Any]:
        answer = client.post("/compositions/validate", json=document)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    return validate


Validate = Callable[[Any], dict[str, Any]]


def native(ids: list[Any], *links: tuple[Any, Any], **about: Any) -> dict[str, Any]:
    nodes = [{"id": id_, "mid": 301} for id_ in ids]
    return {"nodes": nodes, "links": [{"source": a, "target": b} for a, b in links], **about}


def rules(found: dict[str, Any]) -> list[str]:
    assert found["valid"] is False
    assert found["problems"]
    assert all(found[name] is None for name in ("nodes", "links", "paths", "pairs", "ends", "dropped"))
    return [problem["rule"] for problem in found["problems"]]


def test_the_counts_are_those_of_the_library(validate: Validate) -> None:
    documents = json.loads(DATA.read_text())[:20]
    for document, expected in zip(documents, read(DATA).compositions, strict=False):
        found = validate(document)
        assert (found["valid"], found["format"], found["problems"]) == (True, "native", [])
        assert found["nodes"] == len(expected.nodes)
        assert found["links"] == len(expected.links)
        assert found["paths"] == count_paths(expected)
        assert found["pairs"] == count_pairs(expected)
        assert (found["sources"], found["ends"]) == (list(expected.sources), list(expected.sinks))
        assert found["unknown"] == []


def test_what_is_unknown_and_what_was_dropped_is_told(validate: Validate) -> None:
    document = native([1, 2], (1, 2), (1, 2))
    document["nodes"] += [{"id": "x", "key": "never seen"}, {"id": "y", "key": "never seen"}]
    found = validate({"composition": document})
    assert (found["nodes"], found["services"], found["links"]) == (4, 4, 1)
    assert found["unknown"] == ["never seen"]
    assert found["dropped"] == {"links given more than once": 1}
    assert found["ends"] == ["2", "x", "y"]


def ladder(steps: int) -> dict[str, Any]:
    """Two nodes a step, each linked to both of the next: 2 ** steps paths."""
    ids = [f"{side}{i}" for i in range(steps) for side in "ab"]
    links = [(f"{a}{i}", f"{b}{i + 1}") for i in range(steps - 1) for a in "ab" for b in "ab"]
    return native(ids, *links)


def test_paths_are_counted_exactly_however_many_there_are(validate: Validate) -> None:
    assert validate(ladder(53))["paths"] == 2**53
    found = validate(ladder(60))
    assert found["paths"] == str(2**60)
    # Each of 59 * 2 nodes that are no sources is a target on half of the paths.
    assert found["pairs"] == str(59 * 2**60)


def test_the_largest_composition_is_counted_in_a_moment(validate: Validate) -> None:
    start = time.perf_counter()
    assert validate(ladder(5000))["paths"] == str(2**5000)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("document", "expected", "text"),
    [
        ({}, ["unknown-format"], "nodes and links (native)"),
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
        (native(list(range(10_001))), ["too-many-nodes"], "nodes may be 10000, found 10001"),
        (native([1, 2], *[(1, 2)] * 50_001), ["too-many-links"], "links may be 50000, found 50001"),
        ({"nodes": [{"name": "a"}], "connections": {}}, ["missing-id"], "node 1 (a): type"),
        ({"steps": []}, ["wrong-type"], "steps of the workflow must be an object"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_by_its_rule(
    document: Any, expected: list[str], text: str, validate: Validate
) -> None:
    found = validate(document)
    assert rules(found) == expected
    assert text in " ".join(problem["message"] for problem in found["problems"])


def test_a_lone_surrogate_is_a_rule_that_is_broken(client: TestClient) -> None:
    body = '{"nodes": [{"id": "\\ud800"}], "links": []}'
    answer = client.post(
        "/compositions/validate", content=body, headers={"content-type": "application/json"}
    )
    assert rules(answer.json()) == ["surrogate"]


def test_n8n_is_recognised_and_its_loops_are_broken(validate: Validate) -> None:
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
    found = validate(document)
    assert (found["valid"], found["format"], found["nodes"], found["links"]) == (True, "n8n", 2, 1)
    assert found["dropped"] == {"comment nodes dropped": 1, "links that closed a cycle": 1}
    assert found["ends"] == ["Ask"]


def test_galaxy_is_recognised(validate: Validate) -> None:
    steps = {
        "0": {"id": 0, "type": "data_input", "input_connections": {}},
        "1": {
            "id": 1,
            "type": "tool",
            "tool_id": "cat1",
            "input_connections": {"input1": {"id": 0, "output_name": "output"}},
        },
    }
    found = validate({"name": "w", "steps": steps})
    assert (found["valid"], found["format"]) == (True, "galaxy-ga")
    assert (found["nodes"], found["services"], found["paths"], found["pairs"]) == (2, 1, 1, 1)
    assert found["unknown"] == ["__input__", "cat1"]


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=list(EXAMPLES))
def test_the_documented_examples_are_valid(example: Any, validate: Validate) -> None:
    assert validate(example["value"])["valid"] is True


def test_what_is_no_object_is_a_problem(client: TestClient) -> None:
    for body in ("[]", '"text"', "null", "{", "[" * 100_000):
        answer = client.post(
            "/compositions/validate", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 422, body[:20]
        assert answer.headers["content-type"] == "application/problem+json"


def test_it_is_answered_by_a_server(server: Any) -> None:
    answer = httpx2.post(f"{server.url}/compositions/validate", json=ladder(60))
    assert answer.json()["paths"] == str(2**60)
