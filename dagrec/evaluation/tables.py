"""The tables of a result: the models with their intervals, and their differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagrec.display import Table

SHOWN = ("accuracy", "hr@5", "mrr", "ndcg@10", "macro_f1", "nll")
"""Metrics in the table; the JSON has all of them."""


def result_tables(result: Mapping[str, Any], against: str | None = None) -> list[Table]:
    """The models beside the reference lines, and, where there are several, their differences.

    Differences are shown to the model ``against``, or to the most accurate one; the JSON has them all.
    """
    rows = []
    for label, model in result["models"].items():
        metrics = model["metrics"]
        cells = [f"{metrics[m]['mean']:.3f}±{_half_width(metrics[m])}" for m in SHOWN]
        rows.append([label, *cells, f"{model['seconds']['fit']:.2f}"])
    reference = result["reference"]
    for name in ("random", "popularity"):
        rows.append([f"({name})", *(f"{reference[name][m]:.3f}     " for m in SHOWN), ""])
    mask = result["mask"] if isinstance(result["mask"], str) else "by variant"
    title = (
        f"{result['data']['path']}: protocol {result['protocol']}, mask {mask}, "
        f"{result['repeats']} repeats, {result['data']['examples']:,} examples"
    )
    notes = [
        f"± is half the interval ({result['interval']}). In brackets: equal scores, and frequencies, "
        "under the same mask.",
        f"The mask allows {reference['ceiling']:.3f} of the targets; "
        f"{reference['unseen_links']:.3f} of the links were never seen in training.",
        "Best possible accuracy of a function of the context: "
        f"{reference['oracle_context']:.3f}; of context and owner: "
        f"{reference['oracle_context_owner']:.3f}.",
    ]
    tables = [Table(title, ["model", *SHOWN, "fit s"], rows, notes=notes)]
    if result["comparisons"]:
        tables.append(_differences(result, against))
    return tables


def _differences(result: Mapping[str, Any], against: str | None) -> Table:
    models = result["models"]
    anchor = against or max(models, key=lambda label: models[label]["metrics"]["accuracy"]["mean"])
    rows = []
    for row in result["comparisons"]:
        if anchor not in (row["a"], row["b"]):
            continue
        sign = 1 if row["b"] == anchor else -1
        low, high = sorted((sign * row["low"], sign * row["high"]))
        rows.append(
            [
                row["a"] if sign == 1 else row["b"],
                row["metric"],
                f"{sign * row['difference']:+.3f}",
                f"{low:+.3f} .. {high:+.3f}",
                f"{row['p_holm']:.3f}",
                "yes" if row["resolved"] else "no",
            ]
        )
    columns = ["model", "metric", "difference", "interval", "p (Holm)", "resolved"]
    return Table(f"difference to {anchor}", columns, rows)


def _half_width(estimate: Mapping[str, float]) -> str:
    """Half the interval, without the zero in front of the point."""
    return f"{(estimate['high'] - estimate['low']) / 2:.3f}".removeprefix("0")
