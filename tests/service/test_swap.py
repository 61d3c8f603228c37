"""Bundles that are published while the service runs: swapped in, refused, reloaded and rolled back."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from dagrec.data.formats import read
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.output.files import replace_file
from dagrec.store.store import Store
from tests.processes import wait_until
from tests.service.bad_bundles import DAMAGES
from tests.service.conftest import DATA, HTTP

Start = Callable[..., Any]
TOKEN = {"authorization": "Bearer the-admin-token"}
ADMIN = {"DAGREC_ADMIN_TOKEN": "the-admin-token"}


def publish(store: Store, *models: str) -> str:
    return train(read(DATA), store, load_config(models=models), measure=0).version


def wait_for(url: str, version: str) -> dict[str, Any]:
    """Return the response of /health/ready once the version is live or refused."""

    def health() -> dict[str, Any] | None:
        health: dict[str, Any] = HTTP.get(f"{url}/health/ready").json()
        done = version in (health["version"], (health["refused"] or {}).get("version"))
        return health if done else None

    result = wait_until(health, f"{version} is loaded or refused")
    assert result is not None
    return result


def test_watch_loads_published_bundle(small_store: Store, start_server: Start) -> None:
    server = start_server(small_store.root, DAGREC_WATCH="0.1")
    server.wait_until_ready()
    version = publish(small_store, "vsknn")
    assert wait_for(server.url, version) == {"status": "ready", "version": version, "refused": None}
    answer = HTTP.post(f"{server.url}/predict", json={"path": ["service_301"]}).json()
    assert (answer["version"], answer["model"]) == (version, "vsknn")
    assert "dagrec_bundle_swaps_total 1.0" in HTTP.get(f"{server.url}/metrics").text
    assert f"bundle {version} is live" not in server.stop(), "logged below the level warning"


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_bundle_is_refused_and_current_one_stays(
    damage: Callable[[Path], None], small_store: Store, start_server: Start
) -> None:
    server = start_server(small_store.root, DAGREC_WATCH="0.1")
    server.wait_until_ready()
    old = small_store.current()
    bad = publish_damaged(small_store, damage)
    health = wait_for(server.url, bad)
    assert (health["version"], health["refused"]["version"]) == (old, bad)
    assert health["refused"]["why"]
    time.sleep(0.4)
    metrics = HTTP.get(f"{server.url}/metrics").text
    assert "dagrec_bundle_refusals_total 1.0" in metrics, "the bundle was loaded more than once"
    assert "dagrec_bundle_refused 1.0" in metrics
    answer = HTTP.post(f"{server.url}/predict", json={"path": ["service_301"]}).json()
    assert answer["version"] == old
    good = publish(small_store, "popularity")
    assert wait_for(server.url, good) == {"status": "ready", "version": good, "refused": None}
    log = server.stop()
    assert f"bundle {bad} was refused" in log


def publish_damaged(store: Store, damage: Callable[[Path], None]) -> str:
    """Make a damaged bundle live, and return its version."""
    other = Store(store.root.with_name("other"))
    version = publish(other, "markov")
    damage(other.bundles / version)
    (other.bundles / version).rename(store.bundles / version)
    replace_file(store.pointer, version)
    return version


def test_admin_endpoints_reload_and_roll_back(small_store: Store, start_server: Start) -> None:
    server = start_server(small_store.root, DAGREC_WATCH="0", **ADMIN)
    server.wait_until_ready()
    first, second = small_store.current(), publish(small_store, "markov")
    with server.client() as client:
        assert client.get("/health/ready").json()["version"] == first, "loaded without a request"
        response = client.post("/admin/reload", headers=TOKEN)
        assert (response.status_code, response.json()) == (200, {"version": second})
        response = client.post("/admin/rollback", headers=TOKEN)
        assert (response.status_code, response.json()) == (200, {"version": first})
        assert small_store.current() == first
        response = client.post("/admin/rollback", headers=TOKEN)
        assert response.status_code == 409
        assert "a rollback needs a version before" in response.json()["detail"]
        replace_file(small_store.pointer, "nowhere")
        response = client.post("/admin/reload", headers=TOKEN)
        assert response.status_code == 409
        assert "must name one of the bundles" in response.json()["detail"]
        assert client.get("/health/ready").json()["version"] == first
    server.stop()


@pytest.mark.parametrize("path", ["/admin/reload", "/admin/rollback"])
def test_admin_endpoints_reject_missing_and_wrong_token(
    path: str, small_store: Store, start_server: Start, client: httpx2.Client
) -> None:
    response = client.post(path, headers=TOKEN)
    assert response.status_code == 403
    assert "set DAGREC_ADMIN_TOKEN to switch it on" in response.json()["detail"]
    server = start_server(small_store.root, **ADMIN)
    server.wait_until_ready()
    wrong = ({}, {"authorization": "Bearer another"}, {"authorization": "Basic the-admin-token"})
    for headers in wrong:
        response = HTTP.post(f"{server.url}{path}", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "DAGREC_ADMIN_TOKEN" in response.json()["detail"]
    assert small_store.current() in HTTP.get(f"{server.url}/health/ready").text
    assert "the-admin-token" not in server.stop()
