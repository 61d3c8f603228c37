"""Examples to split, and random generators."""

from __future__ import annotations

import random
from collections.abc import Sequence

from dagrec.data.examples import Example, extract
from tests.data.dags import dag

SHARES = [0.01, 0.3, 0.5, 0.99]


def rng(seed: int = 0) -> random.Random:
    return random.Random(seed)


def pairs_of(
    *targets: str,
    times: Sequence[float | None] | None = None,
    owners: Sequence[str | None] | None = None,
) -> tuple[Example, ...]:
    """One composition ``t -> target`` for each target."""
    times = times or [None] * len(targets)
    owners = owners or ["ann"] * len(targets)
    return extract(
        [
            dag(f"t {target}", f"t>{target}", id=str(i), time=time, owner=owner)
            for i, (target, time, owner) in enumerate(zip(targets, times, owners, strict=True))
        ]
    )[0]
