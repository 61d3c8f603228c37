"""Training data in which the next service depends only on the owner's history, and histories."""

from __future__ import annotations

from collections.abc import Sequence

from dagrec.data.examples import Call, Context, extract
from dagrec.training.data import TrainingData
from tests.worlds import DAY, composition

PATH = ("table_t",)


def call_history(*services: str, path: tuple[str, ...] = PATH, timed: bool = True) -> tuple[Call, ...]:
    """Return one call per day, the last of them one day ago."""
    days = range(-len(services), 0)
    return tuple(
        Call(s, path, day * DAY if timed else None) for s, day in zip(services, days, strict=True)
    )


def context_after(*services: str, path: tuple[str, ...] = PATH, timed: bool = True) -> Context:
    """Return the context of an owner who called these services, each after the same path."""
    time = 0.0 if timed else None
    return Context(path, time=time, history=call_history(*services, path=path, timed=timed))


def alternating(
    owners: int = 16, calls: int = 10, services: Sequence[str] = ("a", "b")
) -> TrainingData:
    """Return data of owners who cycle through the services, one per day, from different starts."""
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
    """Return data of owners who call one service, and another one every fourth time.

    Each call comes after a different table, so a base recommender can memorise its training examples by
    the table, but its predictions for other examples are uninformative.
    """
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
