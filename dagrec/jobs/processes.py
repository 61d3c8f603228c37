"""Which process of a job this is: several may train together (see ``dagrec.training.distributed``)."""

from __future__ import annotations

import os


def first_process() -> bool:
    """Whether this process is the one that writes and speaks; under torchrun only the first does."""
    return os.environ.get("RANK", "0") == "0"
