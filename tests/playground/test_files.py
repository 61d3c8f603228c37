"""The static files of the page, and the endpoints for its keys and examples."""

from __future__ import annotations

import hashlib
import http.client
from urllib.parse import urlsplit

import pytest
from dagrec_service.routes.playground import STATIC

from tests.service.conftest import HTTP

FILES = sorted(
    path.relative_to(STATIC).as_posix()
    for path in STATIC.rglob("*")
    if path.suffix in (".js", ".css", ".svg", ".html")
)
CONTENT_TYPES = {
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
    "html": "text/html",
}


def test_page_has_content_security_policy(site: str) -> None:
    response = HTTP.get(site)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.content == (STATIC / "index.html").read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_file_is_served_with_content_type(site: str, name: str) -> None:
    response = HTTP.get(f"{site}static/{name}")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(CONTENT_TYPES[name.rpartition(".")[2]])
    assert response.content == (STATIC / name).read_bytes()
    assert HTTP.head(f"{site}static/{name}").headers["content-length"] == str(len(response.content))


def test_etag_avoids_sending_file_again(site: str) -> None:
    tag = HTTP.get(site).headers["etag"]
    assert HTTP.get(site, headers={"If-None-Match": f'"other", W/{tag}'}).status_code == 304
    assert HTTP.get(site, headers={"If-None-Match": '"other"'}).status_code == 200


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
def test_other_paths_are_not_served(site: str, path: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(site).netloc)
    connection.request("GET", path)  # unchanged; other clients normalise the path
    response = connection.getresponse()
    assert (response.status, response.headers["content-type"]) == (404, "application/problem+json")
    connection.close()


def test_vendored_scripts_match_checksums() -> None:
    lines = (STATIC / "vendor" / "SHA256SUMS").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split() for line in lines)}
    digests = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in STATIC.glob("vendor/*.js")}
    assert digests == expected


def test_examples_are_answered_without_unknown_nodes(site: str) -> None:
    examples = HTTP.get(f"{site}playground/examples").json()
    assert [example["name"] for example in examples] == ["A path", "A branching", "A join"]
    for example in examples:
        composition = example["composition"]
        assert len(composition["links"]) >= 2
        response = HTTP.post(
            f"{site}predict", json={"composition": composition, "models": "all"}
        ).json()
        assert all(not a["unknown"] for a in response["answers"])


def test_keys_are_searched_by_parts(site: str) -> None:
    first = HTTP.get(f"{site}playground/keys?limit=20").json()
    assert len(first["services"]) + len(first["others"]) == 20
    key = first["services"][3]
    matches = HTTP.get(
        f"{site}playground/keys", params={"search": f"{key[-4:].upper()} {key[:3]}"}
    ).json()
    assert key in matches["services"]
    none = HTTP.get(f"{site}playground/keys?search=no+such+thing").json()
    assert none == {"services": [], "others": [], "more": 0}
    assert HTTP.get(f"{site}playground/keys?limit=0").status_code == 422
