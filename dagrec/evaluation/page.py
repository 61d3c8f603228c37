"""A self-contained HTML report of a result, with tables, plots and the configuration."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dagrec.errors import DagrecError
from dagrec.evaluation.plots import report_plots

METRICS = (
    "accuracy", "hr@3", "hr@10", "mrr", "ndcg@10", "ndcg", "macro_f1", "coverage", "nll", "brier", "ece"
)  # fmt: skip
STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .2em .7em; text-align: right }
td:first-child, th:first-child { text-align: left } thead { border-bottom: 1px solid #888 }
img { max-width: 100%; display: block; margin: 1em 0 } .no { color: #777 } .yes { font-weight: bold }
small { color: #666 } pre { background: #f4f4f4; padding: 1em; overflow: auto }
"""


def write_page(result: Mapping[str, Any], folder: Path) -> Path:
    """Write the report and its plots to a folder, and return the path of ``index.html``.

    Raises :class:`DagrecError` if they cannot be written.
    """
    images = report_plots(result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            (folder / name).write_bytes(image)
        page = folder / "index.html"
        page.write_text(render(result, images), encoding="utf-8")
    except OSError as error:
        raise DagrecError(
            f"{folder}: a report cannot be written there: {error.strerror}; choose another folder"
        ) from None
    return page


def render(result: Mapping[str, Any], images: Mapping[str, bytes]) -> str:
    """Return the HTML of the report, with inline images."""
    reference = result["reference"]
    setup = (
        f"{result['data']['compositions']:,} compositions, {result['data']['examples']:,} examples "
        f"({result['data']['form']}); protocol {result['protocol']}, mask {result['mask']}, "
        f"{result['repeats']} repeats, every "
        f"{result['weight'].removesuffix('s')} has the same weight. Intervals: {result['interval']}."
    )
    limits = (
        f"The mask allows {reference['ceiling']:.4f} of the targets; "
        f"{reference['unseen_links']:.4f} of the links do not occur in training. Best possible "
        f"accuracy of a function of the path: {reference['oracle_path']:.4f}; of path, upstream DAG "
        f"and existing children: {reference['oracle_context']:.4f}; of these and the owner: "
        f"{reference['oracle_context_owner']:.4f}."
    )
    inline = "\n".join(
        f'<img alt="{name}" src="data:image/png;base64,{base64.b64encode(image).decode()}">'
        for name, image in images.items()
    )
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in result["warnings"])
    origin = {key: value for key, value in result.items() if key in ("data", "test", "seed", "config")}
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>dagrec: {escape(result["data"]["path"])}</title>
<style>{STYLE}</style></head><body>
<h1>{escape(result["data"]["path"])}</h1>
<p>{escape(setup)}</p>
{_table(["model", *METRICS, "band", "fit s", "score s", "parameters", "cosine"], _models(result))}
<p>Band: the 95 % quantile of the ECE of a perfectly calibrated model on these examples.
Cosine: mean cosine of the service embeddings, if the model has them; 1: all have the same
direction.</p> <p>{escape(limits)}</p> <ul>{warnings}</ul> <h2>Differences in accuracy</h2> <p>Row minus
column, with p-values adjusted by Holm's method; bold: significant.</p> {_matrix(result)} <h2>Plots</h2>
{inline} <h2>Configuration</h2> <pre>{escape(json.dumps(origin, indent=1))}</pre> </body></html>
"""


def _models(result: Mapping[str, Any]) -> Iterable[Sequence[str]]:
    for label, model in result["models"].items():
        metrics = [model["metrics"][metric] for metric in METRICS]
        cells = [f"{m['mean']:.4f} <small>[{m['low']:.3f}, {m['high']:.3f}]</small>" for m in metrics]
        seconds, cosine, band = model["seconds"], model["service_cosine"], model["ece_band"]
        yield [
            escape(label),
            *cells,
            "" if band is None else f"{band:.3f}",
            f"{seconds['fit']:.2f}",
            f"{seconds['score']:.2f}",
            f"{model['parameters']:,}",
            "" if cosine is None else f"{cosine:.3f}",
        ]
    for name in ("random", "popularity"):
        line = result["reference"][name]
        yield [f"<i>{name}</i>", *(f"{line[metric]:.4f}" for metric in METRICS), *5 * [""]]


def _matrix(result: Mapping[str, Any]) -> str:
    labels = list(result["models"])
    cells: dict[tuple[str, str], str] = {}
    for row in result["comparisons"]:
        if row["metric"] == "accuracy":
            css_class = "yes" if row["resolved"] else "no"
            for a, b, sign in ((row["a"], row["b"], 1), (row["b"], row["a"], -1)):
                difference = f"{sign * row['difference']:+.3f} (p {row['p_holm']:.3f})"
                cells[a, b] = f'<span class="{css_class}">{difference}</span>'
    rows = [[escape(a), *(cells.get((a, b), "") for b in labels)] for a in labels]
    return _table(["", *map(escape, labels)], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    columns = "".join(f"<th>{name}</th>" for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{columns}</tr></thead><tbody>\n{body}\n</tbody></table>"
