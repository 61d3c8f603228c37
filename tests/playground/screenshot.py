"""Take docs/playground.png: `python -m tests.playground.screenshot URL docs/playground.png`."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.playground.conftest import open_page
from tests.playground.test_page import load_example, suggestions
from tests.playground.webdriver import Browser


def main(url: str, path: Path) -> None:
    """Load an example on the page of a running service, accept a suggestion, and take a screenshot."""
    page = open_page(Browser(), url)
    try:
        load_example(page, 2)
        page.press("Right")
        suggestions(page)
        page.press("Right")
        suggestions(page)
        page.press("Down")
        page.run("document.activeElement.blur()")
        page.screenshot(path)
    finally:
        page.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
