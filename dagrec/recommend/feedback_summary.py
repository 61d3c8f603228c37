"""Stored decisions: read from disk, summarised as rates, and turned into training data.

A feedback folder holds files ``feedback-<UTC time>-<pid>.jsonl`` with one :class:`Decision` a line. An
incomplete line was never confirmed to a client: it is skipped and counted.
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
from dagrec.metrics.statistics import LEVEL
from dagrec.recommend.feedback import Decision, PathNode

FILES = "feedback-*.jsonl"
BOOTSTRAP_DRAWS = 2000


@dataclass
class Decisions:
    """The decisions that were read, in order of time, and the number of skipped lines by reason."""

    decisions: list[Decision] = field(default_factory=list)
    files: int = 0
    lines: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


def read_feedback(path: Path, since: float | None = None) -> Decisions:
    """Return the decisions in a file or a folder's ``feedback-*.jsonl``, from ``since`` (seconds) on.

    Invalid lines are counted by reason. Raises :class:`DataError` if a file cannot be read.
    """
    result = Decisions()
    files = sorted(path.glob(FILES)) if path.is_dir() else [path]
    if not files:
        raise DataError(
            f"{path}: a feedback folder must hold {FILES}, found none; serve with --feedback {path}",
            rule="no-file",
        )
    for file in files:
        try:
            with file.open("rb") as lines:
                _read_lines(lines, since, result)
        except OSError as error:
            raise DataError(
                f"{file}: cannot be read: {error.strerror}; check it", rule="unreadable"
            ) from None
        result.files += 1
    result.decisions.sort(key=lambda decision: decision.seconds)
    return result


def _read_lines(lines: Iterable[bytes], since: float | None, result: Decisions) -> None:
    for line in lines:
        result.lines += 1
        if not line.endswith(b"\n"):
            result.skipped["incomplete: the line break is missing"] += 1
            continue
        try:
            decision = Decision.model_validate_json(line)
        except ValidationError as error:
            result.skipped[_reason(error)] += 1
            continue
        if since is not None and decision.seconds < since:
            result.skipped["older than requested"] += 1
        else:
            result.decisions.append(decision)


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "not JSON"
    field_ = ".".join(str(part) for part in first["loc"] if isinstance(part, str))
    return f"not a decision: {field_ or 'line'}: {first['msg']}"


Verdict = Literal["taken", "elsewhere", "refused", "undecided"]


@dataclass(frozen=True)
class FinalDecision:
    """The final verdict on one model's answer for one node, after all decisions on it.

    ``verdict`` is ``taken`` for one of the services shown, ``elsewhere`` for another service,
    ``refused`` if all services shown were refused, and ``undecided`` if only some of them were.
    ``decision`` is the decision that the verdict comes from.
    """

    decision: Decision
    verdict: Verdict

    @property
    def gain(self) -> float:
        """The reciprocal rank of the service taken; 0 if it was not shown or nothing was taken."""
        return 1 / self.decision.rank if self.verdict == "taken" and self.decision.rank else 0.0


def final_decisions(decisions: Iterable[Decision]) -> list[FinalDecision]:
    """Return the final decision for each extended node and model, in order of their first decisions.

    A service that is taken replaces the one taken before, until it is refused.
    """
    groups: dict[object, list[Decision]] = {}
    for decision in decisions:
        groups.setdefault((decision.subject, decision.model, decision.version), []).append(decision)
    return [_final_decision(group) for group in groups.values()]


def _final_decision(group: Sequence[Decision]) -> FinalDecision:
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
        return FinalDecision(taken, "elsewhere" if taken.rank is None else "taken")
    last = group[-1]
    return FinalDecision(last, "refused" if refused.issuperset(last.shown) else "undecided")


def summarise(finals: Iterable[FinalDecision]) -> dict[str, Any]:
    """Return the counts of the verdicts, and hit rate, accuracy at 1 and MRR over the decided answers.

    Each rate has its 95 % interval (Wilson's for the shares, the bootstrap's for the MRR). A rate is
    None if nothing is decided.
    """
    counts: Counter[str] = Counter(taken=0, elsewhere=0, refused=0, undecided=0)
    gains: Counter[float] = Counter()
    for final in finals:
        counts[final.verdict] += 1
        if final.verdict != "undecided":
            gains[final.gain] += 1
    n = gains.total()
    return {
        "decided": n,
        **counts,
        "hit_rate": wilson(n - gains[0.0], n),
        "accuracy@1": wilson(gains[1.0], n),
        "mrr": _mean(gains),
    }


def by_model(finals: Iterable[FinalDecision]) -> list[dict[str, Any]]:
    """Return the :func:`summarise` for each model of each bundle."""
    groups: dict[tuple[str, str], list[FinalDecision]] = {}
    for final in finals:
        groups.setdefault((final.decision.version, final.decision.model), []).append(final)
    return [
        {"model": model, "version": version, **summarise(group)}
        for (version, model), group in sorted(groups.items())
    ]


def wilson(successes: int, n: int) -> dict[str, float] | None:
    """Return the share of n with Wilson's score interval (1927), which lies within [0, 1].

    None if n is 0.
    """
    if not n:
        return None
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(LEVEL, method="wilson")
    return {"mean": successes / n, "low": float(interval.low), "high": float(interval.high)}


def _mean(values: Counter[float]) -> dict[str, float] | None:
    """Return the mean of counted values with its bootstrap percentile interval; None without values."""
    n = values.total()
    if not n:
        return None
    distinct = np.array(sorted(values), dtype=np.float64)
    counts = np.array([values[value] for value in distinct.tolist()], dtype=np.float64)
    # The counts of the distinct values in a bootstrap sample of size n are multinomial.
    means = np.random.default_rng(0).multinomial(n, counts / n, size=BOOTSTRAP_DRAWS) @ distinct / n
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return {"mean": float(counts @ distinct / n), "low": float(low), "high": float(high)}


def training_documents(finals: Iterable[FinalDecision]) -> Iterator[dict[str, Any]]:
    """Yield one composition in native JSON for each extended node: its path and the service taken.

    There is one composition even if several models answered, and none for a service that was taken
    after an empty path.
    """
    seen: set[object] = set()
    for final in finals:
        decision = final.decision
        taken = final.verdict in ("taken", "elsewhere")
        if not taken or not decision.path or decision.subject in seen:
            continue
        seen.add(decision.subject)
        path = [*decision.path, PathNode(key=decision.service or "", kind="service")]
        nodes = [{"id": f"n{i}", **node.model_dump()} for i, node in enumerate(path)]
        parts = [decision.request_id, str(decision.item)]
        parts += [] if decision.at is None else [decision.at]
        yield {
            "id": "-".join(["feedback", *parts]),
            "time": decision.time,
            "nodes": nodes,
            "links": [{"source": a["id"], "target": b["id"]} for a, b in pairwise(nodes)],
        }
