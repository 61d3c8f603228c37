"""A server process, Chromium on its page, and a proxy with a path prefix before a server with a key."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from dagrec.data.formats import read
from dagrec.jobs.config import load_config
from dagrec.jobs.train import train
from dagrec.store.store import Store
from tests.playground.webdriver import Browser
from tests.service.conftest import DATA, start

MODELS = ["popularity", "markov", "vsknn"]
PREFIX = "/some/prefix"
KEY = "open-sesame"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("playground") / "store")
    train(read(DATA), store, load_config(models=MODELS), measure=0)
    return store


@pytest.fixture(scope="session")
def site(published: Store) -> Iterator[str]:
    """The URL of a server."""
    yield from serve(published)


def serve(store: Store, **environment: str) -> Iterator[str]:
    server = start(store.root, **environment)
    server.wait_until_ready()
    yield f"{server.url}/"
    server.stop()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def page(chromium: Browser, site: str) -> Browser:
    """A newly opened page."""
    return open_page(chromium, site)


def open_page(browser: Browser, url: str) -> Browser:
    browser.open("about:blank")
    browser.log()
    browser.open(url)
    browser.wait(
        lambda: browser.run("return !!document.getElementById('graph')._cyreg"), "the graph is drawn"
    )
    return browser


@pytest.fixture
def gateway(published: Store) -> Iterator[str]:
    """The URL of a proxy that strips a prefix, before a server that requires an API key."""
    for site in serve(published, DAGREC_API_KEY=KEY):
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Proxy", (Proxy,), {"site": site}))
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_port}{PREFIX}/"
        proxy.shutdown()
        proxy.server_close()
        thread.join()


class Proxy(BaseHTTPRequestHandler):
    """Forwards requests whose path has the prefix."""

    site: str

    def do_GET(self) -> None:
        path = self.path.removeprefix(f"{PREFIX}/")
        if path == self.path:
            self._send(404, {"Content-Type": "text/plain"}, b"outside the prefix")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or None
        headers = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "x-api-key")}
        try:
            with urlopen(Request(self.site + path, body, headers)) as response:
                self._send(response.status, response.headers, response.read())
        except HTTPError as error:
            with error:
                self._send(error.code, error.headers, error.read())

    def do_POST(self) -> None:
        self.do_GET()

    def _send(self, status: int, headers: Any, body: bytes) -> None:
        self.send_response(status)
        for name in ("Content-Type", "Content-Security-Policy", "X-Request-ID"):
            if headers.get(name):
                self.send_header(name, headers[name])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""
