"""Feedback over HTTP: durability, file rotation, memory limits, and training on it."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from dagrec_service.feedback_log import FeedbackLog

from dagrec.data.formats import read
from dagrec.errors import DagrecError
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.recommend.feedback import Feedback
from dagrec.recommend.feedback_summary import final_decisions, read_feedback, training_documents
from dagrec.recommend.predictor import Predictor
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store

REQUEST: dict[str, Any] = {"path": ["table_1001002", "service_301"], "k": 3}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Store:
    data = Path(__file__).parents[2] / "data" / "compositions.json"
    store = Store(tmp_path_factory.mktemp("feedback") / "store")
    train(read(data), store, load_config(models=["popularity", "markov"]), measure=0)
    return store


@pytest.fixture(scope="module")
def small(published: Store) -> Bundle:
    return published.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback") / "nested" / "folder"


@pytest.fixture(scope="module")
def feedback_client(
    published: Store, folder: Path, start_server: Callable[..., Any]
) -> Iterator[httpx2.Client]:
    server = start_server(published.root, DAGREC_FEEDBACK=str(folder))
    server.wait_until_ready()
    with server.client() as client:
        yield client
    server.stop()


def predict(client: httpx2.Client, url: str = "/predict", **values: Any) -> tuple[str, Any]:
    response = client.post(url, json=values or REQUEST)
    assert response.status_code == 200
    return response.headers["x-request-id"], response.json()


def test_feedback_is_written_with_services_shown(feedback_client: httpx2.Client, folder: Path) -> None:
    id_, answer = predict(feedback_client)
    shown = [p["service"] for p in answer["predictions"]]
    taken = feedback_client.post(
        "/feedback", json={"request_id": id_, "action": "taken", "service": shown[2]}
    )
    assert taken.status_code == 200
    refused = feedback_client.post("/feedback", json={"request_id": id_, "action": "refused"})
    assert refused.status_code == 200
    decisions = [d for d in read_feedback(folder).decisions if d.request_id == id_]
    assert [d.model_dump(mode="json") for d in decisions] == [taken.json(), refused.json()]
    assert taken.json() | {"time": ""} == {
        "time": "",
        "request_id": id_,
        "item": 0,
        "at": None,
        "action": "taken",
        "service": shown[2],
        "rank": 3,
        "model": answer["model"],
        "version": answer["version"],
        "mask": answer["mask"],
        "k": 3,
        "shown": shown,
        "path": [
            {"key": "table_1001002", "kind": "other"},
            {"key": "service_301", "kind": "service"},
        ],
        "unknown": [],
    }
    assert 'dagrec_feedback_total{action="taken"}' in feedback_client.get("/metrics").text


def test_feedback_on_batch_item_and_on_inference(feedback_client: httpx2.Client) -> None:
    id_, _ = predict(feedback_client, "/predict/batch", requests=[REQUEST, {"path": []}])
    report = {"request_id": id_, "action": "refused", "item": 1}
    assert feedback_client.post("/feedback", json=report).json()["path"] == []
    tensor = {"name": "path", "shape": [1], "datatype": "BYTES", "data": ['["service_301"]']}
    id_, _ = predict(feedback_client, "/v2/models/dagrec/infer", inputs=[tensor])
    report = {"request_id": id_, "action": "taken", "service": "other"}
    assert feedback_client.post("/feedback", json=report).json()["rank"] is None


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (
            {"request_id": "unknown"},
            404,
            "request_id must be the X-Request-ID of one of the last 10000",
        ),
        ({"action": "liked"}, 422, "action"),
        ({"service": None}, 422, "service must be given when the action is taken"),
        ({"service": ""}, 422, "service"),
        ({"item": 1}, 422, "item must be below 1"),
        ({"item": 10**400}, 422, "item"),
        ({"at": "n1"}, 422, "at must be one of [None]"),
        ({"model": "other"}, 422, "model must be one of"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_feedback_not_matching_answer_is_rejected(
    change: dict[str, Any], status: int, text: str, feedback_client: httpx2.Client, folder: Path
) -> None:
    id_, _ = predict(feedback_client)
    before = read_feedback(folder).lines if list(folder.iterdir()) else 0
    report = {"request_id": id_, "action": "taken", "service": "service_303"} | change
    response = feedback_client.post(
        "/feedback", content=json.dumps(report), headers={"content-type": "application/json"}
    )
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert text in response.json()["detail"]
    assert (read_feedback(folder).lines if list(folder.iterdir()) else 0) == before


def test_lone_surrogate_is_rejected(feedback_client: httpx2.Client) -> None:
    id_, _ = predict(feedback_client)
    body = f'{{"request_id": "{id_}", "action": "taken", "service": "\\ud800"}}'
    headers = {"content-type": "application/json"}
    assert feedback_client.post("/feedback", content=body, headers=headers).status_code == 422


def test_feedback_without_folder_is_off(client: httpx2.Client) -> None:
    response = client.post("/feedback", json={"request_id": "r", "action": "refused"})
    assert response.status_code == 404
    assert "feedback is off; serve with --feedback FOLDER" in response.json()["detail"]


def test_feedback_survives_sigkill_and_restart_starts_new_file(
    published: Store, tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    for run in range(2):
        server = start_server(published.root, DAGREC_FEEDBACK=str(tmp_path))
        server.wait_until_ready()
        with server.client() as client:
            id_, _ = predict(client)
            response = client.post("/feedback", json={"request_id": id_, "action": "refused"})
            server.process.kill()
        assert response.status_code == 200
        loaded = read_feedback(tmp_path)
        assert (loaded.files, len(loaded.decisions), loaded.skipped.total()) == (run + 1, run + 1, 0)
        assert loaded.decisions[-1].request_id == id_


def remember(log: FeedbackLog, bundle: Bundle, *ids: str, **fields: Any) -> None:
    request = make_request(fields or REQUEST)
    answer = Predictor(bundle).answer(request)
    for id_ in ids:
        log.remember(id_, [request], [answer])


def refuse(log: FeedbackLog, bundle: Bundle, id_: str) -> object:
    return log.record(Feedback(request_id=id_, action="refused"), bundle.vocabulary)


def test_full_file_is_followed_by_new_one(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 0.0012)
    remember(log, small, "r")
    for _ in range(9):
        refuse(log, small, "r")
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    assert all(0 < file.stat().st_size <= 1200 for file in files)
    assert len(read_feedback(tmp_path).decisions) == 9


def test_line_over_file_limit_has_its_own_file(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 0.00001)
    remember(log, small, "r")
    for _ in range(2):
        refuse(log, small, "r")
    assert [file.read_bytes().count(b"\n") for file in tmp_path.iterdir()] == [1, 1]


def test_failed_write_leaves_no_partial_line(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 64)
    remember(log, small, "r")
    refuse(log, small, "r")
    (file,) = tmp_path.iterdir()
    size = file.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            refuse(log, small, "r")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert file.stat().st_size == size, "a partial line was left"
    refuse(log, small, "r")
    loaded = read_feedback(tmp_path)
    assert (loaded.files, len(loaded.decisions), loaded.skipped.total()) == (2, 2, 0)


def test_missing_folder_is_503_until_restored(
    published: Store, tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    folder = tmp_path / "feedback"
    server = start_server(published.root, DAGREC_FEEDBACK=str(folder))
    server.wait_until_ready()
    with server.client() as client:
        id_, _ = predict(client)
        report = {"request_id": id_, "action": "refused"}
        folder.rmdir()
        response = client.post("/feedback", json=report)
        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert "No such file or directory; it was not counted" in response.json()["detail"]
        folder.mkdir()
        assert client.post("/feedback", json=report).status_code == 200
    assert "feedback cannot be written" in server.stop()
    assert len(read_feedback(folder).decisions) == 1


def test_feedback_log_rejects_folder_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DagrecError, match="cannot be created for feedback"):
        FeedbackLog(tmp_path / "file" / "folder", 64)


def test_number_of_results_in_memory_is_bounded(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 64, max_results=3)
    remember(log, small, "1", "2", "3", "1", "4")
    assert len(log) == 3
    assert refuse(log, small, "2") is None
    assert all(refuse(log, small, id_) is not None for id_ in "314")


def test_size_of_results_in_memory_is_bounded(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 64, max_results_bytes=100_000)
    remember(log, small, "small")
    size = log.results_bytes
    remember(log, small, "large", path=["x" * 1000] * 80)
    assert 80_000 < log.results_bytes <= 100_000
    nodes = [{"id": i, "mid": 301, "text": "x" * 1000} for i in range(80)]
    remember(log, small, "larger", composition={"nodes": nodes, "links": []}, at=0)
    assert refuse(log, small, "large") is None
    assert refuse(log, small, "larger") is not None
    remember(log, small, "too large", path=["x" * 1000] * 200)
    assert (len(log), log.results_bytes) == (0, 0)
    remember(log, small, "small")
    assert log.results_bytes == size


def test_training_on_feedback_ranks_taken_service_first(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path / "feedback", 64)
    for i in range(5):
        remember(log, small, str(i))
        log.record(Feedback(request_id=str(i), action="taken", service="brand_new"), small.vocabulary)
    documents = list(training_documents(final_decisions(read_feedback(log.folder).decisions)))
    file = tmp_path / "taken.json"
    file.write_text(json.dumps(documents))
    assert len(read(file).compositions) == 5
    store = Store(tmp_path / "store")
    train(read(file), store, load_config(models=["markov"]), measure=0)
    answer = Predictor(store.load()).answer(make_request(REQUEST))
    assert answer.predictions[0].service == "brand_new"  # type: ignore[union-attr]
