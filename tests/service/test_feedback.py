"""Feedback over HTTP: durable, rotated, bounded, and good to train on."""

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

from dagrec.config import load_config
from dagrec.data.formats import read
from dagrec.errors import DagrecError
from dagrec.feedback.outcomes import finals, read_feedback, training_documents
from dagrec.feedback.record import Feedback
from dagrec.jobs.train import train
from dagrec.recommend.predictor import Predictor
from dagrec.recommend.request import make_request
from dagrec.store.bundle import Bundle
from dagrec.store.store import Store

ASKED: dict[str, Any] = {"path": ["table_1001002", "service_301"], "k": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Store:
    data = Path(__file__).parents[2] / "data" / "compositions.json"
    store = Store(tmp_path_factory.mktemp("feedback") / "store")
    train(read(data), store, load_config(models=["popularity", "markov"]), measure=0)
    return store


@pytest.fixture(scope="module")
def small(trained: Store) -> Bundle:
    return trained.load()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback") / "made" / "by it"


@pytest.fixture(scope="module")
def noting(trained: Store, folder: Path, start_server: Callable[..., Any]) -> Iterator[httpx2.Client]:
    server = start_server(trained.root, DAGREC_FEEDBACK=str(folder))
    server.wait_until_ready()
    with httpx2.Client(base_url=server.url) as client:
        yield client
    server.stop()


def ask(client: httpx2.Client, url: str = "/predict", **values: Any) -> tuple[str, Any]:
    answer = client.post(url, json=values or ASKED)
    assert answer.status_code == 200
    return answer.headers["x-request-id"], answer.json()


def test_feedback_is_a_line_with_all_that_was_shown(noting: httpx2.Client, folder: Path) -> None:
    id_, answer = ask(noting)
    shown = [p["service"] for p in answer["predictions"]]
    taken = noting.post("/feedback", json={"request_id": id_, "action": "taken", "service": shown[2]})
    assert taken.status_code == 200
    refused = noting.post("/feedback", json={"request_id": id_, "action": "refused"})
    assert refused.status_code == 200
    found = [d for d in read_feedback(folder).decisions if d.request_id == id_]
    assert [d.model_dump(mode="json") for d in found] == [taken.json(), refused.json()]
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
    assert 'dagrec_feedback_total{action="taken"}' in noting.get("/metrics").text


def test_feedback_on_one_of_a_batch_and_on_tensors(noting: httpx2.Client) -> None:
    id_, _ = ask(noting, "/predict/batch", requests=[ASKED, {"path": []}])
    report = {"request_id": id_, "action": "refused", "item": 1}
    assert noting.post("/feedback", json=report).json()["path"] == []
    tensor = {"name": "path", "shape": [1], "datatype": "BYTES", "data": ['["service_301"]']}
    id_, _ = ask(noting, "/v2/models/dagrec/infer", inputs=[tensor])
    report = {"request_id": id_, "action": "taken", "service": "other"}
    assert noting.post("/feedback", json=report).json()["rank"] is None


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (
            {"request_id": "never"},
            404,
            "request_id must be the X-Request-ID of one of the newest 10000",
        ),
        ({"action": "liked"}, 422, "action"),
        ({"service": None}, 422, "service must be named where it was taken"),
        ({"service": ""}, 422, "service"),
        ({"item": 1}, 422, "item must be below 1"),
        ({"item": 10**400}, 422, "item"),
        ({"at": "n1"}, 422, "at must be one of [None]"),
        ({"model": "other"}, 422, "model must be one of"),
        ({"more": 1}, 422, "more"),
    ],
)
def test_feedback_that_does_not_fit_is_a_problem(
    change: dict[str, Any], status: int, text: str, noting: httpx2.Client, folder: Path
) -> None:
    id_, _ = ask(noting)
    before = read_feedback(folder).lines if list(folder.iterdir()) else 0
    report = {"request_id": id_, "action": "taken", "service": "service_303"} | change
    answer = noting.post(
        "/feedback", content=json.dumps(report), headers={"content-type": "application/json"}
    )
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert text in answer.json()["detail"]
    assert (read_feedback(folder).lines if list(folder.iterdir()) else 0) == before


