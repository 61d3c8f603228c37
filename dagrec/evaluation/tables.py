"""Tables of a result: the models with their intervals, and the differences between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagrec.output.tables import Table

METRICS = ("accuracy", "hr@5", "mrr", "ndcg@10", "macro_f1", "nll")
"""The metrics in the table; the JSON has all of them."""


def result_tables(result: Mapping[str, Any], against: str | None = None) -> list[Table]:
    """Return a table of the models and the reference lines, and one of differences between the models.

    The differences are those to the model ``against``, by default the most accurate one; the JSON has
    all.
    """
    rows = []
    for label, model in result["models"].items():
        metrics = model["metrics"]
        cells = [f"{metrics[m]['mean']:.3f}±{_half_width(metrics[m])}" for m in METRICS]
        rows.append([label, *cells, f"{model['seconds']['fit']:.2f}"])
    reference = result["reference"]
    for name in ("random", "popularity"):
        rows.append([f"({name})", *(f"{reference[name][m]:.3f}     " for m in METRICS), ""])
    mask = result["mask"] if isinstance(result["mask"], str) else "by variant"
    title = (
        f"{result['data']['path']}: protocol {result['protocol']}, mask {mask}, "
        f"{result['repeats']} repeats, {result['data']['examples']:,} examples "
        f"({result['data']['form']})"
    )
    notes = [
        f"± is half the interval ({result['interval']}). In brackets: equal scores and popularity, "
        "under the same mask.",
        f"The mask allows {reference['ceiling']:.3f} of the targets; "
        f"{reference['unseen_links']:.3f} of the links do not occur in training.",
        f"Best possible accuracy of a function of the path: {reference['oracle_path']:.3f}; of path, "
        f"upstream DAG and existing children: {reference['oracle_context']:.3f}; of these and the "
        f"owner: {reference['oracle_context_owner']:.3f}.",
    ]
    tables = [Table(title, ["model", *METRICS, "fit s"], rows, notes=notes)]
    if result["comparisons"]:
        tables.append(_differences(result, against))
    return tables


def _differences(result: Mapping[str, Any], against: str | None) -> Table:
    models = result["models"]
    baseline = against or max(models, key=lambda label: models[label]["metrics"]["accuracy"]["mean"])
    rows = []
    for row in result["comparisons"]:
        if baseline not in (row["a"], row["b"]):
            continue
        sign = 1 if row["b"] == baseline else -1
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
    return Table(f"difference to {baseline}", columns, rows)


def _half_width(estimate: Mapping[str, float]) -> str:
    """Half of the interval, without the leading zero."""
    return f"{(estimate['high'] - estimate['low']) / 2:.3f}".removeprefix("0")
