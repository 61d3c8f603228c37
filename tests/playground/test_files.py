"""The files of the page, over HTTP."""

from __future__ import annotations

import hashlib
import http.client
from urllib.parse import urlsplit

import httpx2
import pytest
from dagrec_service.routes.playground import STATIC

FILES = sorted(
    path.relative_to(STATIC).as_posix()
    for path in STATIC.rglob("*")
    if path.suffix in (".js", ".css", ".svg", ".html")
)
KINDS = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "html": "text/html"}


def test_the_page_is_served_with_a_policy_that_lets_nothing_from_outside_in(site: str) -> None:
    answer = httpx2.get(site)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.content == (STATIC / "index.html").read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_served_as_what_it_is(site: str, name: str) -> None:
    answer = httpx2.get(f"{site}static/{name}")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(KINDS[name.rpartition(".")[2]])
    assert answer.content == (STATIC / name).read_bytes()
    assert httpx2.head(f"{site}static/{name}").headers["content-length"] == str(len(answer.content))


def test_a_file_that_the_browser_has_is_not_sent_again(site: str) -> None:
    tag = httpx2.get(site).headers["etag"]
    assert httpx2.get(site, headers={"If-None-Match": f'"other", W/{tag}'}).status_code == 304
    assert httpx2.get(site, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fapp.py",
        "/static//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/vendor/..\\..\\app.py",
        "/static/vendor/SHA256SUMS",
        "/static/",
        "/static/vendor",
        "/static/canvas.js/x.js",
        "/static/%00.js",
        f"/static/{'x' * 300}.js",
    ],
)
def test_nothing_else_is_served(site: str, path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(site).netloc)
    connection.request("GET", path)  # as it stands: other clients would tidy it up
    answer = connection.getresponse()
    assert (answer.status, answer.headers["content-type"]) == (404, "application/problem+json")
    connection.close()


def test_scripts_of_others_are_as_they_were_published() -> None:
    lines = (STATIC / "vendor" / "SHA256SUMS").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split() for line in lines)}
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in STATIC.glob("vendor/*.js")}
    assert found == expected


def test_examples_are_compositions_that_the_service_answers(site: str) -> None:
    found = httpx2.get(f"{site}playground/examples").json()
    assert [example["name"] for example in found] == ["A path", "A branching", "A join"]
    for example in found:
        composition = example["composition"]
        assert len(composition["links"]) >= 2
        answer = httpx2.post(
            f"{site}predict", json={"composition": composition, "models": "all"}
        ).json()
        assert all(not a["unknown"] for a in answer["answers"])


def test_keys_are_found_by_parts_of_their_names(site: str) -> None:
    every = httpx2.get(f"{site}playground/keys?limit=20").json()
    assert len(every["services"]) + len(every["others"]) == 20
    key = every["services"][3]
    found = httpx2.get(
        f"{site}playground/keys", params={"search": f"{key[-4:].upper()} {key[:3]}"}
    ).json()
    assert key in found["services"]
    none = httpx2.get(f"{site}playground/keys?search=no+such+thing").json()
    assert none == {"services": [], "others": [], "more": 0}
    assert httpx2.get(f"{site}playground/keys?limit=0").status_code == 422
