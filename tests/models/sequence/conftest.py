from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _isolated_rng(isolated_rng: None) -> None:
    """Networks draw their initial weights from torch's generator."""
