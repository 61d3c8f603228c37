from __future__ import annotations

import time
from typing import Any

import httpx2
import pytest

from dagrec.graph.mask import MaskPolicy
from dagrec.models.registry import MODELS
from dagrec.predict import predict
from dagrec.request import make_request
from dagrec.store.bundle import Bundle
from service.routes.predict import EXAMPLES

REQUESTS: dict[str, dict[str, Any]] = {
    "path": {"path": ["table_1001002", "service_301"], "k": 5},
    "unknown nodes": {"path": ["new", "service_303"]},
    "nothing known": {"path": ["new", "newer"], "k": 1000},
    "empty path": {"path": []},
    "composition": {
        "composition": {
            "nodes": [{"id": "1001002"}, {"id": 1, "mid": 301}, {"id": 2, "mid": 303}, {"id": "x"}],
            "links": [
                {"source": "1001002", "target": 1},
                {"source": 1, "target": 2},
                {"source": "x", "target": 2},
            ],
        },
        "at": 2,
    },
}


@pytest.mark.parametrize("mask", [None, *(mask.value for mask in MaskPolicy if mask != "catalogue")])
@pytest.mark.parametrize("model", [None, *MODELS])
@pytest.mark.parametrize("values", REQUESTS.values(), ids=list(REQUESTS))
def test_an_answer_over_http_is_exactly_that_of_the_library(
    values: dict[str, Any], model: str | None, mask: str | None, client: httpx2.Client, bundle: Bundle
) -> None:
    request = {**values, "model": model, "mask": mask}
    answer = client.post("/predict", json=request)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    expected = predict(bundle, make_request(request))
    assert answer.json() == expected.model_dump(mode="json")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_documented_examples_work_and_are_those_of_the_documentation(
    name: str, client: httpx2.Client
) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    answer = client.post("/predict", json=examples[name]["value"])
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == examples[name]["value"]["k"]


def test_models_are_those_of_the_manifest(client: httpx2.Client, bundle: Bundle) -> None:
    answer = client.get("/models").json()
    assert (answer["version"], answer["mask"]) == (bundle.version, bundle.mask.value)
    assert answer["models"] == [
        {
            "name": name,
            "recommender": name,
            "champion": name == bundle.manifest.champion,
            "parameters": bundle.models[name].parameters(),
            "metrics": {},
        }
        for name in MODELS
    ]


def test_health_says_alive_and_which_version_is_ready(client: httpx2.Client, bundle: Bundle) -> None:
    assert client.get("/health/live").json()["status"] == "live"
    assert client.get("/health/ready").json() == {"status": "ready", "version": bundle.version}


def test_the_documentation_is_served(client: httpx2.Client) -> None:
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/models", "/health/live", "/health/ready"}


def test_a_composition_of_2_to_the_60_paths_is_answered_within_a_second(
    client: httpx2.Client,
) -> None:
    nodes: list[dict[str, Any]] = [{"id": "end-1", "mid": 301}]
    links = []
    for i in range(60):
        nodes += [{"id": f"{side}{i}", "mid": 301 + i % 16} for side in ("left", "right", "end")]
        for side in ("left", "right"):
            links.append({"source": f"end{i - 1}", "target": f"{side}{i}"})
            links.append({"source": f"{side}{i}", "target": f"end{i}"})
    start = time.perf_counter()
    answer = client.post("/predict", json={"composition": {"nodes": nodes, "links": links}})
    assert answer.status_code == 200
    assert answer.json()["strategy"] == "model"
    assert time.perf_counter() - start < 1
