"""Checks that tests of all rooms use."""

from __future__ import annotations

import pytest


def says(error: pytest.ExceptionInfo[BaseException], *parts: str) -> bool:
    """Assert that the message of an error contains these parts, and no unformatted braces."""
    text = str(error.value)
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in: {text}"
    assert "{" not in text, text
    assert "}" not in text, text
    return True
