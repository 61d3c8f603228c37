"""Owners whose next service only their history tells, and histories by hand."""

from __future__ import annotations

from collections.abc import Sequence

from dagrec.data.examples import Call, Context, extract
from dagrec.training.data import TrainingData
from tests.worlds import DAY, composition

PATH = ("table_t",)


def past(*services: str, path: tuple[str, ...] = PATH, timed: bool = True) -> tuple[Call, ...]:
    """A call a day, the last of them a day ago."""
    days = range(-len(services), 0)
    return tuple(
        Call(s, path, day * DAY if timed else None) for s, day in zip(services, days, strict=True)
    )


def asked(*services: str, path: tuple[str, ...] = PATH, timed: bool = True) -> Context:
    """A question of an owner who called these services, each after the same path."""
    time = 0.0 if timed else None
    return Context(path, time=time, history=past(*services, path=path, timed=timed))


def alternating(
    owners: int = 16, calls: int = 10, services: Sequence[str] = ("a", "b")
) -> TrainingData:
    """Each owner goes round the services, one a day, from another start: half of them follow each."""
    return TrainingData.of(
        extract(
            [
                composition(
                    f"{owner}-{day}",
                    (*PATH, services[(owner + day) % len(services)]),
                    owner=f"owner-{owner}",
                    time=day * DAY + owner,
                )
                for owner in range(owners)
                for day in range(calls)
            ]
        )[0]
    )


def mostly_faithful(owners: int = 16, calls: int = 8) -> TrainingData:
    """Each owner has one service, and every fourth time another; and comes from another table each
    time. A base that had seen an example would know its answer by the table, and knows nothing where it
    had not."""
    return TrainingData.of(
        extract(
            [
                composition(
                    f"{owner}-{day}",
                    (f"table_{owner}_{day}", f"s{(owner + (day % 4 == 3)) % 4}"),
                    owner=f"owner-{owner}",
                    time=day * DAY + owner,
                )
                for owner in range(owners)
                for day in range(calls)
            ]
        )[0]
    )
