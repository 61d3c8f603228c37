from __future__ import annotations

from typing import Any

import httpx2
import pytest
from dagrec_service.routes.predict import EXAMPLES

from dagrec.graph.mask import MaskPolicy
from dagrec.models.registry import MODELS
from dagrec.recommend.predictor import Predictor, predict
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle

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

PROCESSOR_SECONDS = "process_cpu_seconds_total "
FORK: dict[str, Any] = {
    "composition": {
        "nodes": [{"id": "1001002"}, {"id": "a", "mid": 301}, {"id": "b", "mid": 303}],
        "links": [{"source": "1001002", "target": "a"}, {"source": "1001002", "target": "b"}],
    }
}


def without_time(value: Any) -> Any:
    """Return an answer, or several, without ``took_ms``."""
    if isinstance(value, list):
        return [without_time(item) for item in value]
    if isinstance(value, dict):
        return {key: without_time(item) for key, item in value.items() if key != "took_ms"}
    return value


@pytest.mark.parametrize("model", [None, *MODELS])
def test_predict_equals_library(model: str | None, client: httpx2.Client, bundle: Bundle) -> None:
    for values in REQUESTS.values():
        for mask in (None, MaskPolicy.SOFT.value, MaskPolicy.NONE.value):
            request = {**values, "model": model, "mask": mask}
            response = client.post("/predict", json=request)
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            expected = predict(bundle, make_request(request)).model_dump(mode="json")
            assert without_time(response.json()) == without_time(expected)


@pytest.mark.parametrize("name", EXAMPLES)
def test_documented_examples_are_answered(name: str, client: httpx2.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    response = client.post("/predict", json=examples[name]["value"])
    assert response.status_code == 200
    for part in response.json().get("answers", [response.json()]):
        assert len(part["predictions"]) == examples[name]["value"]["k"]


@pytest.mark.parametrize("values", [*REQUESTS.values(), FORK], ids=[*REQUESTS, "open ends"])
def test_predict_with_all_models_equals_library(
    values: dict[str, Any], client: httpx2.Client, bundle: Bundle
) -> None:
    request = {**values, "models": "all", "explain": True, "k": 3}
    response = client.post("/predict", json=request)
    assert response.status_code == 200
    expected = predict(bundle, make_request(request)).model_dump(mode="json")
    assert without_time(response.json()) == without_time(expected)
    assert {part["model"] for part in response.json()["answers"]} == set(MODELS)


def test_batch_equals_library_in_order(client: httpx2.Client, bundle: Bundle) -> None:
    requests = [*REQUESTS.values(), FORK, {"path": [], "model": "unknown"}]
    response = client.post("/predict/batch", json={"requests": requests})
    assert response.status_code == 200
    *answers, last = response.json()["answers"]
    expected = Predictor(bundle).batch([make_request(values) for values in requests[:-1]])
    assert without_time(answers) == without_time([e.model_dump(mode="json") for e in expected])
    assert set(last) == {"error"}
    assert "model must be one of" in last["error"]


@pytest.mark.parametrize("count", [0, 101])
def test_batch_rejects_invalid_size(count: int, client: httpx2.Client) -> None:
    response = client.post("/predict/batch", json={"requests": [{"path": []}] * count})
    assert response.status_code == 422
    assert "requests" in response.json()["detail"]


def test_predict_rejects_too_many_models_and_nodes(client: httpx2.Client) -> None:
    nodes = [{"id": i, "mid": 301} for i in range(32)]
    body = {"composition": {"nodes": nodes, "links": []}, "models": "all"}
    response = client.post("/predict", json=body)
    assert response.status_code == 422
    assert "must be at most 300 at once" in response.json()["detail"]


def test_models_equal_manifest(client: httpx2.Client, bundle: Bundle) -> None:
    models = client.get("/models").json()
    assert (models["version"], models["mask"]) == (bundle.version, bundle.mask.value)
    assert models["models"] == [
        {
            "name": name,
            "recommender": name,
            "champion": name == bundle.manifest.champion,
            "parameters": bundle.models[name].recommender.parameters(),
            "metrics": {},
        }
        for name in MODELS
    ]


def test_health_reports_live_and_ready_version(client: httpx2.Client, bundle: Bundle) -> None:
    assert client.get("/health/live").json()["status"] == "live"
    assert client.get("/health/ready").json() == {
        "status": "ready",
        "version": bundle.version,
        "refused": None,
    }


def test_api_documentation_is_served(client: httpx2.Client) -> None:
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/predict", "/predict/batch", "/models/{name}", "/feedback", "/v2/models/{model}"} <= set(
        paths
    )


def test_composition_with_2_to_the_60_paths_is_answered_within_a_second(
    client: httpx2.Client,
) -> None:
    nodes: list[dict[str, Any]] = [{"id": "end-1", "mid": 301}]
    links = []
    for i in range(60):
        nodes += [{"id": f"{side}{i}", "mid": 301 + i % 16} for side in ("left", "right", "end")]
        for side in ("left", "right"):
            links.append({"source": f"end{i - 1}", "target": f"{side}{i}"})
            links.append({"source": f"{side}{i}", "target": f"end{i}"})
    start = processor_seconds(client)
    response = client.post("/predict", json={"composition": {"nodes": nodes, "links": links}})
    assert response.status_code == 200
    assert response.json()["strategy"] == "model"
    assert processor_seconds(client) - start < 1


def processor_seconds(client: httpx2.Client) -> float:
    """The processor time of the server, which does not depend on other processes."""
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(PROCESSOR_SECONDS))
