"""Draws docs/playground.png: `python -m tests.playground.screenshot URL docs/playground.png`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.playground.conftest import opened
from tests.playground.test_page import load_example, suggested
from tests.playground.webdriver import Browser


def main(url: str, path: Path) -> None:
    """One session on the page of a running service: an example, a step accepted, all compared."""
    page = opened(Browser(), url)
    try:
        load_example(page, 2)
        page.press("Right")
        suggested(page)
        page.press("Right")
        suggested(page)
        page.press("Down")
        page.run("document.activeElement.blur()")
        page.screenshot(path)
    finally:
        page.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
