"""Decisions read back from disk: how good the answers were, and training data of what was taken.

A folder of feedback holds ``feedback-<UTC time>-<pid>.jsonl``, a :class:`Decision` a line. A line
that is not whole was never confirmed to anybody: it is left out, and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ValidationError

from dagrec.errors import DataError
from dagrec.feedback.record import Decision, Step
from dagrec.metrics.statistics import LEVEL

FILES = "feedback-*.jsonl"
DRAWS = 2000


@dataclass
class Decisions:
    """What was read: the decisions in the order of their times, and why lines were left out."""

    decisions: list[Decision] = field(default_factory=list)
    files: int = 0
    lines: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def read_feedback(path: Path, since: float | None = None) -> Decisions:
    """The decisions of a file, or of a folder's ``feedback-*.jsonl``, from a time (seconds) on.

    Lines that are none are counted by reason. Raises :class:`DataError` for what cannot be read at all.
    """
    found = Decisions()
    files = sorted(path.glob(FILES)) if path.is_dir() else [path]
    if not files:
        raise DataError(
            f"{path}: a folder of feedback holds {FILES}, found none; serve with --feedback {path}",
            rule="no-file",
        )
    for file in files:
        try:
            with file.open("rb") as lines:
                _read_lines(lines, since, found)
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read: {error.strerror}; check it", rule="unreadable"
            ) from None
        found.files += 1
    found.decisions.sort(key=lambda decision: decision.seconds)
    return found


def _read_lines(lines: Iterable[bytes], since: float | None, found: Decisions) -> None:
    for line in lines:
        found.lines += 1
        if not line.endswith(b"\n"):
            found.skipped["torn: the end of the line was never written"] += 1
            continue
        try:
            decision = Decision.model_validate_json(line)
        except ValidationError as error:
            found.skipped[_reason(error)] += 1
            continue
        if since is not None and decision.seconds < since:
            found.skipped["older than asked for"] += 1
        else:
            found.decisions.append(decision)


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "not JSON"
    where = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    return f"no decision: {where or 'the whole'}: {first['msg']}"


Outcome = Literal["taken", "elsewhere", "refused", "undecided"]


@dataclass(frozen=True)
class Final:
    """How it ended for one node to extend: the last word of several decisions about it.

    ``by`` is the decision that tells; taken: one of the services shown; elsewhere: another one;
    refused: all that was shown; undecided: only some of what was shown was refused.
    """

    by: Decision
    outcome: Outcome

    @property
    def gain(self) -> float:
        """1 / rank of what was taken, 0 where that was not shown, or nothing was taken."""
        return 1 / self.by.rank if self.outcome == "taken" and self.by.rank else 0.0


def finals(decisions: Iterable[Decision]) -> list[Final]:
    """How it ended for each node to extend and model, in the order in which they were first decided on.

    What is taken later takes the place of what was taken before; refusing it takes it back.
    """
    groups: dict[object, list[Decision]] = {}
    for decision in decisions:
        groups.setdefault((decision.subject, decision.model, decision.version), []).append(decision)
    return [_final(group) for group in groups.values()]


def _final(group: Sequence[Decision]) -> Final:
    taken: Decision | None = None
    refused: set[str] = set()
    for decision in group:
        if decision.action == "taken":
            taken = decision
            refused.discard(decision.service or "")
        else:
            refused.update(decision.shown if decision.service is None else [decision.service])
            if taken is not None and taken.service in refused:
                taken = None
    if taken is not None:
        return Final(taken, "elsewhere" if taken.rank is None else "taken")
    last = group[-1]
    return Final(last, "refused" if refused.issuperset(last.shown) else "undecided")


def summary(ends: Iterable[Final]) -> dict[str, Any]:
    """Counts, and of all that were decided the hit rate, the accuracy at 1 and the MRR.

    Each with its 95 % interval (Wilson's for shares, the bootstrap's for the MRR); None of nothing.
    """
    counts: Counter[str] = Counter(taken=0, elsewhere=0, refused=0, undecided=0)
    gains: Counter[float] = Counter()
    for end in ends:
        counts[end.outcome] += 1
        if end.outcome != "undecided":
            gains[end.gain] += 1
    n = gains.total()
    return {
        "decided": n,
        **counts,
        "hit_rate": wilson(n - gains[0.0], n),
        "accuracy@1": wilson(gains[1.0], n),
        "mrr": _mean(gains),
    }


def by_model(ends: Iterable[Final]) -> list[dict[str, Any]]:
    """The summary of each model of each bundle."""
    groups: dict[tuple[str, str], list[Final]] = {}
    for end in ends:
        groups.setdefault((end.by.version, end.by.model), []).append(end)
    return [
        {"model": model, "version": version, **summary(group)}
        for (version, model), group in sorted(groups.items())
    ]


def wilson(successes: int, n: int) -> dict[str, float] | None:
    """A share of n with Wilson's score interval (1927), which stays within 0 and 1; None of nothing."""
    if not n:
        return None
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return {"mean": successes / n, "low": float(interval.low), "high": float(interval.high)}


def _mean(values: Counter[float]) -> dict[str, float] | None:
    """The mean of counted values, with the percentile interval of its bootstrap."""
    n = values.total()
    if not n:
        return None
    distinct = np.array(sorted(values), dtype=np.float64)
    counts = np.array([values[value] for value in distinct.tolist()], dtype=np.float64)
    # Drawing n of n values with replacement draws how often each distinct one comes.
    draws = np.random.default_rng(0).multinomial(n, counts / n, size=DRAWS) @ distinct / n
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return {"mean": float(counts @ distinct / n), "low": float(low), "high": float(high)}


def training_documents(ends: Iterable[Final]) -> Iterator[dict[str, Any]]:
    """A composition in native JSON for each step that was taken: its path, and the service behind it.

    A node to extend gives one, however many models answered; a service without a path before it none.
    """
    seen: set[object] = set()
    for end in ends:
        by = end.by
        if end.outcome not in ("taken", "elsewhere") or not by.path or by.subject in seen:
            continue
        seen.add(by.subject)
        steps = [*by.path, Step(key=by.service or "", kind="service")]
        nodes = [{"id": f"n{i}", **step.model_dump()} for i, step in enumerate(steps)]
        parts = [by.request_id, str(by.item), *([] if by.at is None else [by.at])]
        yield {
            "id": "-".join(["feedback", *parts]),
            "time": by.time,
            "nodes": nodes,
            "links": [{"source": a["id"], "target": b["id"]} for a, b in pairwise(nodes)],
        }
