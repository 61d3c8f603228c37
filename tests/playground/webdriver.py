"""A small client of W3C WebDriver, which avoids a dependency."""

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
    """Headless Chromium with one window.

    Without Chromium, the test is skipped, or fails if the environment variable TEST_CHROMIUM is set.
    """

    def __init__(self, *, width: int = 1280, height: int = 800) -> None:
        driver = shutil.which("chromedriver")
        chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
        if driver is None or chromium is None:
            reason = "needs chromium and chromedriver (Debian: apt install chromium chromium-driver)"
            if os.environ.get("TEST_CHROMIUM"):
                raise AssertionError(reason)
            # A browser is not a Python package, and `make test` must pass without one. `make
            # test-playground` sets the variable.
            pytest.skip(reason)
        self._driver = subprocess.Popen(
            [driver, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._driver.stdout is not None
        matches = (
            re.search(r"started successfully on port (\d+)", line) for line in self._driver.stdout
        )
        self._url = f"http://127.0.0.1:{next(filter(None, matches))[1]}"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options = {"binary": chromium, "args": [*flags, f"--window-size={width},{height}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._url += f"/session/{session['sessionId']}"
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", size)

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=60) as response:
                return json.load(response)["value"]
        except HTTPError as error:
            raise AssertionError(f"{method} {path}: {json.load(error)['value']['message']}") from None

    def close(self) -> None:
        # The driver must be terminated even if the browser has crashed.
        with suppress(AssertionError, OSError):
            self._send("DELETE", "")
        self._driver.terminate()
        self._driver.communicate(timeout=20)

    def devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._send("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def open(self, url: str) -> None:
        self._send("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script, whose ``arguments`` are these arguments, and return its result."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, condition: Callable[[], Any], expectation: str, seconds: float = 15) -> Any:
        """Wait until a condition returns a true value, and return the value."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.03)
        raise AssertionError(f"not true within {seconds:g} s: {expectation}")

    def find(self, selector: str) -> str:
        body = {"using": "css selector", "value": selector}
        return str(self._send("POST", "/element", body)[ELEMENT])

    def click(self, selector: str) -> None:
        """Click an element; this fails if it is covered or invisible."""
        self._send("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Type into an element, or set the path of a file input."""
        self._send("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def text(self, selector: str) -> str:
        """Return the visible text of an element."""
        return str(self._send("GET", f"/element/{self.find(selector)}/text"))

    def press(self, *keys: str) -> None:
        """Press keys one after another, then release them: ``press("Control", "z")``."""
        codes = [KEYS.get(key, key) for key in keys]
        actions = [{"type": "keyDown", "value": code} for code in codes]
        actions += [{"type": "keyUp", "value": code} for code in reversed(codes)]
        self._act({"type": "key", "id": "keyboard", "actions": actions})

    def drag(self, *points: tuple[float, float]) -> None:
        """Press the mouse at the first point, move over the others, release; one point is a click."""
        moves = [
            {"type": "pointerMove", "duration": 60, "x": round(x), "y": round(y)} for x, y in points
        ]
        down, up = {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}
        self._act({"type": "pointer", "id": "mouse", "actions": [moves[0], down, *moves[1:], up]})

    def _act(self, source: dict[str, Any]) -> None:
        self._send("POST", "/actions", {"actions": [source]})

    def log(self) -> list[str]:
        """Return the console messages since the last call, which include policy violations."""
        return [entry["message"] for entry in self._send("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("GET", "/screenshot")))