def test_a_lone_surrogate_is_refused(noting: httpx2.Client) -> None:
    id_, _ = ask(noting)
    body = f'{{"request_id": "{id_}", "action": "taken", "service": "\\ud800"}}'
    answer = noting.post("/feedback", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


def test_without_a_folder_it_says_how_to_switch_it_on(client: httpx2.Client) -> None:
    answer = client.post("/feedback", json={"request_id": "r", "action": "refused"})
    assert answer.status_code == 404
    assert "feedback is off; serve with --feedback FOLDER" in answer.json()["detail"]


def test_a_line_outlives_a_kill_and_another_start_writes_another_file(
    trained: Store, tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    for run in range(2):
        server = start_server(trained.root, DAGREC_FEEDBACK=str(tmp_path))
        server.wait_until_ready()
        with httpx2.Client(base_url=server.url) as client:
            id_, _ = ask(client)
            answer = client.post("/feedback", json={"request_id": id_, "action": "refused"})
            server.process.send_signal(signal.SIGKILL)
        assert answer.status_code == 200
        server.process.communicate()
        found = read_feedback(tmp_path)
        assert (found.files, len(found.decisions), found.skipped.total()) == (run + 1, run + 1, 0)
        assert found.decisions[-1].request_id == id_


def remembered(log: FeedbackLog, bundle: Bundle, *ids: str, **asked: Any) -> None:
    request = make_request(asked or ASKED)
    answer = Predictor(bundle).answer(request)
    for id_ in ids:
        log.remember(id_, [request], [answer])


def refuse(log: FeedbackLog, bundle: Bundle, id_: str) -> object:
    return log.note(Feedback(request_id=id_, action="refused"), bundle.vocabulary)


def test_a_full_file_gives_way_to_a_new_one(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 0.0012)
    remembered(log, small, "r")
    for _ in range(9):
        refuse(log, small, "r")
    files = sorted(tmp_path.iterdir())
    assert len(files) > 1
    assert all(0 < file.stat().st_size <= 1200 for file in files)
    assert len(read_feedback(tmp_path).decisions) == 9


def test_a_line_larger_than_a_file_has_one_of_its_own(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 0.00001)
    remembered(log, small, "r")
    for _ in range(2):
        refuse(log, small, "r")
    assert [file.read_bytes().count(b"\n") for file in tmp_path.iterdir()] == [1, 1]


def test_a_full_disk_counts_nothing_and_then_goes_on(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 64)
    remembered(log, small, "r")
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
    assert file.stat().st_size == size, "half a line was left"
    refuse(log, small, "r")
    found = read_feedback(tmp_path)
    assert (found.files, len(found.decisions), found.skipped.total()) == (2, 2, 0)


def test_a_folder_that_is_gone_is_503_and_no_crash(
    trained: Store, tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    folder = tmp_path / "feedback"
    server = start_server(trained.root, DAGREC_FEEDBACK=str(folder))
    server.wait_until_ready()
    with httpx2.Client(base_url=server.url) as client:
        id_, _ = ask(client)
        report = {"request_id": id_, "action": "refused"}
        folder.rmdir()
        answer = client.post("/feedback", json=report)
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert "No such file or directory; it was not counted" in answer.json()["detail"]
        folder.mkdir()
        assert client.post("/feedback", json=report).status_code == 200
    assert "feedback cannot be written" in server.stop()
    assert len(read_feedback(folder).decisions) == 1


def test_it_does_not_start_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DagrecError, match="a folder for feedback cannot be made"):
        FeedbackLog(tmp_path / "file" / "folder", 64)


def test_what_is_remembered_is_bounded_in_number(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 64, remembered=3)
    remembered(log, small, "1", "2", "3", "1", "4")
    assert len(log) == 3
    assert refuse(log, small, "2") is None
    assert all(refuse(log, small, id_) is not None for id_ in "314")


def test_what_is_remembered_is_bounded_in_bytes(small: Bundle, tmp_path: Path) -> None:
    log = FeedbackLog(tmp_path, 64, remembered_bytes=100_000)
    remembered(log, small, "small")
    size = log.bytes
    remembered(log, small, "large", path=["x" * 1000] * 80)
    assert 80_000 < log.bytes <= 100_000
    nodes = [{"id": i, "mid": 301, "text": "x" * 1000} for i in range(80)]
    remembered(log, small, "larger", composition={"nodes": nodes, "links": []}, at=0)
    assert refuse(log, small, "large") is None
    assert refuse(log, small, "larger") is not None
    remembered(log, small, "too large", path=["x" * 1000] * 200)
    assert (len(log), log.bytes) == (0, 0)
    remembered(log, small, "small")
    assert log.bytes == size


def test_what_was_taken_is_trained_on(small: Bundle, tmp_path: Path) -> None:
    """A new step becomes the most probable one, once a bundle was trained on what was taken."""
    log = FeedbackLog(tmp_path / "feedback", 64)
    for i in range(5):
        remembered(log, small, str(i))
        log.note(Feedback(request_id=str(i), action="taken", service="brand_new"), small.vocabulary)
    documents = list(training_documents(finals(read_feedback(log.folder).decisions)))
    file = tmp_path / "taken.json"
    file.write_text(json.dumps(documents))
    assert len(read(file).compositions) == 5
    store = Store(tmp_path / "store")
    train(read(file), store, load_config(models=["markov"]), measure=0)
    answer = Predictor(store.load()).answer(make_request(ASKED))
    assert answer.predictions[0].service == "brand_new"  # type: ignore[union-attr]
