from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_generator(own_generator: None) -> None:
    """Networks draw their first weights from torch's generator."""
