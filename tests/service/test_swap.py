"""Another bundle takes the live one's place, or is refused; who asks meanwhile gets an answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from dagrec.config import load_config
from dagrec.data.formats import read
from dagrec.jobs.train import train
from dagrec.store.store import Store
from tests.service.bad_bundles import SPOILED
from tests.service.conftest import DATA

Start = Callable[..., Any]
TOKEN = {"authorization": "Bearer of-the-administrator"}
ADMIN = {"DAGREC_ADMIN_TOKEN": "of-the-administrator"}


def publish(store: Store, *models: str) -> str:
    return train(read(DATA), store, load_config(models=models), measure=0).version


def wait_for(url: str, version: str) -> dict[str, Any]:
    """What /health/ready says once that version answers; at most 20 seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found: dict[str, Any] = httpx2.get(f"{url}/health/ready").json()
        if version in (found["version"], (found["refused"] or {}).get("version")):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{version} was neither taken nor refused")


def test_a_newly_published_bundle_is_taken_by_itself(small_store: Store, start_server: Start) -> None:
    server = start_server(small_store.root, DAGREC_WATCH="0.1")
    server.wait_until_ready()
    version = publish(small_store, "vsknn")
    assert wait_for(server.url, version) == {"status": "ready", "version": version, "refused": None}
    answer = httpx2.post(f"{server.url}/predict", json={"path": ["service_301"]}).json()
    assert (answer["version"], answer["model"]) == (version, "vsknn")
    assert "dagrec_bundle_swaps_total 1.0" in httpx2.get(f"{server.url}/metrics").text
    assert f"bundle {version} is live" not in server.stop(), "the log was to tell of warnings only"


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_a_bad_bundle_is_refused_and_seen_while_the_old_one_goes_on(
    spoil: Callable[[Path], None], small_store: Store, start_server: Start
) -> None:
    server = start_server(small_store.root, DAGREC_WATCH="0.1")
    server.wait_until_ready()
    old = small_store.current()
    bad = bad_version(small_store, spoil)
    found = wait_for(server.url, bad)
    assert (found["version"], found["refused"]["version"]) == (old, bad)
    assert found["refused"]["why"]
    time.sleep(0.4)
    metrics = httpx2.get(f"{server.url}/metrics").text
    assert "dagrec_bundle_refusals_total 1.0" in metrics, "it was tried once"
    assert "dagrec_bundle_refused 1.0" in metrics
    answer = httpx2.post(f"{server.url}/predict", json={"path": ["service_301"]}).json()
    assert answer["version"] == old
    good = publish(small_store, "popularity")
    assert wait_for(server.url, good) == {"status": "ready", "version": good, "refused": None}
    log = server.stop()
    assert f"bundle {bad} was refused" in log


def bad_version(store: Store, spoil: Callable[[Path], None]) -> str:
    """A bundle that is wrong when it becomes live."""
    other = Store(store.root.with_name("other"))
    version = publish(other, "markov")
    spoil(other.bundles / version)
    (other.bundles / version).rename(store.bundles / version)
    store.pointer.write_text(version)
    return version


def test_the_administrator_reloads_and_rolls_back(small_store: Store, start_server: Start) -> None:
    server = start_server(small_store.root, DAGREC_WATCH="0", **ADMIN)
    server.wait_until_ready()
    first, second = small_store.current(), publish(small_store, "markov")
    with httpx2.Client(base_url=server.url) as client:
        assert client.get("/health/ready").json()["version"] == first, "nobody looks by himself"
        answer = client.post("/admin/reload", headers=TOKEN)
        assert (answer.status_code, answer.json()) == (200, {"version": second})
        answer = client.post("/admin/rollback", headers=TOKEN)
        assert (answer.status_code, answer.json()) == (200, {"version": first})
        assert small_store.current() == first
        nothing = client.post("/admin/rollback", headers=TOKEN)
        assert nothing.status_code == 409
        assert "rolling back needs a version before" in nothing.json()["detail"]
        small_store.pointer.write_text("nowhere")
        refused = client.post("/admin/reload", headers=TOKEN)
        assert refused.status_code == 409
        assert "must name one of the bundles" in refused.json()["detail"]
        assert client.get("/health/ready").json()["version"] == first
    server.stop()


@pytest.mark.parametrize("path", ["/admin/reload", "/admin/rollback"])
def test_administration_is_off_without_a_token_and_shut_without_the_right_one(
    path: str, small_store: Store, start_server: Start, client: httpx2.Client
) -> None:
    off = client.post(path, headers=TOKEN)
    assert off.status_code == 403
    assert "set DAGREC_ADMIN_TOKEN to switch it on" in off.json()["detail"]
    server = start_server(small_store.root, **ADMIN)
    server.wait_until_ready()
    wrong = ({}, {"authorization": "Bearer another"}, {"authorization": "Basic of-the-administrator"})
    for headers in wrong:
        shut = httpx2.post(f"{server.url}{path}", headers=headers)
        assert shut.status_code == 401
        assert shut.headers["www-authenticate"] == "Bearer"
        assert "DAGREC_ADMIN_TOKEN" in shut.json()["detail"]
    assert small_store.current() in httpx2.get(f"{server.url}/health/ready").text
    assert "of-the-administrator" not in server.stop()
