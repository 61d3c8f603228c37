"""A small client of W3C WebDriver: what the tests of the page need, and no package for it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

KEYS = {
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "Delete": "\ue017",
    "Control": "\ue009",
    "Shift": "\ue008",
}
KEYS |= {"Left": "\ue012", "Up": "\ue013", "Right": "\ue014", "Down": "\ue015"}
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """Headless Chromium with one window. Where there is none the test is skipped, unless the variable
    TEST_CHROMIUM asks for it: then it fails."""

    def __init__(self, *, width: int = 1280, height: int = 800) -> None:
        driver = shutil.which("chromedriver")
        chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
        if driver is None or chromium is None:
            why = "needs chromium and chromedriver (Debian: apt install chromium chromium-driver)"
            if os.environ.get("TEST_CHROMIUM"):
                raise AssertionError(why)
            # A browser is no Python package: `make test` must pass where only Python is installed. What
            # is served is tested there without one; `make test-playground` fails here.
            pytest.skip(why)
        self._driver = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._driver.stdout is not None
        said = (re.search(r"started successfully on port (\d+)", line) for line in self._driver.stdout)
        self._url = f"http://127.0.0.1:{next(filter(None, said))[1]}"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": chromium, "args": [*flags, f"--window-size={width},{height}"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._url += f"/session/{session['sessionId']}"
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", size)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except HTTPError as error:
            raise AssertionError(f"{method} {path}: {json.load(error)['value']['message']}") from None

    def close(self) -> None:
        # All tests are over: a browser that is gone already, as after a crash that failed one of them,
        # must not keep its driver from being ended.
        with suppress(AssertionError, OSError):
            self._ask("DELETE", "")
        self._driver.terminate()
        self._driver.communicate(timeout=20)

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns; its arguments are ``arguments``."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: Callable[[], Any], what: str, seconds: float = 15) -> Any:
        """The first true value of a condition."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if value := condition():
                return value
            time.sleep(0.03)
        raise AssertionError(f"within {seconds:g} s it did not come true that {what}")

    def find(self, selector: str) -> str:
        body = {"using": "css selector", "value": selector}
        return str(self._ask("POST", "/element", body)[ELEMENT])

    def click(self, selector: str) -> None:
        """A real click, which fails where the element is covered or not shown."""
        self._ask("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Real key strokes into an element; of a file input, the path."""
        self._ask("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def text(self, selector: str) -> str:
        """The text of an element as it is shown."""
        return str(self._ask("GET", f"/element/{self.find(selector)}/text"))

    def press(self, *keys: str) -> None:
        """Keys held down one after another, then released: ``press("Control", "z")``."""
        codes = [KEYS.get(key, key) for key in keys]
        actions = [{"type": "keyDown", "value": code} for code in codes]
        actions += [{"type": "keyUp", "value": code} for code in reversed(codes)]
        self._act({"type": "key", "id": "keyboard", "actions": actions})

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point, move over the others, release; of one point, a click."""
        moves = [
            {"type": "pointerMove", "duration": 60, "x": round(x), "y": round(y)} for x, y in points
        ]
        down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
        self._act({"type": "pointer", "id": "mouse", "actions": [moves[0], down, *moves[1:], up]})

    def _act(self, source: dict[str, Any]) -> None:
        self._ask("POST", "/actions", {"actions": [source]})

    def log(self) -> list[str]:
        """What the console was told since the last call: errors, and what a policy refused."""
        return [entry["message"] for entry in self._ask("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))
