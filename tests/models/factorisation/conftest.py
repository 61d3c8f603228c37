from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _isolated_rng(isolated_rng: None) -> None:
    """Restore torch's generator after each test, because networks draw initial weights from it."""
