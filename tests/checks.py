"""What tests of any room ask of an error."""

from __future__ import annotations

import pytest


def says(error: pytest.ExceptionInfo[BaseException], *parts: str) -> bool:
    """Whether an error's text holds these parts, and no brace of a forgotten f-string."""
    text = str(error.value)
    missing = [part for part in parts if part not in text]
    assert not missing, f"{missing} not in: {text}"
    assert "{" not in text, text
    assert "}" not in text, text
    return True
